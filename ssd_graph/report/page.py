"""The page: its sections in order, and their words."""

# K categories by id

import html
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ssd_graph.data.coco import CocoSplit
from ssd_graph.files import write_whole
from ssd_graph.onnx_model.evaluate import OnnxResult
from ssd_graph.onnx_model.thresholds import overall_threshold
from ssd_graph.report.confusion import confusion
from ssd_graph.report.curves import latency_chart, precision_recall, score_charts, training_charts
from ssd_graph.report.pictures import picture, ranked_images
from ssd_graph.scoring.diagnosis import Outcome, confusion_matrix, outcome
from ssd_graph.scoring.evaluate import CocoScores
from ssd_graph.scoring.matching import Matches

NUM_PICTURES = 6
"""Best images, and as many worst."""

_NONE = "&ndash;"

_OVERVIEW = {
    "average precision": {"AP": "IoU .5:.95", "AP50": "IoU .5", "AP75": "IoU .75"}
    | {"APs": "small", "APm": "medium", "APl": "large"},
    "average recall": {"AR1": "top 1", "AR10": "top 10", "AR100": "top 100"}
    | {"ARs": "small", "ARm": "medium", "ARl": "large"},
}


class Section(NamedTuple):
    """A part of the page."""

    anchor: str
    title: str
    content: str
    """HTML."""


def write_report(path: Path, result: OnnxResult, split: CocoSplit, metrics: Path | None = None) -> None:
    """Write the page for an evaluation of `split`, or of its first images.

    Args:
        metrics: the training run's metrics.jsonl, if there is one.

    Raises:
        InputError: an image cannot be read, or `path` cannot be written.
    """
    split = replace(split, upright=bool(result.summary["run"].get("upright")))
    at = outcome(matches := result.matches, overall_threshold(result.summary["thresholds"]))
    matrix = confusion_matrix(matches, at, np.sort(split.categories.ids))
    sections = [
        _overview(result.scores.stats),
        _classes(result.scores, matrix),
        _curves(result.scores, matrix, matches, at),
        _confusion(matrix, list(result.scores.per_class), at),
        *_pictures(split, matches, at),
        *_latency(result.seconds, result.summary),
        *_training(metrics),
        _provenance(result.summary),
    ]
    # Names of files and classes may hold what is no text of UTF-8.
    write_whole(path, _page(result.summary, sections).encode("utf-8", "backslashreplace"))


def _page(summary: dict[str, Any], sections: list[Section]) -> str:
    model = html.escape(summary["model"]["preset"])
    style = Path(__file__).with_name("style.css").read_text(encoding="utf-8")
    links = "".join(f'<a href="#{anchor}">{title}</a>' for anchor, title, _ in sections)
    body = "\n".join(
        f'<section id="{anchor}"><h2>{title}</h2>{content}</section>' for anchor, title, content in sections
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{model}: AP {_score(summary["stats"]["AP"])}</title>\n'
        f'<style>\n{style}</style></head>\n<body>{_header(summary)}<nav aria-label="Sections">{links}</nav>\n'
        f"<main>{body}</main></body></html>\n"
    )


def _header(summary: dict[str, Any]) -> str:
    run, versions = summary["run"], summary["versions"]
    stats = summary["stats"]
    figures = {"AP": _score(stats["AP"]), "AP50": _score(stats["AP50"])}
    figures["images"] = f"{summary['num_images']:,}"
    if not run.get("outputs"):  # else it would be the speed of reading files
        figures["images/s"] = f"{summary['images_per_second']:.1f}"
    ran = (
        f"onnxruntime {html.escape(versions['onnxruntime'])} ({html.escape(run['provider'])}, {run['threads']} "
        f"thread{'s' * (run['threads'] != 1)})"
    )
    return (
        f"<header><p>Evaluation report</p><h1>{html.escape(summary['model']['preset'])}</h1>"
        f"<p>{html.escape(summary['model']['file'])} on {html.escape(summary['annotations']['file'])}, by "
        f"{'another program' if run.get('outputs') else ran}</p><dl>"
        + "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
        + "</dl></header>"
    )


def _overview(stats: dict[str, float]) -> Section:
    tables = ""
    for caption, columns in _OVERVIEW.items():
        heads = "".join(f'<th scope="col">{name}<small>{of}</small></th>' for name, of in columns.items())
        cells = "".join(f"<td>{_score(stats[name])}</td>" for name in columns)
        tables += (
            f'<table class="overview"><caption>{caption}</caption><thead><tr>{heads}</tr></thead>'
            f"<tbody><tr>{cells}</tr></tbody></table>"
        )
    note = (
        "<p>COCO's twelve numbers. Small objects have an area below 32², large ones above 96² pixels of the "
        "original image; a dash means that there are none.</p>"
    )
    return Section("scores", "COCO scores", note + tables)


def _classes(scores: CocoScores, matrix: np.ndarray) -> Section:
    objects = matrix[:-1].sum(1)
    known = [(n, name, ap) for n, (name, ap) in enumerate(scores.per_class.items()) if ap is not None]
    known.sort(key=lambda item: -item[2])
    bars = "".join(
        f'<li><span>{html.escape(name)}</span><i style="--ap:{100 * ap:.1f}%"></i><b>{ap:.3f}</b>'
        f"<small>{objects[n]:,}</small></li>"
        for n, name, ap in known
    )
    absent = [html.escape(name) for name, ap in scores.per_class.items() if ap is None]
    note = f"<p>Without ground truth: {', '.join(absent)}.</p>" if absent else ""
    return Section(
        "classes",
        "Classes",
        f'<p>AP over IoU 0.5 to 0.95, best first, and the number of objects.</p><ol class="bars">{bars}</ol>{note}'
        f"<details><summary>All numbers by class</summary>{_class_table(scores, matrix)}</details>",
    )


