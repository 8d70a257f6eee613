"""What can be proved about Ascend NPUs without one: the graph that torchair's compiler makes of the step.

`stand_in` loads torch_npu and torchair where no CANN is installed, `capture` catches the graphs that
torchair makes, `lower` counts what is in them. Everything here says that a step lowers; nothing runs on an
NPU, and nothing is said about speed, memory or numerics of a device.
"""
