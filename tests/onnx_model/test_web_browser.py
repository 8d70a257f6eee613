"""The page in headless Chromium: Python's detections, no request elsewhere, keyboard, camera, hostile names."""

import json
import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ssd_graph.data.decode import decode, preprocess
from ssd_graph.data.shapes import draw_image
from ssd_graph.onnx_model.api import Detector
from ssd_graph.onnx_model.predict import predict
from ssd_graph.onnx_model.thresholds import ShownFrom
from ssd_graph.onnx_model.web import write_page
from tests.chromium import CHROMIUM, Chromium
from tests.report.test_browser import contrast

pytestmark = pytest.mark.skipif(  # and not in a fixture, before which models would be trained
    CHROMIUM is None or "SSD_GRAPH_ORT_WEB" not in os.environ,
    reason="needs Chromium, and in SSD_GRAPH_ORT_WEB the dist/ folder of npm's package onnxruntime-web",
)
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
HOSTILE = "<img src=x onerror=alert(1)>"
STATUS = "document.querySelector('#status').textContent"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def runtime():
    return Path(os.environ["SSD_GRAPH_ORT_WEB"])


@pytest.fixture(scope="module")
def served():
    """A function that serves a folder and gives its address."""
    servers = []

    def serve(folder):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def site(trained, runtime, tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "web"
    write_page(trained / "model.onnx", out, runtime)
    return out


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium = Chromium(tmp_path_factory.mktemp("chromium"), *CAMERA)
    yield chromium
    chromium.close()


@pytest.fixture(scope="module")
def address(site, served):
    return served(site)


@pytest.fixture
def page(browser, address):
    """The browser with the page just opened."""
    return opened(browser, address)


def opened(browser, address):
    browser.requested.clear()
    browser.workers.clear()
    browser.call("Page.navigate", url=address)
    browser.wait(f"document.readyState == 'complete' && /Ready|not start/.test({STATUS})")
    return browser


def choose(page, paths):
    """Hand files to the page as the file chooser does; wait until all are looked at."""
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(p) for p in paths])
    page.wait(f"document.querySelectorAll('figure').length == {len(paths)}")


def pictures(folder):
    """20 generated PNGs, one with a gamma, one transparent, one tall; four JPEGs, one stored turned."""
    paths = []
    for i in range(24):
        image = draw_image(np.random.default_rng([5, i]))[0]
        if i == 18:
            image.putalpha(Image.linear_gradient("L").resize(image.size))
        if i == 19:
            image = image.resize((320, 900))
        exif, chunks = Image.Exif(), PngInfo()
        if i == 17:
            chunks.add(b"gAMA", (100_000).to_bytes(4, "big"))
        if i == 23:
            exif[0x0112] = 6
        paths.append(folder / f"{i}.{'png' if i < 20 else 'jpg'}")
        image.save(paths[-1], exif=exif, quality=92, pnginfo=chunks)
    return paths


def saved(page):
    """What the page's button writes."""
    shutil.rmtree(page.downloads, ignore_errors=True)
    page.evaluate("document.querySelector('#save').click()")
    file = page.downloads / "predictions.json"
    for _ in range(200):
        page.evaluate("new Promise(done => setTimeout(done, 20))")
        if file.is_file():
            return json.loads(file.read_text())
    pytest.fail("nothing was saved")


def set_score(page, value):
    page.evaluate(
        f"(e => {{ e.value = {value}; e.dispatchEvent(new Event('input')); }})(document.querySelector('#score'))"
    )


def clear_bar(detector, paths):
    """A score on the slider that no detection comes near, since rounding decides about those that do."""
    scores = np.concatenate([detector.network(preprocess(decode(p, upright=True))[None])[2].ravel() for p in paths])
    return max(np.arange(6, 9) / 100, key=lambda bar: np.abs(scores - bar).min())


def test_the_page_finds_what_python_finds(page, trained, tmp_path):
    (tmp_path / "in").mkdir()
    paths, detector = pictures(tmp_path / "in"), Detector(trained / "model.onnx", threads=1)
    bar = clear_bar(detector, paths)
    choose(page, paths)
    set_score(page, bar)
    found = saved(page)
    records, *_ = predict(detector, paths, tmp_path / "out", ShownFrom(bar))
    assert list(found) == list(json.loads((tmp_path / "out" / "predictions.json").read_text()))
    assert (found["model_sha256"], found["least_score"]) == (detector.network.sha256, bar)
    assert sum(len(record["objects"]) for record in records) > 100
    for mine, record, path in zip(found["images"], records, paths, strict=True):
        assert list(mine) == list(record)
        assert (mine["file"], mine["width"], mine["height"]) == (path.name, record["width"], record["height"])
        assert len(mine["objects"]) == len(record["objects"]), path.name
        for one in record["objects"]:  # of the same score, two may come in another order
            alike = [o for o in mine["objects"] if list(o) == list(one) and o["category_id"] == one["category_id"]]
            assert any(
                abs(o["score"] - one["score"]) < 1e-3 and np.allclose(o["box_xyxy"], one["box_xyxy"], rtol=0, atol=1)
                for o in alike
            ), (path.name, one)


