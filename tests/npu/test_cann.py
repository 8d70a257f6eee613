"""The kernel tables of an installed CANN, in a small folder of the same form."""

import json

import pytest

from ssd_graph.cli import InputError
from ssd_graph.npu.engine.cann import installed_facts
from ssd_graph.npu.engine.check import check
from ssd_graph.npu.engine.facts import shipped_facts
from ssd_graph.npu.engine.graph import TypedGraph
from tests import REPOSITORY
from tests.npu.test_engine import definition
from tests.run import command_here

TABLES = "opp/built-in/op_impl/ai_core/tbe/config/ascend910b"
HOST = "opp/built-in/op_impl/aicpu/aicpu_kernel/config/aicpu_kernel.json"


def table(inputs, outputs, **more):
    """An operator's entry: types of each parameter, separated by commas."""
    result = dict(more)
    for prefix, parameters in (("input", inputs), ("output", outputs)):
        for number, (name, types) in enumerate(parameters.items()):
            result[f"{prefix}{number}"] = {"name": name, "paramType": "required"} | ({"dtype": types} if types else {})
    return result


KERNELS = {
    "Relu": table({"x": "float16,float,bfloat16"}, {"y": "float16,float,bfloat16"}),
    "Add": table({"x1": "float16,float", "x2": "float16,float"}, {"y": "float16,float"}),
    "Sub": table({"x1": "float", "x2": "float"}, {"y": "float"}),  # 16 bits are raised
    "ReduceMean": table({"x": None, "axes": None}, {"y": None}, dynamicFormat={"flag": "true"}),
    "StridedSliceD": table({"x": "float16"}, {"y": "float16"}),
    "NewKind": table(
        {"x": "float"}, {"y": "float"}, attr={"list": "width"}, attr_width={"paramType": "required", "type": "int"}
    ),
}
HOST_KERNELS = {
    "ReverseV2": {
        "input0": {"name": "x", "type": "DT_FLOAT16,DT_UINT8"},
        "input1": {"name": "axis", "type": "DT_INT32,DT_INT64"},
        "opInfo": {"engine": "DNN_VM_AICPU", "opKernelLib": "AICPUKernel"},
    }
}


@pytest.fixture
def toolkit(tmp_path):
    """Under 1 MB of a CANN: one SoC's table in two files, as newer ones have it, and one of the AI CPU."""
    folder = tmp_path / "latest" / TABLES
    folder.mkdir(parents=True)
    half = len(KERNELS) // 2
    for name, kinds in (("math", list(KERNELS)[:half]), ("nn", list(KERNELS)[half:])):
        entries = {kind: KERNELS[kind] for kind in kinds}
        (folder / f"aic-ascend910b-ops-info-{name}.json").write_text(json.dumps(entries))
    host = tmp_path / "latest" / HOST
    host.parent.mkdir(parents=True)
    host.write_text(json.dumps(HOST_KERNELS))
    return tmp_path


def findings(facts):
    return {(f.verdict, f.kind): f.what for f in check(TypedGraph(definition("a2"), "a2", facts, {}))}


def test_what_the_toolkit_lacks_is_refused_or_runs_on_the_host(toolkit):
    found = findings(installed_facts(toolkit, "a2"))
    assert found["refused", "Conv2D"] == "no kernel on this SoC"
    assert found["ai_cpu", "ReverseV2"] == "no kernel on this SoC; AI CPU"
    assert found["casts", "Sub"].startswith("x1 float16 to float32")
    assert not {verdict for verdict, kind in found if kind in ("Relu", "ReduceMean")}
    published = findings(shipped_facts())
    assert not {verdict for verdict, _ in published} & {"refused", "ai_cpu"}


