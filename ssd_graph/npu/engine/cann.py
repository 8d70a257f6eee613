"""Reads the kernel tables of an installed CANN in place of the published ones: what this very toolkit would do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path

import msgspec

from ssd_graph.cli import InputError
from ssd_graph.npu.capture import Soc
from ssd_graph.npu.engine.facts import Facts, HostKernel, Kernel, Operator, Parameter, shipped_facts

FOLDERS: Mapping[Soc, tuple[str, ...]] = {"a2": ("ascend910b", "ascend910_93"), "950": ("ascend950", "ascend910_95")}
"""Names of a SoC's folder; A3 is ascend910_93."""

_TABLES = "built-in/op_impl/ai_core/tbe/config"
_HOST_TABLES = "built-in/op_impl/aicpu"
_NAMES = {"float": "float32", "double": "float64", "bf16": "bfloat16"}
_ATTRIBUTES = {"int": "Int", "float": "Float", "bool": "Bool", "str": "String", "listInt": "ListInt"}

Table = dict[str, dict[str, str]]
"""An operator's entry in a toolkit's json files."""


def installed_facts(directory: Path, soc: Soc) -> Facts:
    """The published facts with the kernels of the toolkit under `directory` (or of its folder opp).

    A kernel whose table leaves types to a program of its own (`dynamicFormat`) keeps the published ones; so do the
    declarations. Kinds that are not published are taken from the tables whole.

    Raises:
        InputError: there are no tables, none for this SoC, or one is damaged.
    """
    opp = _opp(directory)
    folder = _folder(opp / _TABLES, soc)
    kernels = {kind: table for tables in _read(folder.glob("*.json")) for kind, table in tables.items()}
    if not kernels:
        raise InputError(f"{folder} holds no kernel tables (*.json); install CANN's kernels for this card")
    host = _host_kernels(_read((opp / _HOST_TABLES).rglob("*.json")))
    facts = dict(shipped_facts())
    for kind, operator in facts.items():
        kernel = _kernel(kind, operator, operator.kernel(soc), kernels, host)
        facts[kind] = msgspec.structs.replace(operator, **{"a2" if soc == "a2" else "ascend950": kernel})
    facts |= {kind: _operator(kind, table, host) for kind, table in kernels.items() if kind not in facts}
    return facts


def _opp(directory: Path) -> Path:
    candidates = (directory, directory / "opp", directory / "latest" / "opp")
    found = next((opp for opp in candidates if (opp / _TABLES).is_dir()), None)
    if found is None:
        raise InputError(
            f"{directory} has no opp/{_TABLES}; give the folder of a CANN toolkit, "
            "e.g. /usr/local/Ascend/ascend-toolkit/latest"
        )
    return found


def _folder(tables: Path, soc: Soc) -> Path:
    for name in FOLDERS[soc]:
        if (tables / name).is_dir():
            return tables / name
    has = ", ".join(sorted(folder.name for folder in tables.iterdir() if folder.is_dir())) or "none"
    raise InputError(f"{tables} has tables for {has}, and none for --soc {soc} ({' or '.join(FOLDERS[soc])})")


def _read(paths: Iterable[Path]) -> Iterator[dict[str, Table]]:
    """Tables by kind, file by file."""
    for path in sorted(paths):
        try:
            yield msgspec.json.decode(path.read_bytes(), type=dict[str, Table])
        except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no table of kernels ({error}); install this part of CANN again") from error


def _host_kernels(files: Iterable[dict[str, Table]]) -> dict[str, HostKernel]:
    """Of the AI CPU's libraries, the first one's of a kind with the types of all."""
    found: dict[str, HostKernel] = {}
    for kind, table in ((kind, table) for tables in files for kind, table in tables.items()):
        about = table.get("opInfo", {})
        if about.get("engine") != "DNN_VM_AICPU":
            continue
        types = [tuple(_types(p.get("type", ""))) for name, p in _parameters(table) if name.startswith("input")]
        name = "TensorFlow on the AI CPU" if about.get("opKernelLib") == "TFKernel" else "AI CPU"
        if kind in found:
            name, before = found[kind].library, found[kind].inputs
            types = [a + b for a, b in zip_longest(before, types, fillvalue=())]
        found[kind] = HostKernel(name, tuple(types))
    return found


def _kernel(
    kind: str, operator: Operator, known: Kernel, kernels: Mapping[str, Table], host: Mapping[str, HostKernel]
) -> Kernel:
    """The published kernel as this toolkit has it."""
    if known.engine in ("host", "HCCL"):
        return known
    cpu = host.get(kind)
    if known.engine.startswith("removed"):  # by a pass that puts another operator in its place
        missing = known.kernel and known.kernel not in kernels
        return Kernel(engine="none", cpu=cpu) if missing else msgspec.structs.replace(known, cpu=cpu)
    if kind not in kernels:
        return Kernel(engine="none", cpu=cpu)
    names = [p.name for p in (*operator.inputs, *operator.outputs)]
    parameters = [p for _, p in _parameters(kernels[kind])]
    columns = _columns(parameters, "dtype") if len(parameters) == len(names) else ()
    if not columns:
        return msgspec.structs.replace(known, engine="AI Core", cpu=cpu)
    inputs = tuple(p["name"] for p in parameters[: len(operator.inputs)])
    order = inputs if set(inputs) == {p.name for p in operator.inputs} else ()
    return msgspec.structs.replace(known, engine="AI Core", dtypes=columns, order=order, cpu=cpu)


def _operator(kind: str, table: Table, host: Mapping[str, HostKernel]) -> Operator:
    """A kind that is not published, as far as the tables tell."""
    parameters = list(_parameters(table))
    columns = _columns([p for _, p in parameters], "dtype")

    def declared(prefix: str) -> tuple[Parameter, ...]:
        return tuple(
            Parameter(
                p.get("name", name), "dynamic" if p.get("paramType") == "dynamic" else "optional", "of the kernel"
            )
            for name, p in parameters
            if name.startswith(prefix)
        )

    names = [name for name in table.get("attr", {}).get("list", "").split(",") if name]
    attributes = {}
    for name in names:
        attribute = table.get(f"attr_{name}", {})
        required = attribute.get("paramType") == "required"
        attributes[name] = (_ATTRIBUTES.get(attribute.get("type", ""), "?"), "required" if required else "")
    kernel = Kernel(engine="AI Core", dtypes=columns, cpu=host.get(kind))
    return Operator(
        inputs=declared("input"), outputs=declared("output"), attributes=attributes, a2=kernel, ascend950=kernel
    )


def _parameters(table: Table) -> Iterator[tuple[str, dict[str, str]]]:
    """input0, input1, ..., then output0, ..."""
    for prefix in ("input", "output"):
        number = 0
        while f"{prefix}{number}" in table:
            yield f"{prefix}{number}", table[f"{prefix}{number}"]
            number += 1


def _columns(parameters: list[dict[str, str]], name: str) -> tuple[tuple[str | None, ...], ...]:
    """Columns of the table; none where a program of the kernel's own chooses."""
    lists = [_types(p[name]) for p in parameters if name in p]
    if len(lists) != len(parameters) or len(set(map(len, lists))) != 1:
        return ()
    return tuple(zip(*lists, strict=True))


def _types(text: str) -> list[str]:
    names = [name.strip().removeprefix("DT_").lower() for name in text.split(",")]
    return [_NAMES.get(name, name) for name in names]
