"""Mends torchair where its compiler makes a wrong graph of a right step.

torchair 2.13.0 lowers training-mode batch normalisation to one BatchNormV3, whose outputs are y, running mean,
running variance, saved mean and saved deviation, and hands them on in that order, while the aten operation
returns the saved ones first. The backward pass would read running statistics, and the running statistics would
become those of the last batch.
"""

from __future__ import annotations

from typing import Any

import torch

GeTensor = Any
"""A value in torchair's graph."""


def register_converters() -> None:
    """Replace torchair's converter of training-mode batch normalisation; call it after torch_npu's import."""
    import torchair  # pyright: ignore[reportMissingImports]
    from torchair._ge_concrete_graph import ge_apis as ge  # pyright: ignore[reportMissingImports]
    from torchair._ge_concrete_graph.utils import (  # pyright: ignore[reportMissingImports]
        specific_op_input_layout,
        specific_op_output_layout,
    )

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
        # BatchNormV3 writes into the statistics it is given. The engine may make the pieces of state.py's split views
        # of the state itself, which a skipped step must leave as it was; it removes an Identity, but no TensorMove.
        running_mean, running_var = ge.TensorMove(running_mean), ge.TensorMove(running_var)
        y, new_mean, new_var, saved_mean, saved_deviation = ge.BatchNormV3(
            input, weight, bias, running_mean, running_var, epsilon=eps, momentum=momentum, is_training=True
        )
        specific_op_input_layout(y, indices=0, layout="NCHW")
        specific_op_output_layout(y, indices=0, layout="NCHW")
        return y, saved_mean, saved_deviation, new_mean, new_var
