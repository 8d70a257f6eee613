"""A compile-time stand-in for CANN, so that torchair's compiler loads on a machine without an NPU.

torch_npu's shared objects call functions of Huawei's CANN, which ordinary machines do not have, so a plain
`import torch_npu` fails there. torchair turns an FX graph into a GE graph in Python, before it calls any of
them. So this module gives the dynamic linker what it asks for: a library in which every missing function
exists and returns 0, compiled on the spot from the symbol tables of the installed wheel.

It is not an emulator: nothing runs on an NPU. One device is visible, so that fake tensors can lie on it; every
other call that would have to answer something answers 0. Loading it also changes torch in this process for good
(torchair replaces some meta functions and decompositions), so commands that lower do nothing else.
"""

import ctypes
import hashlib
import importlib.util
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import version
from pathlib import Path

from ssd_graph.cli import InputError
from ssd_graph.compilers.ascend import require_torch_npu, same_signal_handlers
from ssd_graph.files import cached_folder

CANN_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
"""Set by CANN's own set_env.sh."""

_ONE_NPU = """
#include <stdint.h>
#include <string.h>
int aclrtGetDeviceCount(uint32_t *count) { *count = 1; return 0; }
int aclrtGetDevice(int32_t *device) { *device = 0; return 0; }
const char *aclrtGetSocName(void) { return "Ascend910B1"; }
size_t aclGetCompileoptSize(int option) { return 1; }
int aclGetCompileopt(int option, char *value, size_t size) { memset(value, 0, size); return 0; }
int aclrtCreateStreamWithConfig(void **stream, uint32_t priority, uint32_t flag) { *stream = stream; return 0; }
int aclrtGetSysParamOpt(int option, int64_t *value) { *value = 0; return 0; }
"""
"""What is asked of CANN before a tensor can be said to lie on an NPU; the SoC is overridden in a capture."""

_LOOKED_UP = ("aclSetCompileopt", "aclrtDestroyStreamForce", "aclrtSetDeviceSatMode", "aclrtSetOpExecuteTimeOut")
"""Functions that torch_npu asks for by name, in libraries of its choice, and cannot start without."""

_FUNCTIONS_LIBRARY = "libascendcl.so"
"""The library that gets all functions; the others are there only to be found."""


@cache
def load_stand_in() -> None:
    """Import torch_npu and torchair over a library of functions that all return 0; once a process.

    Raises:
        InputError: a real CANN is installed, torch_npu cannot be imported here, or there is no C compiler.
    """
    _refuse_real_cann()
    require_torch_npu()
    if importlib.util.find_spec("elftools") is None:
        raise InputError("pyelftools is not installed; run `pip install 'ssd_graph[npu]'`")
    libraries = sorted(_package_folder().rglob("*.so"))
    sonames = missing_libraries(libraries)
    for library in _build(c_source(missing_symbols(libraries, sonames)), [*sonames, _FUNCTIONS_LIBRARY]):
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    # What torch_npu prints while it loads goes to stderr, its warnings nowhere.
    with redirect_stdout(sys.stderr), warnings.catch_warnings(action="ignore"), same_signal_handlers():
        try:
            import torch_npu  # noqa: F401  # pyright: ignore[reportMissingImports]
            import torchair  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise InputError(f"torchair does not load ({error}); run `pip install 'ssd_graph[npu]'`") from error


def missing_libraries(libraries: Iterable[Path]) -> list[str]:
    """Names that `libraries` are linked to and that neither they nor the system provide."""
    libraries = list(libraries)
    needed = {name for library in libraries for name in _needed(library)} - {path.name for path in libraries}
    return sorted(name for name in needed if not _loads(name))


