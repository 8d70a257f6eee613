"""A training step to compare with, and how far another one's results are from it."""

import torch
from torch.linalg import vector_norm

from ssd_graph.graph.model import SSD300


def clone(tensors):
    """A copy of a named tuple of tensors."""
    return type(tensors)(*(t if t is None else t.clone() for t in tensors))


def start(step, config, amp):
    """An initial state whose momentum and BN statistics are not the trivial ones."""
    torch.manual_seed(0)
    state = step.layout.load(SSD300(config).state_dict(), loss_scale=128.0 if amp == "fp16" else 1.0)
    state.momentum.normal_(std=1e-4)
    state.bn_statistics.add_(torch.rand_like(state.bn_statistics), alpha=0.1)
    return state


def positions(state, inputs):
    """Where a graph's inputs are the state's tensors, by field; some counters only a dynamic loss scale needs."""
    addresses = [i.data_ptr() for i in inputs]
    fields = {name: tensor.data_ptr() for name, tensor in state._asdict().items() if tensor is not None}
    return {name: addresses.index(address) for name, address in fields.items() if address in addresses}


def error(a, b):
    """The larger of |a - b| / |b| in the Euclidean and the maximum norm; of zeros only zeros are none, NaN is inf."""
    a, b = a.double(), b.double()
    norms = [vector_norm(a - b, p) / vector_norm(b, p).clamp_min(1e-30) for p in (2, float("inf"))]
    return float(torch.stack(norms).max().nan_to_num(float("inf")))  # Python's max passes over a NaN


def worst_errors(layout, metrics, state, expected_metrics, expected_state):
    """The worst `error` of any metric and any named tensor, by kind."""

    def tensors(field, of):
        flat = getattr(of, field)
        return (
            layout.split_buffers(flat) if field == "bn_statistics" else layout.split_parameters(flat, flat.dtype).named
        )

    errors = {"metrics": max(map(error, metrics, expected_metrics))}
    for field in ("parameters", "momentum", "bn_statistics"):
        ours, theirs = tensors(field, state), tensors(field, expected_state)
        errors[field] = max(error(ours[name], theirs[name]) for name in theirs)
    return errors
