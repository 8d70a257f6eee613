"""A node of a captured GE graph: its attributes, and the types that GE gives names and numbers."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssd_graph.npu.capture import Soc

Result = Tensor | tuple[Tensor | None, ...]
"""An operator's output, or its outputs in order; None for one that has no value in this use of it."""

AllReduce = Callable[[Tensor], Tensor]
"""The sum over all ranks of a tensor of this one."""

DTYPES: Mapping[int, torch.dtype] = {
    0: torch.float32,
    1: torch.float16,
    2: torch.int8,
    3: torch.int32,
    4: torch.uint8,
    6: torch.int16,
    7: torch.uint16,
    8: torch.uint32,
    9: torch.int64,
    10: torch.uint64,
    11: torch.float64,
    12: torch.bool,
    27: torch.bfloat16,
}
"""By the number that GE gives a type in attributes."""


def torch_name(name: str) -> str:
    """torch's name of a type that CANN calls `float` or `DT_FLOAT`: `float32`."""
    name = name.removeprefix("DT_").lower()
    return {"float": "float32", "double": "float64", "bf16": "bfloat16"}.get(name, name)


def described_dtype(description: Any) -> torch.dtype | None:
    """Of a tensor's description, whose numbers are others than those in attributes; None if not one of DTYPES."""
    names = description.DESCRIPTOR.fields_by_name["dtype"].enum_type.values_by_number
    dtype = getattr(torch, torch_name(names[description.dtype].name), None)
    return dtype if dtype in DTYPES.values() else None


class UnknownOperator(Exception):
    """A graph holds an operator, or a use of one, that replay has no definition for."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operation of a GE graph, and where it would run."""

    definition: Any
    """torchair's protobuf OpDef."""
    soc: Soc
    all_reduce: AllReduce | None = None
    """None takes every other rank for a copy of this one."""

    def __str__(self) -> str:
        return f"{self.definition.type} {self.definition.name}"

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer; `default` is GE's, for torchair may leave an attribute out. Raises UnknownOperator without."""
        return self._attribute(name, "i", default)

    def real(self, name: str, default: float | None = None) -> float:
        """A floating-point attribute; as `integer`."""
        return self._attribute(name, "f", default)

    def boolean(self, name: str, default: bool | None = None) -> bool:
        """A flag; as `integer`."""
        return self._attribute(name, "b", default)

    def text(self, name: str, default: str | None = None) -> str:
        """A string; as `integer`."""
        return self._attribute(name, "s", None if default is None else default.encode()).decode()

    def integers(self, name: str, default: list[int] | None = None) -> list[int]:
        """A list of integers; as `integer`."""
        value = self._attribute(name, "list", default)
        return value if isinstance(value, list) else list(value.i)

    def constant(self) -> Tensor:
        """The attribute `value`, a tensor."""
        value = self._attribute("value", "t", None)
        if (dtype := described_dtype(value.desc)) is None:
            raise UnknownOperator(f"{self} is of a type that torch does not have")
        flat = torch.frombuffer(bytearray(value.data), dtype=dtype) if value.data else torch.empty(0, dtype=dtype)
        return flat.reshape(list(value.desc.shape.dim))

    def _attribute(self, name: str, field: str, default: Any) -> Any:
        if name in self.definition.attr:
            return getattr(self.definition.attr[name], field)
        if default is None:
            raise UnknownOperator(f"{self} has no attribute {name}, and GE no default for it")
        return default


Operator = Callable[..., Result]
"""Called with a Node and the node's inputs in order, None for an optional one that is not there."""


def pooling_window(node: Node, default: list[int] | None = None) -> list[list[int]]:
    """Size, stride, padding and dilation of a pooling, each [rows, columns]; `default` as in `Node.integers`.

    V1 has four numbers of each, whose outer two say nothing (torchair fills in 1) whatever the layout.
    """
    windows = [node.integers(name, default) for name in ("ksize", "strides", "pads")]
    windows.append(node.integers("dilation", [1] * len(windows[0])))
    return [window[1:3] if len(window) == 4 else window for window in windows]


def widened(x: Tensor) -> Tensor:
    """float32 of a low-precision tensor: GE's kernels for those accumulate in float32 and round once."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def integers(x: Tensor) -> list[int]:
    """The elements of an integer tensor of any shape; of a scalar it makes one."""
    return [operator.index(value) for value in x.reshape(-1).tolist()]