REFUSED = """new Promise(done => {
  addEventListener("securitypolicyviolation", event => done(event.effectiveDirective));
  fetch("https://elsewhere.invalid/").catch(() => setTimeout(done, 1000, "not forbidden"));
})"""


def test_nothing_leaves_the_browser_and_the_policy_forbids_it(page, address, tiny_coco):
    choose(page, sorted((tiny_coco / "val2017").iterdir())[:1])
    assert address in page.requested
    assert [url for url in page.requested if not url.removeprefix("blob:").startswith(address)] == []
    worker = next(session for session, kind in page.workers.items() if kind == "worker")
    assert [page.evaluate(REFUSED), page.evaluate(REFUSED, worker)] == ["connect-src"] * 2


def test_the_keyboard_does_it_all_and_the_focus_is_seen(page, tiny_coco):
    choose(page, sorted((tiny_coco / "val2017").iterdir())[:2])
    seen = []
    for _ in range(6):
        page.press("Tab", 9)
        page.evaluate("new Promise(requestAnimationFrame)")
        seen.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineWidth") == "3px"
        if seen[-1] == "score":
            page.press("Home", 36)
            assert page.evaluate("document.querySelector('output').textContent") == "0.05"
            assert page.evaluate("document.querySelectorAll('.boxes i').length") > 20
    assert seen == ["SUMMARY", "choose", "camera", "score", "save", "clear"]
    page.press("Enter", 13, "\r")
    assert page.evaluate("[document.querySelectorAll('figure').length, document.activeElement.id]") == [0, "choose"]
    assert page.evaluate("document.querySelector('#status').getAttribute('role')") == "status"


PICTURES = """(async () => { const canvas = new OffscreenCanvas(40, 30); canvas.getContext("2d");
  const data = new DataTransfer(), blob = await canvas.convertToBlob();
  for (const name of %s) data.items.add(new File([blob], name));
  return data; })()"""


def paste(page, *names):
    page.evaluate(
        f"{PICTURES % list(names)}.then(d => document.body.dispatchEvent(new ClipboardEvent('paste', "
        "{clipboardData: d, bubbles: true})))"
    )


def test_pictures_are_dropped_and_pasted(page):
    page.evaluate(
        f"{PICTURES % ['dropped.png']}.then(d => document.body.dispatchEvent(new DragEvent('drop', "
        "{dataTransfer: d, bubbles: true, cancelable: true})))"
    )
    paste(page, "pasted.png")
    page.wait("document.querySelectorAll('figure').length == 2")
    assert page.evaluate("[...document.querySelectorAll('figcaption b')].map(e => e.textContent)") == [
        "pasted.png",
        "dropped.png",
    ]


def test_removing_all_removes_what_is_still_waiting(page):
    paste(page, *(f"{i}.png" for i in range(9)))
    page.wait("document.querySelectorAll('figure').length")
    page.evaluate("document.querySelector('#clear').click()")
    paste(page, "after.png")
    page.wait(f"{STATUS}.startsWith('after.png:')")
    assert page.evaluate("[...document.querySelectorAll('figcaption b')].map(e => e.textContent)") == ["after.png"]


def test_two_clicks_open_one_camera_and_nothing_is_taken_before_its_first_frame(page):
    page.evaluate("""navigator.mediaDevices.getUserMedia = async () => {
      const canvas = document.createElement("canvas");
      window.context = canvas.getContext("2d");
      return (window.streams ??= [])[window.streams.push(canvas.captureStream(0)) - 1]; }""")
    page.evaluate("for (const _ of [1, 2]) document.querySelector('#camera').click()")
    page.wait("!document.querySelector('#viewfinder').hidden")
    assert page.evaluate("document.querySelector('#take').disabled")
    page.evaluate("context.fillRect(0, 0, 9, 9), streams.map(s => s.getTracks()[0].requestFrame())")
    page.wait("!document.querySelector('#take').disabled && document.querySelector('video').videoWidth")
    page.evaluate("document.querySelector('#close').click()")
    assert page.evaluate("streams.flatMap(s => s.getTracks().map(t => t.readyState))") == ["ended"]


