"""The report's charts: precision and recall, scores, latency, training."""

# T = 10 IoU thresholds, K categories by id

from pathlib import Path

import numpy as np

from ssd_graph.report.charts import Axis, Line, Mark, chart, outline
from ssd_graph.scoring.diagnosis import sweep
from ssd_graph.scoring.evaluate import CocoScores
from ssd_graph.scoring.matching import NO_OBJECT, Matches
from ssd_graph.training.metrics import read_records

NUM_CLASSES = 3
"""Classes with the best curves that are shown, and as many with the worst."""

_RECALLS = np.linspace(0, 1, 101)
_NUM_BINS = 40
_PERCENTILES = {"median": 50, "90 %": 90, "99 %": 99}
_PRECISION, _RECALL = Axis("precision"), Axis("recall")


def precision_recall(scores: CocoScores, num_objects: np.ndarray) -> str:
    """Mean curves at three demands on the overlap, and those of single classes, with `num_objects` [K], at IoU 0.5."""
    known = np.flatnonzero((scores.precision > -1).all((0, 1)))
    if not len(known):
        return "<p>There are no objects, so there are no curves.</p>"
    curves = scores.precision[:, :, known].mean(2)  # [T, 101]
    overall = [
        Line("IoU 0.5", _RECALLS, curves[0], "s0"),
        Line("IoU 0.75", _RECALLS, curves[5], "s1"),
        Line("mean of IoU 0.5 to 0.95", _RECALLS, curves.mean(0), "s2"),
    ]
    areas = ", ".join(f"{line.label}: mean precision {line.y.mean():.2f}" for line in overall)
    title, shown = _classes_to_show(scores, num_objects, known)
    names, ap50 = list(scores.per_class), scores.precision[0].mean(0)
    lines = [
        Line(f"{names[k]} {ap50[k]:.2f}", _RECALLS, scores.precision[0, :, k], f"s{n}") for n, k in enumerate(shown)
    ]
    words = f"Precision against recall; AP at IoU 0.5: {', '.join(line.label for line in lines)}."
    return chart("Mean over classes", f"Precision against recall. {areas}.", _RECALL, _PRECISION, overall) + chart(
        title, words, _RECALL, _PRECISION, lines
    )


def _classes_to_show(scores: CocoScores, num_objects: np.ndarray, known: np.ndarray) -> tuple[str, np.ndarray]:
    """The best and worst classes by AP at IoU 0.5, of the half with more objects: a few objects give no curve."""
    ap50 = scores.precision[0].mean(0)
    if len(known) <= 2 * NUM_CLASSES:
        return "Each class, IoU 0.5", known[np.argsort(-ap50[known], kind="stable")]
    counts = num_objects[known]
    frequent = known[counts >= np.median(counts)]
    order = frequent[np.argsort(-ap50[frequent], kind="stable")]
    ends = order if len(order) <= 2 * NUM_CLASSES else np.concatenate([order[:NUM_CLASSES], order[-NUM_CLASSES:]])
    return "Best and worst of the frequent classes, IoU 0.5", ends


def score_charts(matches: Matches, threshold: float) -> str:
    """Precision, recall and F1 against the score threshold, with a mark at `threshold`, and a histogram of scores."""
    curve = sweep(matches)
    quality = [
        Line("precision", curve.thresholds, curve.precision, "s0"),
        Line("recall", curve.thresholds, curve.recall, "s1"),
        Line("F1", curve.thresholds, curve.f1, "s2"),
    ]
    edges = np.linspace(0, 1, _NUM_BINS + 1)
    true, false = (
        np.histogram(matches.rows.scores[chosen], edges)[0]
        for chosen in (matches.object_of >= 0, matches.object_of == NO_OBJECT)
    )
    top = 10 ** np.ceil(np.log10(max(true.max(), false.max(), 10)))
    counts = [
        Line("on an object of its class", *outline(edges, true), "true", filled=True),
        Line("false", *outline(edges, false), "false"),
    ]
    mark = [Mark(f"threshold {threshold:.2f}", threshold)]
    return chart(
        "What a score threshold gives",
        f"Precision, recall and F1 against the threshold; {threshold:.2f} is marked.",
        Axis("score threshold"),
        Axis("share"),
        quality,
        mark,
    ) + chart(
        "Scores of true and false detections",
        f"Histogram of scores: {true.sum()} detections on an object of their class, {false.sum()} false.",
        Axis("score of a detection"),
        Axis("detections, logarithmic", 0.5, float(top), log=True),
        counts,
        mark,
    )


def latency_chart(seconds: np.ndarray) -> str:
    """Histogram of the times of single calls, with three percentiles."""
    milliseconds = 1e3 * seconds
    percentiles = np.percentile(milliseconds, list(_PERCENTILES.values()))
    # A pause of the machine must not squeeze all other calls into one bar.
    low, high = 0.95 * milliseconds.min(), max(1.25 * percentiles[2], 1.05 * milliseconds.min())
    counts, edges = np.histogram(milliseconds, _NUM_BINS, (low, high))
    marks = [Mark(f"{name} {p:.1f} ms", float(p)) for name, p in zip(_PERCENTILES, percentiles, strict=True)]
    words = ", ".join(mark.label for mark in marks)
    beyond = int((milliseconds > high).sum())
    return chart(
        "Time of a call" + (f" ({beyond} longer not shown)" if beyond else ""),
        f"Histogram of the times of {len(milliseconds)} calls: {words}, longest {milliseconds.max():.1f} ms.",
        Axis("milliseconds", float(low), float(high)),
        Axis("calls", 0, 1.15 * float(counts.max())),
        [Line("calls", *outline(edges, counts), "s0", filled=True)],
        marks,
    )


def training_charts(metrics: Path) -> str:
    """Losses and validation AP of a metrics.jsonl; nothing where it has no training record."""
    try:
        return _training_charts(metrics)
    except (LookupError, TypeError, ValueError, ArithmeticError):
        return f"<p>The records in {metrics.name} beside the model are not those of a run.</p>"


def _training_charts(metrics: Path) -> str:
    train, validation = read_records(metrics, "train"), read_records(metrics, "validation")
    if not train:
        return ""
    steps = np.array([r["step"] for r in train], np.float64)
    axis = Axis("step", 0, float(max(steps[-1], *(r["step"] for r in validation), 1)))
    keys = {"loss": "loss", "class_loss": "class loss", "box_loss": "box loss"}
    losses = [
        Line(label, steps, _finite([r[key] for r in train]), f"s{n}") for n, (key, label) in enumerate(keys.items())
    ]
    drawn = np.concatenate([line.y for line in losses])
    drawn = drawn[drawn > 0]
    result = ""
    if len(drawn):
        y = Axis("loss per positive default box, logarithmic", float(drawn.min()), 1.05 * float(drawn.max()), log=True)
        result = chart(
            "Training loss", f"The loss goes from {losses[0].y[0]:.3g} to {losses[0].y[-1]:.3g}.", axis, y, losses
        )
    if validation:
        ap = _finite([r["AP"] for r in validation])
        line = Line("AP", np.array([r["step"] for r in validation], np.float64), ap, "s0")
        top = max(1.1 * float(np.nanmax(ap, initial=0.01)), 0.01)
        result += chart("Validation AP", f"AP is {ap[-1]:.3f} in the end.", axis, Axis("AP", 0, top), [line])
    return result


def _finite(values: list[float]) -> np.ndarray:
    """A diverged run's infinities as gaps."""
    array = np.array(values, np.float64)
    return np.where(np.isfinite(array), array, np.nan)
