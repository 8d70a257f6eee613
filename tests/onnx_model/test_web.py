"""The page's files: what is written, and what is refused before anything is."""

import base64
import hashlib
import json
import re
from pathlib import Path

import onnx
import pytest

from ssd_graph.cli import InputError
from ssd_graph.onnx_model import web
from ssd_graph.onnx_model.draw import class_colour
from ssd_graph.onnx_model.web import CDN, RUNTIME_FILES, write_page
from tests import REPOSITORY
from tests.run import command_here, refused

PAGE = Path(web.__file__).parent / "web_page"


@pytest.fixture
def runtime(tmp_path):
    """A folder with files of the runtime's names."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in (*RUNTIME_FILES, "unneeded.js"):
        (folder / name).write_text(name)
    return folder


def changed(trained, path, **metadata):
    """The trained model with other metadata."""
    model = onnx.load(trained / "model.onnx")
    onnx.helper.set_model_props(model, {p.key: p.value for p in model.metadata_props} | metadata)
    onnx.save(model, path)
    return path


def policy(out):
    text = (out / "index.html").read_text()
    return re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)[1]


def test_the_folder_holds_the_page_the_model_and_two_files_of_the_runtime(trained, runtime, tmp_path):
    out = tmp_path / "web"
    written = write_page(trained / "model.onnx", out, runtime)
    names = {file.name for file in out.iterdir()}
    assert names == {file.name for file in PAGE.iterdir()} | {"model.onnx", "model.json", *RUNTIME_FILES}
    assert (written.num_files, written.num_bytes) == (len(names), sum(f.stat().st_size for f in out.iterdir()))
    for name in ("model.onnx", *RUNTIME_FILES):
        source = trained / name if name == "model.onnx" else runtime / name
        assert (out / name).read_bytes() == source.read_bytes()


def test_the_settings_are_the_models_metadata(trained, runtime, tmp_path):
    write_page(trained / "model.onnx", tmp_path / "web", runtime)
    settings = json.loads((tmp_path / "web" / "model.json").read_text())
    metadata = {p.key: p.value for p in onnx.load(trained / "model.onnx").metadata_props}
    categories = settings["categories"]
    assert [c["id"] for c in categories] == json.loads(metadata["category_ids"])
    assert [c["name"] for c in categories] == json.loads(metadata["category_names"])
    assert [c["colour"] for c in categories] == ["#" + bytes(class_colour(i)).hex() for i in range(len(categories))]
    assert {c["threshold"] for c in categories} == {None}
    assert (settings["threshold"], settings["least_score"]) == (0.4, json.loads(metadata["score_threshold"]))
    assert settings["sha256"] == hashlib.sha256((trained / "model.onnx").read_bytes()).hexdigest()


def test_every_large_file_must_have_its_hash(trained, runtime, tmp_path):
    write_page(trained / "model.onnx", tmp_path / "web", runtime)
    for file in json.loads((tmp_path / "web" / "model.json").read_text())["files"].values():
        content = (tmp_path / "web" / file["url"].partition("?")[0]).read_bytes()
        assert file["integrity"] == "sha384-" + base64.b64encode(hashlib.sha384(content).digest()).decode()


def test_only_a_page_without_the_runtime_may_ask_another_server(trained, runtime, tmp_path):
    write_page(trained / "model.onnx", tmp_path / "own", runtime)
    write_page(trained / "model.onnx", tmp_path / "cdn")
    assert "http" not in policy(tmp_path / "own")
    assert re.findall(r"https?:\S+", policy(tmp_path / "cdn")) == [f"{CDN};"]
    settings = json.loads((tmp_path / "cdn" / "model.json").read_text())
    assert [settings["files"][k] for k in ("runtime", "wasm")] == [
        {"url": CDN + name, "integrity": integrity} for name, integrity in RUNTIME_FILES.items()
    ]


def test_classes_may_have_thresholds_of_their_own(trained, tmp_path):
    thresholds = json.dumps({"overall": 0.3, "per_class": {"3": 0.7}})
    write_page(changed(trained, tmp_path / "m.onnx", thresholds=thresholds), tmp_path / "web")
    settings = json.loads((tmp_path / "web" / "model.json").read_text())
    assert settings["threshold"] == 0.3
    assert {c["id"]: c["threshold"] for c in settings["categories"] if c["threshold"] is not None} == {3: 0.7}


def raw(model):
    """What detector.py takes for the network alone."""
    image = onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, ["N", 3, 300, 300])
    outputs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("ploc", "plabel")]
    nodes = [onnx.helper.make_node("Identity", ["image"], [output.name]) for output in outputs]
    model.graph.CopyFrom(onnx.helper.make_graph(nodes, "raw", [image], outputs))
    next(p for p in model.metadata_props if p.key == "format").value = "ssd_graph raw 1"


def two_at_a_time(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


@pytest.mark.parametrize(("change", "words"), [(raw, "without --raw"), (two_at_a_time, "2 images .* without --batch")])
def test_a_form_that_a_page_cannot_run_is_refused(trained, tmp_path, change, words):
    model = onnx.load(trained / "model.onnx")
    change(model)
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=words):
        write_page(tmp_path / "m.onnx", tmp_path / "web")
    assert not (tmp_path / "web").exists()


def test_category_ids_that_javascript_would_round_are_refused(trained, tmp_path):
    model = changed(trained, tmp_path / "m.onnx", category_ids=json.dumps([2**53 + 1, 3, 5, 7, 11, 13]))
    with pytest.raises(InputError, match="ids beyond"):
        write_page(model, tmp_path / "web")


def test_a_folder_without_the_runtime_is_refused(trained, runtime, tmp_path):
    (runtime / "ort-wasm-simd-threaded.wasm").unlink()
    with pytest.raises(InputError, match=r"no .*dist.ort-wasm-simd-threaded\.wasm; give --runtime the dist/ folder"):
        write_page(trained / "model.onnx", tmp_path / "web", runtime)
    assert not (tmp_path / "web").exists()


def test_an_older_page_is_replaced_and_nothing_else_is(trained, tmp_path):
    out = tmp_path / "web"
    write_page(trained / "model.onnx", out)
    (out / "page.js").write_text("old")
    (out / "notes.txt").write_text("mine")
    write_page(trained / "model.onnx", out)
    assert (out / "page.js").read_bytes() == (PAGE / "page.js").read_bytes()
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["index.html", "model.onnx"])
def test_a_folder_with_other_files_is_refused(trained, tmp_path, name):
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / name).write_text("<h1>My page</h1>")
    with pytest.raises(InputError, match="no page of this command; choose an empty folder with --out"):
        write_page(trained / "model.onnx", tmp_path / "web")
    assert [file.read_text() for file in (tmp_path / "web").iterdir()] == ["<h1>My page</h1>"]


def test_the_command_tells_how_to_serve_the_page(trained, tmp_path):
    code, out, error = command_here("export/to_web.py", trained / "model.onnx", "--out", "my page", cwd=tmp_path)
    assert (code, error) == (0, "")
    assert f"loads onnxruntime-web from {CDN}" in out
    assert "`python -m http.server -d 'my page'`" in out


def test_a_missing_model_says_how_to_make_it(tmp_path):
    assert "export/to_onnx.py" in refused("export/to_web.py", "gone.onnx", cwd=tmp_path)


def test_names_never_become_html():
    code = "".join(file.read_text() for file in PAGE.glob("*.js"))
    assert not re.findall(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", code)


def test_the_page_has_the_reports_palette():
    palettes = [
        re.findall(r"--\w+: #\w+;", (REPOSITORY / "ssd_graph" / file).read_text())
        for file in ("report/style.css", "onnx_model/web_page/style.css")
    ]
    assert palettes[0] == palettes[1] != []