def test_the_camera_takes_pictures_until_it_is_closed(page):
    page.evaluate("document.querySelector('#camera').click()")
    page.wait("document.querySelector('video').videoWidth && document.activeElement.id == 'take'")
    page.evaluate("document.querySelector('#take').click()")
    page.wait("document.querySelectorAll('figure').length == 1")
    assert page.evaluate("document.querySelector('figcaption').textContent").startswith("camera-1.png")
    page.evaluate("document.querySelector('#close').click()")
    assert page.evaluate("document.querySelector('#viewfinder').hidden")


def test_what_is_no_picture_is_left_out_by_name(page, tmp_path, tiny_coco):
    (tmp_path / "notes.jpg").write_text("no picture")
    choose(page, sorted((tiny_coco / "val2017").iterdir())[:1])
    root = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=root, selector="#files")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(tmp_path / "notes.jpg")])
    page.wait(f"{STATUS} == 'notes.jpg is left out: this browser cannot read it as a picture.'")
    assert page.evaluate("document.querySelectorAll('figure').length") == 1


def test_hostile_names_stay_text_and_classes_have_thresholds_of_their_own(
    browser, served, trained, runtime, tiny_coco, tmp_path
):
    model = onnx.load(trained / "model.onnx")
    metadata = {p.key: p.value for p in model.metadata_props}
    names = [HOSTILE, *json.loads(metadata["category_names"])[1:]]
    metadata["category_names"] = json.dumps(names)
    ids = json.loads(metadata["category_ids"])
    metadata["thresholds"] = json.dumps({"overall": 1.0, "per_class": {str(ids[0]): 0.05, str(ids[1]): 0.999}})
    onnx.helper.set_model_props(model, metadata)
    onnx.save(model, tmp_path / "hostile.onnx")
    write_page(tmp_path / "hostile.onnx", tmp_path / "web", runtime)
    page = opened(browser, served(tmp_path / "web"))
    choose(page, sorted((tiny_coco / "val2017").iterdir())[:2])
    assert page.evaluate("document.querySelector('#classes li').textContent") == HOSTILE
    assert page.evaluate("document.querySelector('output').textContent") == "by class"
    assert page.evaluate("document.images.length") == 2  # and none of the class's name
    content = saved(page)
    assert content["least_score"] is None
    assert content["thresholds"] == {str(i): 1.0 for i in ids} | {str(ids[0]): 0.05, str(ids[1]): 0.999}
    assert {o["category"] for image in content["images"] for o in image["objects"]} == {HOSTILE}
    set_score(page, 0.05)
    assert page.evaluate("document.querySelector('#own input').checked") is False
    assert len({o["category"] for image in saved(page)["images"] for o in image["objects"]}) > 1


def test_a_file_that_is_not_the_pages_is_not_used(browser, served, site, tmp_path):
    shutil.copytree(site, tmp_path / "web")
    with open(tmp_path / "web" / "model.onnx", "ab") as file:
        file.write(b"\0")
    page = opened(browser, served(tmp_path / "web"))
    assert "model.onnx" in page.evaluate(STATUS)
    assert "is not the file that this page was made with" in page.evaluate(STATUS)
    assert page.evaluate("document.querySelector('#choose').disabled")
    for event in ("dragover", "drop"):  # a browser else opens the picture in the page's place
        assert page.evaluate(f"!document.body.dispatchEvent(new Event('{event}', {{bubbles: true, cancelable: true}}))")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 390, 1280])
def test_a_phone_and_a_desktop_show_it_whole_and_legible(page, tiny_coco, width, scheme):
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    choose(page, sorted((tiny_coco / "val2017").iterdir())[:2])
    set_score(page, 0.05)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    colours = """(e => [getComputedStyle(e).color, getComputedStyle(%s).backgroundColor]
      .map(c => c.match(/[\\d.]+/g).map(Number)))(document.querySelector("%s"))"""
    for selector, ground in (("h1", "document.body"), ("small", "document.body"), ("#choose", "e")):
        assert contrast(*page.evaluate(colours % (ground, selector))) > 4.5, selector
    assert page.evaluate("Math.min(...[...document.querySelectorAll('button')].map(e => e.offsetHeight || 44))") >= 44