def test_the_same_tables_give_the_same_facts(tmp_path):
    """The published kernels, written as a toolkit has them."""
    folder = tmp_path / TABLES
    folder.mkdir(parents=True)
    entries = {}
    for kind, operator in shipped_facts().items():
        columns = operator.a2.dtypes
        if operator.a2.kernel:
            entries[operator.a2.kernel] = {}
        if columns and not operator.a2.order:
            names = [p.name for p in (*operator.inputs, *operator.outputs)]
            lists = [",".join(str(c[i]) for c in columns) for i in range(len(names))]
            inputs = dict(list(zip(names, lists, strict=True))[: len(operator.inputs)])
            outputs = dict(list(zip(names, lists, strict=True))[len(operator.inputs) :])
            entries[kind] = table(inputs, outputs)
        elif columns:
            entries[kind] = {}
    (folder / "aic-ascend910b-ops-info.json").write_text(json.dumps(entries))
    facts = installed_facts(tmp_path, "a2")
    assert findings(facts) == findings(shipped_facts())


def test_a_kind_that_is_not_published_is_taken_from_the_tables(toolkit):
    facts = installed_facts(toolkit, "a2")
    assert "NewKind" not in shipped_facts()
    assert facts["NewKind"].a2.dtypes == (("float32", "float32"),)

    def plant(graph):
        next(node for node in graph.op if node.type == "Relu").type = "NewKind"

    graph = TypedGraph(definition("a2", plant), "a2", facts, {})
    found = {f.verdict: f.what for f in check(graph) if f.kind == "NewKind"}
    assert found == {"refused": "attribute width is missing", "casts": "x float16 to float32, y float16 to float32"}


@pytest.mark.parametrize("name", ["", "a" * 300])
def test_a_folder_without_tables_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="give the folder of a CANN toolkit"):
        installed_facts(tmp_path / name, "a2")


@pytest.mark.parametrize("card", ["950", "a3"])
def test_another_card_is_refused_with_those_that_are_there(toolkit, card):
    with pytest.raises(InputError, match=f"has tables for ascend910b, and none for --soc {card}"):
        installed_facts(toolkit, card)


def written(toolkit, kinds, folder=TABLES, name="aic-ascend910b-ops-info-zz.json"):
    """The toolkit with one more table."""
    path = toolkit / "latest" / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(kinds))
    return toolkit


def columns(facts, kind):
    return facts[kind].a2.dtypes


def test_a3_has_kernels_of_its_own(toolkit):
    written(toolkit, {"Relu": table({"x": "float"}, {"y": "float"})}, TABLES.replace("910b", "910_93"))
    assert columns(installed_facts(toolkit, "a3"), "Relu") == (("float32", "float32"),)
    assert len(columns(installed_facts(toolkit, "a2"), "Relu")) == 3


def test_a_vendors_kernels_come_first(toolkit):
    folder = "opp/vendors/customize/op_impl/ai_core/tbe/config/ascend910b"
    facts = installed_facts(written(toolkit, {"Relu": table({"x": "int8"}, {"y": "int8"})}, folder), "a2")
    assert columns(facts, "Relu") == (("int8", "int8"),)


def test_what_a_kind_is_replaced_by_is_held_to_its_own_table(toolkit):
    facts = installed_facts(written(toolkit, {"StridedSliceD": table({"x": "int8"}, {"y": "int8"})}), "a2")
    assert columns(facts, "StridedSliceV2") == (("int8", None, None, None, None, "int8"),)


def test_a_kind_whose_replacement_is_not_there_runs_by_itself(toolkit):
    inputs = {"x": "float", "concat_dim": "int32"}
    facts = installed_facts(written(toolkit, {"ConcatV2": table(inputs, {"y": "float"})}), "a2")
    assert facts["ConcatV2"].a2.engine == "AI Core"
    assert columns(facts, "ConcatV2") == (("float32", "int32", "float32"),)


