"""What Ascend publishes about the operators of our graphs: declarations and kernels, from operators.json.

The file names its sources: declarations and kernel tables of CANN 8.1, newer tables in the graph engine's own tests,
kernel definitions of CANN 9.1, the engine's rules. It holds facts only.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from ssd_graph.npu.capture import Soc


class Parameter(msgspec.Struct, array_like=True, frozen=True):
    """An input or output as declared."""

    name: str
    need: Literal["required", "optional", "dynamic"]
    """A dynamic one stands for any number of tensors of one type."""
    types: tuple[str, ...] | str
    """A rule instead of types is the declaration's own name for them, e.g. `promote T1 T2`."""


class Attribute(msgspec.Struct, array_like=True, frozen=True):
    """An attribute as declared."""

    kind: str
    default: str
    """`required` is none."""
    choices: tuple[str, ...] = ()
    """Of a String; empty takes all."""
    length: int | None = None
    """Of a list."""
    least: int | None = None
    """Of an Int, and of each number of a list."""


class HostKernel(msgspec.Struct, frozen=True):
    """A kernel on the AI CPU, the NPU's slow host processor."""

    library: str
    inputs: tuple[tuple[str, ...], ...] = ()
    """Types of each; empty takes all."""


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """What runs an operator on one SoC."""

    engine: str
    """`AI Core`; `host`, which takes no time of the device; `HCCL`; `removed by PASS` in favour of `kernel`; `none`."""
    dtypes: tuple[tuple[str | None, ...], ...] = ()
    """The columns of the kernel's table: a type for each input and output; None is any."""
    formats: Literal["any"] | tuple[tuple[str, ...], ...] = ()
    """The same for formats; `any` takes what comes, and empty is the format of the graph, NCHW or ND."""
    order: tuple[str, ...] = ()
    """The kernel's inputs, where they have another order than the declared ones."""
    pairs: Mapping[str, tuple[str, ...]] = {}
    """Results by type of the input, of a Cast."""
    kernel: str = ""
    cpu: HostKernel | None = None


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of node."""

    inputs: tuple[Parameter, ...]
    outputs: tuple[Parameter, ...]
    attributes: Mapping[str, Attribute]
    attributes_of_81: tuple[str, ...] | None = msgspec.field(default=None, name="attributes_8.1")
    """Those that CANN 8.1 knows, where newer ones know more."""
    enforced: tuple[str, ...] = ()
    """Inputs whose types the engine compares with the declaration."""
    experimental: bool = False
    deprecated: bool = False
    a2: Kernel
    ascend950: Kernel = msgspec.field(name="950")

    def kernel(self, soc: Soc) -> Kernel:
        """Of Atlas A2 or Ascend 950."""
        return self.a2 if soc == "a2" else self.ascend950


Facts = Mapping[str, Operator]
"""By the kind of a node."""


class _File(msgspec.Struct):
    operators: dict[str, Operator]


def shipped_facts() -> Facts:
    """The published ones."""
    path = Path(__file__).with_name("operators.json")
    return msgspec.json.decode(path.read_bytes(), type=_File).operators
