"""What can be known of a GPU without one: the kernels that inductor makes of the step.

`stand_in` answers what inductor asks the device, `lower` stops inductor when its kernels are written, `kernels`
counts them. Nothing here is a measurement.
"""
