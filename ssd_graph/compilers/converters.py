"""Mends torchair where its compiler makes a wrong graph of a right step, and chooses kernels that fit together.

torchair 2.13.0 lowers training-mode batch normalisation to one BatchNormV3, whose outputs are y, running mean,
running variance, saved mean and saved deviation, and hands them on in that order, while the aten operation
returns the saved ones first. The backward pass would read running statistics, and the running statistics would
become those of the last batch.
"""

from typing import Any

import torch

GeTensor = Any
"""A value in torchair's graph."""


def register_converters() -> None:
    """Replace torchair's converters; call it after torch_npu's import."""
    import torchair  # pyright: ignore[reportMissingImports]
    from torchair._ge_concrete_graph import ge_apis as ge  # pyright: ignore[reportMissingImports]
    from torchair._ge_concrete_graph.utils import (  # pyright: ignore[reportMissingImports]
        dtype_promote,
        specific_op_input_layout,
        specific_op_output_layout,
    )
    from torchair._utils.check_platform import is_arch35  # pyright: ignore[reportMissingImports]

    @torchair.register_fx_node_ge_converter(torch.ops.aten._native_batch_norm_legit_functional.default)
    def _(
        input: GeTensor,
        weight: GeTensor,
        bias: GeTensor,
        running_mean: GeTensor,
        running_var: GeTensor,
        training: bool,
        momentum: float,
        eps: float,
        meta_outputs: object = None,
    ) -> tuple[GeTensor, ...]:
        assert training
        assert momentum == 1.0  # what comes out as running statistics is the batch's, see resnet.BatchNorm2d
        if is_arch35():
            y, mean, variance, saved_mean, saved_deviation = ge.BatchNormV3(
                input, weight, bias, running_mean, running_var, epsilon=eps, momentum=momentum, is_training=True
            )
            specific_op_input_layout(y, indices=0, layout="NCHW")
            specific_op_output_layout(y, indices=0, layout="NCHW")
            return y, saved_mean, saved_deviation, mean, variance
        # Atlas A2 has BatchNormV3 in NCHW only, but convolutions in NC1HWC0, as these two and their gradients are.
        total, total_of_squares = ge.BNTrainingReduce(input)
        specific_op_input_layout(total, indices=0, layout="NCHW")
        specific_op_output_layout(total, indices=[0, 1], layout="NCHW")
        y, mean, variance, saved_mean, saved_variance = ge.BNTrainingUpdateV3(
            input, total, total_of_squares, weight, bias, epsilon=eps
        )
        specific_op_input_layout(y, indices=list(range(5)), layout="NCHW")
        specific_op_output_layout(y, indices=list(range(5)), layout="NCHW")
        return y, saved_mean, saved_variance, mean, variance

    @torchair.register_fx_node_ge_converter(torch.ops.aten.mul.Tensor)
    def _(self: GeTensor, other: GeTensor, meta_outputs: GeTensor = None) -> GeTensor:
        # torchair's own converter adds a Cast of the product to the type that it has.
        return ge.Mul(*dtype_promote(self, other, target_dtype=meta_outputs.dtype))