def missing_symbols(libraries: Iterable[Path], missing: Iterable[str]) -> list[str]:
    """Symbols that `libraries` leave undefined and that neither they, torch nor the system define.

    Args:
        missing: libraries not to look in, see `missing_libraries`.
    """
    libraries, own, undefined = list(libraries), set[str](), set[str]()
    for library in libraries:
        for symbol, defined in _symbols(library):
            (own if defined else undefined).add(symbol)
    names = {name for library in libraries for name in _needed(library)}
    names -= {path.name for path in libraries} | set(missing)
    # torch's libraries are loaded already, so the linker finds them by name as well as the system's.
    present = [ctypes.CDLL(None), *(ctypes.CDLL(name) for name in sorted(names))]
    return sorted(s for s in undefined - own if not any(hasattr(library, s) for library in present))


def c_source(symbols: Iterable[str]) -> str:
    """C code in which every one of `symbols` is a function that returns 0, but for those that answer for one NPU."""
    others = sorted({*symbols, *_LOOKED_UP} - set(re.findall(r"\w+(?=\()", _ONE_NPU)))
    return _ONE_NPU + "".join(f"long {symbol}(void) {{ return 0; }}\n" for symbol in others)


def _refuse_real_cann() -> None:
    for variable in CANN_VARIABLES:
        if os.environ.get(variable):
            raise InputError(
                f"a real CANN is installed here ({variable} is set), which the stand-in would hide: train "
                f"with --npus 1, or unset {variable} to look at the graph only"
            )
    if _loads(_FUNCTIONS_LIBRARY):
        raise InputError(
            f"a real CANN is installed here ({_FUNCTIONS_LIBRARY} loads), which the stand-in would hide: "
            "train with --npus 1, or take CANN out of LD_LIBRARY_PATH to look at the graph only"
        )


def _package_folder() -> Path:
    spec = importlib.util.find_spec("torch_npu")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


def _needed(library: Path) -> list[str]:
    """Names of the libraries that `library` is linked to."""
    from elftools.elf.dynamic import DynamicSection  # pyright: ignore[reportMissingImports]
    from elftools.elf.elffile import ELFFile  # pyright: ignore[reportMissingImports]

    with library.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".dynamic")
        assert isinstance(section, DynamicSection), library
        tags = section.iter_tags("DT_NEEDED")
        return [tag.needed for tag in tags]  # pyright: ignore[reportAttributeAccessIssue]


def _symbols(library: Path) -> Iterator[tuple[str, bool]]:
    """(name, whether it is defined there) of each dynamic symbol; weak ones may stay undefined."""
    from elftools.elf.elffile import ELFFile  # pyright: ignore[reportMissingImports]
    from elftools.elf.sections import SymbolTableSection  # pyright: ignore[reportMissingImports]

    with library.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".dynsym")
        assert isinstance(section, SymbolTableSection), library
        for symbol in section.iter_symbols():
            defined = symbol["st_shndx"] != "SHN_UNDEF"
            if symbol.name and (defined or symbol["st_info"]["bind"] != "STB_WEAK"):
                yield symbol.name, defined


def _loads(soname: str) -> bool:
    try:
        ctypes.CDLL(soname)
    except OSError:
        return False
    return True


def _build(source: str, sonames: Iterable[str]) -> list[Path]:
    """Compiled libraries, from the cache if the same ones were built before."""
    sonames = sorted(set(sonames))
    key = hashlib.sha256("\n".join([platform.machine(), *sonames, source]).encode()).hexdigest()[:12]

    def compile_all(folder: Path) -> None:
        for soname in sonames:
            _compile(source if soname == _FUNCTIONS_LIBRARY else c_source(()), folder / soname)

    folder = cached_folder(f"cann-stand-in-{version('torch_npu')}-{key}", compile_all)
    return [folder / soname for soname in sonames]


def _compile(source: str, library: Path) -> None:
    flags = ["-shared", "-fPIC", f"-Wl,-soname,{library.name}", "-o", str(library), "-x", "c", "-"]
    try:
        subprocess.run(["cc", *flags], input=source, text=True, capture_output=True, check=True)
    except OSError as error:
        raise InputError("no C compiler: install one that answers to `cc`, e.g. gcc") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.splitlines() or ["no message"])[0]
        raise InputError(f"the C compiler cannot build {library.name}: {reason}; see `cc --version`") from error
