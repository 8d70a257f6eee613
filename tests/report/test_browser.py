"""Opens the page in headless Chromium: it fits a phone and a desktop, in light and in dark, and is legible."""

import html
import json
import os
import re
import subprocess

import pytest

from tests.chromium import CHROMIUM, FLAGS

LIGHT, DARK = 1, 0

# Puts the page into frames as wide as a phone and a desktop and writes down what is seen there.
MEASURE = r"""<!doctype html><body><script>
const page = %s;
const widths = [360, 1280];
const frames = widths.map(width => {
  const frame = document.createElement("iframe");
  frame.style = `width:${width}px;height:800px;border:0`;
  frame.srcdoc = page;
  return document.body.appendChild(frame);
});
const colours = style => [style.color, style.backgroundColor].map(c => c.match(/[\d.]+/g).map(Number));
function seen(frame) {
  const page = frame.contentDocument, view = frame.contentWindow, style = e => view.getComputedStyle(e);
  const width = e => e.getBoundingClientRect().width, all = selector => [...page.querySelectorAll(selector)];
  for (const details of all("details")) details.open = true;
  const hasText = e => style(e).display != "none" && [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  return {
    width: view.innerWidth,
    scroll: page.documentElement.scrollWidth,
    outside: all("body *").filter(e => e.getBoundingClientRect().right > view.innerWidth + 1).map(e => e.outerHTML),
    images: [...page.images].map(i => [i.naturalWidth, width(i)]),
    plots: all(".plot").map(width),
    smallest: Math.min(...all("body *:not(svg *)").filter(hasText).map(e => parseFloat(style(e).fontSize))),
    body: colours(style(page.body)),
    soft: colours(style(page.querySelector("section p"))),
    requests: view.performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
  };
}
addEventListener("load", () => document.body.textContent = JSON.stringify(frames.map(seen)));
</script></body>"""


@pytest.fixture
def browse(tmp_path):
    """What a phone and a desktop show of a page."""
    if CHROMIUM is None:
        pytest.skip("no Chromium on the PATH; install one with `apt-get install chromium`")

    def look(path, scheme=LIGHT):
        text = json.dumps(path.read_text(encoding="utf-8")).replace("<", "\\u003c")
        (tmp_path / "measure.html").write_text(MEASURE % text, encoding="utf-8")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--blink-settings=preferredColorScheme={scheme}", "--dump-dom", str(tmp_path / "measure.html")]
        environment = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
        found = re.search(r"<body>(\[.*\])</body>", done.stdout, re.DOTALL)
        assert found, f"{done.stdout[-500:]}\n{done.stderr[-2000:]}"
        return json.loads(html.unescape(found[1]))

    return look


def luminance(colour):
    """WCAG 2's relative luminance."""
    channels = [c / 255 for c in colour[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["shapes_page", "coco_page", "hostile_page"])
def test_a_phone_and_a_desktop_show_the_whole_page_without_scrolling_sideways(name, request, browse):
    phone, desktop = browse(request.getfixturevalue(name))
    for seen, width in ((phone, 360), (desktop, 1280)):
        assert seen["width"] == width
        assert seen["scroll"] <= width
        assert seen["outside"] == []
        assert seen["requests"] == 0
        assert seen["images"]
        assert all(natural > 0 and 200 <= shown <= width for natural, shown in seen["images"])
        assert seen["plots"]
        assert min(seen["plots"]) > 250
        assert seen["smallest"] >= 10


def test_light_and_dark_have_legible_text(shapes_page, browse):
    light, dark = (browse(shapes_page, scheme)[0] for scheme in (LIGHT, DARK))
    assert luminance(light["body"][1]) > 0.8
    assert luminance(dark["body"][1]) < 0.05
    for seen in (light, dark):
        assert contrast(*seen["body"]) > 7
        assert contrast(seen["soft"][0], seen["body"][1]) > 4.5
