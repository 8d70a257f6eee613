"""report.html: one self-contained page with the scores, the loss curve, and detections beside the ground truth."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from PIL import Image, ImageDraw, ImageFont

from ssd_graph.cli import atomic_write
from ssd_graph.coco import CocoSplit
from ssd_graph.evaluate import STAT_NAMES
from ssd_graph.metrics import read_records
from ssd_graph.onnx_eval import OnnxResult
from ssd_graph.transforms import decode

NUM_PICTURES = 8
SHOWN_SCORE = 0.3
"""Detections below this are scored but not drawn."""

_SIDE = 360
_COLOURS = (
    "#e6194b",
    "#3cb44b",
    "#4363d8",
    "#f58231",
    "#911eb4",
    "#008080",
    "#9a6324",
    "#808000",
    "#e84393",
    "#2d3436",
)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: left; }
meter { width: 12rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(22rem, 100%), 1fr)); gap: 1rem; }
figure { margin: 0; } figure img, svg { max-width: 100%; height: auto; }
svg { background: #fff; }
figcaption { font-size: .85rem; opacity: .8; }
"""


def write_report(path: Path, result: OnnxResult, split: CocoSplit, metrics: Path | None = None) -> None:
    """Write the page for an evaluation; `metrics` is the training run's metrics.jsonl, if there is one."""
    summary = result.summary
    sections = [
        f"<h1>{html.escape(summary['model']['preset'])}: AP {summary['stats']['AP']:.3f}</h1>",
        f"<p>{html.escape(summary['model']['file'])} on {summary['num_images']} images of "
        f"{html.escape(summary['annotations']['file'])}, {summary['images_per_second']:.1f} images/s with "
        f"onnxruntime {summary['versions']['onnxruntime']} on {summary['run']['threads']} CPU threads.</p>",
        "<h2>COCO scores</h2>" + _stats_table(summary["stats"]),
        "<h2>AP by class</h2>" + _class_table(summary["per_class"]),
    ]
    if metrics is not None and metrics.is_file():
        sections.append("<h2>Training loss</h2><figure>" + loss_curve(metrics) + "</figure>")
    sections.append(
        f"<h2>Detections</h2><p>Left: ground truth. Right: detections with a score above {SHOWN_SCORE}.</p>"
        f'<div class="pictures">{_pictures(result, split)}</div>'
    )
    sections.append(f"<p>Detections sha256 <code>{summary['detections_sha256']}</code></p>")
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>ssd_graph report</title><style>{_STYLE}</style></head><body>{''.join(sections)}</body></html>\n"
    )
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def loss_curve(metrics: Path) -> str:
    """The losses and validation AP of a metrics.jsonl as an SVG element."""
    train, validation = read_records(metrics, "train"), read_records(metrics, "validation")
    # Text stays text, and ids do not change from run to run.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ssd_graph", "font.family": "sans-serif"}):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        axes = figure.subplots()
        for key, label in (("loss", "loss"), ("class_loss", "class loss"), ("box_loss", "box loss")):
            axes.plot([r["step"] for r in train], [r[key] for r in train], label=label)
        axes.set(xlabel="step", ylabel="loss per positive default box", yscale="log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        ap_axes = axes.twinx()
        ap_axes.plot([r["step"] for r in validation], [r["AP"] for r in validation], "ko:", label="validation AP")
        ap_axes.set(ylabel="AP", ylim=(0, None))
        lines = [*axes.get_lines(), *ap_axes.get_lines()]
        axes.legend(lines, [str(line.get_label()) for line in lines], loc="upper center", ncols=4, fontsize="small")
        axes.set_ylim(top=axes.get_ylim()[1] * 1.4)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()[buffer.getvalue().index("<svg") :]


def _stats_table(stats: dict[str, float]) -> str:
    cells = "".join(f"<td>{stats[name]:.3f}</td>" for name in STAT_NAMES)
    heads = "".join(f"<th>{name}</th>" for name in STAT_NAMES)
    return f'<div class="scroll"><table><tr>{heads}</tr><tr>{cells}</tr></table></div>'


def _class_table(per_class: dict[str, float | None]) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + (
            "<td>-</td><td>no ground truth</td>"
            if ap is None
            else f'<td>{ap:.3f}</td><td><meter value="{ap:.3f}"></meter></td>'
        )
        + "</tr>"
        for name, ap in per_class.items()
    )
    return f"<table>{rows}</table>"


def _pictures(result: OnnxResult, split: CocoSplit) -> str:
    figures = []
    for i in np.linspace(0, len(split) - 1, min(NUM_PICTURES, len(split))).round().astype(int):
        picture = draw_comparison(result, split, int(i))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=85)
        name = html.escape(str(split.file_names[i]))
        data = base64.b64encode(buffer.getvalue()).decode()
        figures.append(
            f'<figure><img alt="ground truth and detections of {name}" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{name}</figcaption></figure>"
        )
    return "".join(figures)


def draw_comparison(result: OnnxResult, split: CocoSplit, i: int) -> Image.Image:
    """Image i of the split twice, side by side: with its ground truth and with its detections."""
    picture = decode(split.path(i))
    scale = _SIDE / max(picture.size)
    picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
    size = np.tile(picture.size, 2)
    boxes, labels = split.boxes_of(i)
    truth = [(box * size, int(label) - 1, "") for box, label in zip(boxes, labels, strict=True)]
    rows = result.rows
    found = []
    for row in np.flatnonzero((rows.image_ids == split.image_ids[i]) & (rows.scores > SHOWN_SCORE))[::-1]:
        x, y, w, h = rows.boxes_xywh[row] / np.tile(split.sizes[i], 2) * size
        number = split.categories.ids.index(int(rows.category_ids[row]))
        found.append((np.array([x, y, x + w, y + h]), number, f" {rows.scores[row]:.2f}"))
    canvas = Image.new("RGB", (picture.width * 2 + 8, picture.height), "white")
    for x, boxed in ((0, truth), (picture.width + 8, found)):
        panel = picture.copy()
        for box, number, suffix in boxed:
            draw_box(panel, box, split.categories.names[number] + suffix, _COLOURS[number % len(_COLOURS)])
        canvas.paste(panel, (x, 0))
    return canvas


def draw_box(picture: Image.Image, box_xyxy: np.ndarray, label: str, colour: str) -> None:
    """Draw a labelled box (pixels) into `picture`; the label stays inside the picture."""
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(12)
    x1, y1, x2, y2 = (float(v) for v in box_xyxy)
    draw.rectangle((x1, y1, x2, y2), outline=colour, width=2)
    width, height = draw.textlength(label, font) + 4, 15
    left = min(max(x1, 0.0), picture.width - width)
    top = min(max(y1 - height, 0.0), picture.height - height)
    draw.rectangle((left, top, left + width, top + height), fill=colour)
    draw.text((left + 2, top + 1), label, fill="white", font=font)
