"""What a figure was measured with: processor and versions."""

import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import ssd_graph

_PACKAGES = ("hotcoco", "pycocotools", "faster-coco-eval", "numpy", "pillow")

_INSTRUCTIONS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
"""Those that choose onnxruntime's kernels, by Linux's names."""


def versions() -> dict[str, str]:
    """Versions of what decides detections and scores, by package; packages that are not installed are left out."""
    import onnxruntime

    return {
        "ssd_graph": ssd_graph.__version__,
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        **package_versions(_PACKAGES),
    }


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions by package, without those that are not installed."""
    found = {}
    for name in names:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def processor() -> str:
    """The processor's name and instruction sets as Linux gives them, elsewhere Python's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((values.get("flags") or values.get("Features") or "").split())
    # ARM's kernel gives numbers for a name: 0x48 and 0xd01 are a Kunpeng 920.
    part = " ".join(values[key] for key in ("CPU implementer", "CPU part") if key in values)
    name = values.get("model name") or f"{platform.machine()} {part}".rstrip()
    return " ".join([name, *(i for i in _INSTRUCTIONS if i in flags)])
