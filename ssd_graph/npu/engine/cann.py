"""Reads the kernel tables of an installed CANN in place of the published ones: what this very toolkit would do."""

import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import msgspec

from ssd_graph.cli import InputError
from ssd_graph.npu.capture import Soc
from ssd_graph.npu.engine.facts import Attribute, Facts, HostKernel, Kernel, Operator, Parameter, shipped_facts
from ssd_graph.npu.node import torch_name

Card = Literal["a2", "a3", "950"]
"""Atlas A2 and A3 are one SoC to torchair, with kernels of their own."""

SOC_OF: Mapping[Card, Soc] = {"a2": "a2", "a3": "a2", "950": "950"}
FOLDERS: Mapping[Card, tuple[str, ...]] = {
    "a2": ("ascend910b",),
    "a3": ("ascend910_93",),
    "950": ("ascend950", "ascend910_95"),
}
"""Names of a card's folder of tables."""

_TABLES = "built-in/op_impl/ai_core/tbe/config"
_KERNELS = "aic-*-ops-info*.json"
_HOST_KERNELS = ("built-in/op_impl/aicpu/*/config/*_kernel.json", "vendors/*/op_impl/cpu/config/*_kernel.json")
_READ = ("input", "output", "dynamic_input", "dynamic_output", "attr", "opInfo", "dynamicFormat")
"""What the keys that matter begin with."""

_ATTRIBUTES = {"int": "Int", "float": "Float", "bool": "Bool", "str": "String", "listInt": "ListInt"}
_NEEDS: Mapping[str, Literal["required", "dynamic"]] = {"required": "required", "dynamic": "dynamic"}

Table = dict[str, dict[str, str]]
"""An operator's entry in a toolkit's json files."""


def tables_of(directory: Path, card: Card) -> Path:
    """The folder of a card's kernel tables in the toolkit under `directory` (or in its folder opp).

    Raises:
        InputError: there are no tables, or none for this card.
    """
    candidates = (directory, directory / "opp", directory / "latest" / "opp")
    tables = next((opp / _TABLES for opp in candidates if os.path.isdir(opp / _TABLES)), None)
    if tables is None:
        raise InputError(
            f"{directory} has no opp/{_TABLES} that may be read; give the folder of a CANN toolkit, "
            "e.g. /usr/local/Ascend/ascend-toolkit/latest"
        )
    found = next((tables / name for name in FOLDERS[card] if os.path.isdir(tables / name)), None)
    if found is None:
        has = ", ".join(sorted(folder.name for folder in _listed(tables) if folder.is_dir())) or "none"
        raise InputError(f"{tables} has tables for {has}, and none for --soc {card} ({' or '.join(FOLDERS[card])})")
    if not any(file.match(_KERNELS) for file in _listed(found)):
        raise InputError(f"{found} holds no kernel tables ({_KERNELS}); install CANN's kernels for this card")
    return found


def installed_facts(directory: Path, card: Card) -> Facts:
    """The published facts with the kernels of a toolkit, and of the vendors that it has, see `tables_of`.

    A kernel whose table leaves types to a program of its own (`dynamicFormat`) keeps the published ones; so do the
    declarations. Kinds that are not published are taken from the tables whole.

    Raises:
        InputError: there are no tables, none for this card, or one is damaged.
    """
    tables, soc = tables_of(directory, card), SOC_OF[card]
    opp = tables.parents[5]
    published = shipped_facts()
    replacements = {operator.kernel(soc).kernel for operator in published.values()}
    known = published.keys() | replacements
    vendors = opp.glob(f"vendors/*/op_impl/ai_core/tbe/config/{tables.name}/{_KERNELS}")
    kernels = dict(_read([*sorted(tables.glob(_KERNELS)), *sorted(vendors)], known))  # a vendor's comes first
    host = _host_kernels(_read([file for pattern in _HOST_KERNELS for file in sorted(opp.glob(pattern))], known))
    facts = dict(published)
    for kind, operator in published.items():
        kernel = _kernel(kind, operator, operator.kernel(soc), kernels, host)
        facts[kind] = msgspec.structs.replace(operator, **{"a2" if soc == "a2" else "ascend950": kernel})
    for kind in kernels.keys() - facts.keys():
        with suppress(InputError):  # a vendor's odd table of what no graph of ours may use
            facts[kind] = _operator(kind, kernels[kind], host)
    return facts


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from error


def _read(paths: Iterable[Path], known: Container[str]) -> Iterator[tuple[str, Table]]:
    """Tables by kind, file by file; of kinds that are not `known`, those that can be read."""
    for path in paths:
        try:
            for kind, entry in msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, object]]).items():
                table = {key: value for key, value in entry.items() if key.startswith(_READ)}
                try:
                    yield kind, msgspec.convert(table, Table)
                except msgspec.ValidationError:
                    if kind in known:
                        raise
        except (msgspec.MsgspecError, OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} is no table of kernels ({error}); install this part of CANN again") from error


