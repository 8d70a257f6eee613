"""What Triton and NVIDIA's assembler make of inductor's kernels: machine code for an H100, made without one."""

import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ssd_graph.gpu.code import loaded
from ssd_graph.gpu.stand_in import stand_in


class Binary(NamedTuple):
    """One kernel with one choice of block sizes; inductor tries several on the device and keeps the fastest."""

    kernel: str
    blocks: str
    registers: int
    """A thread's."""
    spilled_bytes: int
    """Of a thread's memory outside registers."""


@dataclass(frozen=True, slots=True)
class MachineCode:
    """All kernels of a graph."""

    binaries: tuple[Binary, ...]
    seconds: float
    """That compiling took, on one core."""

    def to_json(self) -> dict[str, Any]:
        """The numbers, as JSON takes them."""
        return {
            "kernels": len({binary.kernel for binary in self.binaries}),
            "binaries": len(self.binaries),
            "most_registers": max(binary.registers for binary in self.binaries),
            "spilling": [binary._asdict() for binary in self._spilling],
            "seconds": round(self.seconds, 1),
        }

    def table(self) -> str:
        """The numbers for people."""
        numbers = self.to_json()
        rows = [
            "machine code    {kernels:,} different kernels, {binaries:,} binaries, {seconds} s".format(**numbers),
            "registers       {most_registers} a thread at most".format(**numbers),
            f"spilling        {len(self._spilling)} of the binaries",
            *(f"{binary.spilled_bytes:8,} bytes  {binary.blocks}: {binary.kernel}" for binary in self._spilling),
        ]
        return "\n".join(rows)

    @property
    def _spilling(self) -> Sequence[Binary]:
        return [binary for binary in self.binaries if binary.spilled_bytes]


def assemble(code: str) -> MachineCode:
    """Compile each kernel in inductor's code, with each choice of blocks that inductor would try."""
    from torch._inductor import config
    from triton import knobs  # pyright: ignore[reportMissingImports]

    start = time.perf_counter()
    with (
        stand_in(),
        config.patch(use_static_cuda_launcher=False),
        loaded(code) as names,
        tempfile.TemporaryDirectory() as cache,
        knobs.cache.scope(),
    ):
        knobs.cache.dir = cache  # an empty one, or the seconds would tell what was compiled before
        kernels = {name: kernel for name, kernel in names.items() if hasattr(kernel, "_precompile_config")}
        binaries = tuple(_binary(name, kernel, blocks) for name, kernel in kernels.items() for blocks in kernel.configs)
    return MachineCode(binaries, time.perf_counter() - start)


def _binary(name: str, kernel: Any, blocks: Any) -> Binary:
    usage = _resources(kernel._precompile_config(blocks).kernel.asm["cubin"])
    sizes = ", ".join(f"{name} {size}" for name, size in blocks.kwargs.items())
    return Binary(name, f"{sizes}, {blocks.num_warps} warps", usage["REG"], usage["STACK"] + usage["LOCAL"])


def _resources(cubin: bytes) -> dict[str, int]:
    """What NVIDIA's cuobjdump, which comes with Triton, says of the one function in a binary."""
    from triton import knobs  # pyright: ignore[reportMissingImports]

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    (line,) = (line for line in text.splitlines() if "REG:" in line)
    return {name: int(number) for name, _, number in (word.partition(":") for word in line.split())}