def test_parameters_are_matched_by_name_and_new_ones_do_no_harm(toolkit):
    swapped = table({"x2": "int8,bool", "x1": "float,int32", "mask": "bool,bool"}, {"y": "float,int32"})
    unnamed = {"input0": {"dtype": "int8"}, "output0": {"dtype": "int8"}}
    facts = installed_facts(written(toolkit, {"Add": swapped, "Relu": unnamed}), "a2")
    assert columns(facts, "Add") == (("float32", "int8", "float32"), ("int32", "bool", "int32"))
    assert columns(facts, "Relu") == (("int8", "int8"),)


def test_columns_of_several_lengths_are_refused(toolkit):
    with pytest.raises(InputError, match="the table of Relu has columns of several lengths"):
        installed_facts(written(toolkit, {"Relu": table({"x": "int8,float"}, {"y": "int8"})}), "a2")


def test_an_odd_table_of_a_kind_that_is_not_published_does_no_harm(toolkit):
    facts = installed_facts(written(toolkit, {"Mine": table({"x": "int8,float"}, {"y": "int8"})}), "a2")
    assert "Mine" not in facts


def test_the_ai_cpus_dynamic_inputs_and_those_of_any_type(toolkit):
    entry = {
        "dynamic_input0": {"name": "x", "type": "DT_FLOAT"},
        "input1": {"name": "concat_dim"},
        "opInfo": {"engine": "DNN_VM_AICPU"},
    }
    facts = installed_facts(written(toolkit, {"ConcatV2": entry}, HOST.rpartition("/")[0], "my_kernel.json"), "a2")
    assert facts["ConcatV2"].a2.cpu.inputs == (("float32",), ())


def test_other_files_and_other_operators_may_look_as_they_like(toolkit):
    strange = {"Foo": {"input0": {"index": 0}}, "Bar": {"op": {"files": ["a"]}}}
    written(written(toolkit, strange), {"version": "9.1"}, TABLES, "version.json")
    written(toolkit, [1], HOST.rpartition("/")[0], "version.json")
    assert findings(installed_facts(toolkit, "a2"))


def test_a_folder_with_no_table_in_it_is_refused(tmp_path):
    (tmp_path / TABLES).mkdir(parents=True)
    with pytest.raises(InputError, match="holds no kernel tables"):
        installed_facts(tmp_path, "a2")


@pytest.mark.parametrize(
    "content",
    [
        *(b"{", b"[1, 2]", b'{"Relu": 3}', b"\xff\xfe", b""),
        *(b'{"Relu": {"input0": 5}}', b'{"Relu": {"input0": {"dtype": 7}}}'),
    ],
)
def test_a_damaged_table_is_refused(toolkit, content):
    path = toolkit / "latest" / TABLES / "aic-ascend910b-ops-info-nn.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"no table of kernels.*install this part of CANN again"):
        installed_facts(toolkit, "a2")


def test_the_command_says_what_this_toolkit_would_do(toolkit, tmp_path):
    script = REPOSITORY / "tools" / "lower_npu.py"
    flags = ("--graph", "predict", "--preset", "ssd300-nano", "--batch-size", 1, "--cann", toolkit, "--json", "a.json")
    code, out, error = command_here(script, *flags, cwd=tmp_path)
    assert code == 1, error
    assert "refused: the graph would not compile" in out
    assert f"kernel tables   {toolkit / 'latest' / TABLES}\n" in out
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["tables"] == str(toolkit / "latest" / TABLES)
    refused = written["kernels"]["refused"]
    assert {finding["kind"] for finding in refused} >= {"Conv2D", "BNInfer"}
    assert all(".py:" in finding["source"] for finding in refused if finding["kind"] == "Conv2D")
    code, _, error = command_here(script, *flags, "--soc", "950", cwd=tmp_path)
    assert (code, len(error.splitlines())) == (2, 1)
    code, _, error = command_here(script, *flags, "--out", "/proc/no/graph.txt", cwd=tmp_path)
    assert (code, error.count("cannot write into /proc/no")) == (2, 1)
