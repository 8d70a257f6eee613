"""What can be known of a GPU without one: the kernels that inductor makes of the step.

`stand_in` answers what inductor asks the device, `lower` stops inductor when its kernels are written, `kernels`
counts them, `machine_code` assembles them, `replay` executes them on a CPU. Nothing here is a measurement.
"""