def _class_table(scores: CocoScores, matrix: np.ndarray) -> str:
    """AP and, at the report's score threshold, precision and recall."""
    found, objects, detections = np.diag(matrix), matrix.sum(1), matrix.sum(0)
    rows = []
    for n, (name, ap) in enumerate(scores.per_class.items()):
        cells = [_score(ap), _score(scores.precision[0, :, n].mean()), _score(scores.precision[5, :, n].mean())]
        cells += [f"{found[n] / of[n]:.2f}" if of[n] else _NONE for of in (detections, objects)]
        values = "".join(f"<td>{cell}</td>" for cell in (f"{objects[n]:,}", *cells))
        rows.append(f'<tr><th scope="row">{html.escape(name)}</th>{values}</tr>')
    heads = "".join(f'<th scope="col">{h}</th>' for h in ("", "objects", "AP", "AP50", "AP75", "prec.", "recall"))
    return (
        '<table class="numbers"><caption>Precision and recall are those at the score threshold of best F1.</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _curves(scores: CocoScores, matrix: np.ndarray, matches: Matches, at: Outcome) -> Section:
    found, false, missed = (int(of.sum()) for of in (at.found, at.false, at.missed))
    note = (
        "F1 over all classes, at IoU 0.5, is highest when detections with a score below "
        f"<b>{at.threshold:.2f}</b> are left out: F1 {2 * found / (2 * found + false + missed):.2f}, precision "
        f"{found / (found + false):.2f}, recall {found / (found + missed):.2f}. The confusions and images below are "
        "those at this threshold."
        if found
        else f"At IoU 0.5 no object is found. What follows leaves out scores below {at.threshold:.2f}."
    )
    charts = precision_recall(scores, matrix[:-1].sum(1)) + score_charts(matches, at.threshold)
    return Section("curves", "Precision and recall", f'<p>{note}</p><div class="charts">{charts}</div>')


def _confusion(matrix: np.ndarray, names: list[str], at: Outcome) -> Section:
    note = (
        f"<p>Detections with a score of {at.threshold:.2f} or more. By descending score, each takes the free object "
        "of its class that it overlaps most, at IoU 0.5 or more. Those left over then take, in the same way, a free "
        "object of another class: these are the confusions. Crowds, and detections on them, do not count.</p>"
    )
    return Section("confusion", "Confusion", note + confusion(matrix, names))


def _pictures(split: CocoSplit, matches: Matches, at: Outcome) -> Iterator[Section]:
    lead = (
        f"<p>By F1 at a score of {at.threshold:.2f} or more and IoU 0.5; among equals, images with more found objects "
        "are better, then those with fewer mistakes. Ground truth is dashed, detections are solid.</p>"
        '<ul class="key"><li><i class="truth"></i>ground truth</li><li><i class="found"></i>found</li>'
        '<li><i class="false"></i>✕ false detection</li><li><i class="missed"></i>missed object</li></ul>'
    )
    groups = [
        f'<h3>{title}</h3><div class="pictures">{"".join(picture(split, matches, at, int(i)) for i in chosen)}</div>'
        for title, chosen in zip(("Best", "Worst"), ranked_images(matches, at, NUM_PICTURES), strict=True)
        if len(chosen)
    ]
    if groups:
        yield Section("images", "Best and worst images", lead + "".join(groups))


def _latency(seconds: Sequence[float], summary: dict[str, Any]) -> Iterator[Section]:
    if seconds:
        times = np.array(seconds)
        raw = ", with the boxes' decoding and NMS in numpy" * (summary["model"].get("form") == "raw")
        lead = (
            f"<p>{len(times):,} calls of the network with up to {summary['run']['batch_size']} images{raw}, without "
            f"reading and resizing: {1e3 * times.mean():.1f} ms on average, {1e3 * times.max():.1f} ms at most.</p>"
        )
        yield Section("latency", "Latency", f'{lead}<div class="charts">{latency_chart(times)}</div>')


def _training(metrics: Path | None) -> Iterator[Section]:
    if metrics is not None and metrics.is_file() and (charts := training_charts(metrics)):
        yield Section("training", "Training", f'<div class="charts">{charts}</div>')


def _provenance(summary: dict[str, Any]) -> Section:
    facts = {
        "model": summary["model"]["sha256"],
        "checkpoint": summary["model"]["checkpoint_sha256"],
        "annotations": summary["annotations"]["sha256"],
        "detections": summary["detections_sha256"],
        "versions": ", ".join(f"{name} {version}" for name, version in summary["versions"].items()),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(str(value))}</dd>" for name, value in facts.items())
    return Section("provenance", "Provenance", f'<p>Hashes are sha256 of the files.</p><dl class="facts">{rows}</dl>')


def _score(value: float | None) -> str:
    return _NONE if value is None or value < 0 else f"{value:.3f}"