def _host_kernels(tables: Iterable[tuple[str, Table]]) -> dict[str, HostKernel]:
    """Of the AI CPU's libraries, the first one's of a kind with the types of all."""
    found: dict[str, HostKernel] = {}
    for kind, table in tables:
        about = table.get("opInfo", {})
        if about.get("engine") != "DNN_VM_AICPU":
            continue
        types = [tuple(_types(parameter.get("type", ""))) for _, parameter in _parameters(table, "input")]
        name = "TensorFlow on the AI CPU" if about.get("opKernelLib") == "TFKernel" else "AI CPU"
        if kind in found:
            name, before = found[kind].library, found[kind].inputs
            types = [a + b if a and b else () for a, b in zip_longest(before, types, fillvalue=())]
        found[kind] = HostKernel(name, tuple(types))
    return found


def _kernel(
    kind: str, operator: Operator, known: Kernel, kernels: Mapping[str, Table], host: Mapping[str, HostKernel]
) -> Kernel:
    """The published kernel as this toolkit has it."""
    if known.engine in ("host", "HCCL"):
        return known
    cpu, engine, running = host.get(kind), "AI Core", kind
    if known.engine.startswith("removed") and (known.kernel in kernels or not known.kernel):
        engine, running = known.engine, known.kernel  # a pass puts another operator in its place
    elif kind not in kernels:
        return Kernel(engine="none", cpu=cpu)
    columns = _columns(running, operator, kernels.get(running, {}))
    if not columns:
        return msgspec.structs.replace(known, engine=engine, cpu=cpu)
    return msgspec.structs.replace(known, engine=engine, dtypes=columns, order=(), cpu=cpu)


def _columns(kind: str, operator: Operator, table: Table) -> tuple[tuple[str | None, ...], ...]:
    """The table's columns in the order of the declaration; none where a program of the kernel's own chooses.

    Parameters are the same if they have one name, or one place and names that the declaration has not. A parameter
    that the kernel lacks may have any type: an input became an attribute.
    """
    if table.get("dynamicFormat", {}).get("flag") == "true":
        return ()
    result: list[Sequence[str | None]] = []
    inputs, outputs = (_typed(table, prefix) for prefix in ("input", "output"))
    lengths = {len(types) for types in (*inputs.values(), *outputs.values())}
    if not lengths:
        return ()
    if len(lengths) > 1:
        raise InputError(f"the table of {kind} has columns of several lengths; install CANN's kernels again")
    for declared, given in ((operator.inputs, inputs), (operator.outputs, outputs)):
        names = {parameter.name for parameter in declared}
        for parameter, other in zip_longest(declared, given):
            if parameter is not None:
                name = other if other not in names and parameter.name not in given else parameter.name
                result.append(given.get(name, [None] * max(lengths)))
    return tuple(zip(*result, strict=True))


def _typed(table: Table, prefix: str) -> dict[str, list[str]]:
    """Types by the name of the parameter, in the table's order."""
    return {p.get("name", key): _types(p["dtype"]) for key, p in _parameters(table, prefix) if "dtype" in p}


def _operator(kind: str, table: Table, host: Mapping[str, HostKernel]) -> Operator:
    """A kind that is not published, as far as the tables tell."""

    def declared(prefix: str) -> tuple[Parameter, ...]:
        return tuple(
            Parameter(p.get("name", key), _NEEDS.get(p.get("paramType", ""), "optional"), "of the kernel")
            for key, p in _parameters(table, prefix)
        )

    attributes = {}
    for name in filter(None, table.get("attr", {}).get("list", "").split(",")):
        attribute = table.get(f"attr_{name}", {})
        required = attribute.get("paramType") == "required"
        attributes[name] = Attribute(_ATTRIBUTES.get(attribute.get("type", ""), "?"), "required" if required else "")
    bare = Kernel(engine="AI Core", cpu=host.get(kind))
    operator = Operator(
        inputs=declared("input"), outputs=declared("output"), attributes=attributes, a2=bare, ascend950=bare
    )
    kernel = msgspec.structs.replace(bare, dtypes=_columns(kind, operator, table))
    return msgspec.structs.replace(operator, a2=kernel, ascend950=kernel)


def _parameters(table: Table, prefix: str) -> Iterator[tuple[str, dict[str, str]]]:
    """input0, input1, ...; the AI CPU's tables call a dynamic one dynamic_input0."""
    number = 0
    while found := next((key for key in (f"{prefix}{number}", f"dynamic_{prefix}{number}") if key in table), None):
        yield found, table[found]
        number += 1


def _types(text: str) -> list[str]:
    return [torch_name(name.strip()) for name in text.split(",") if name.strip()]
