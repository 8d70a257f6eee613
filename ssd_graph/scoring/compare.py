"""What changed between two evaluations of the same images, and whether the images can tell, without torch.

Images are drawn with replacement, as many as there are, the same for both evaluations; each draw gives two
APs and their difference. The interval holds the middle 95 % of the differences. It speaks of the choice of
images alone: another training run with another seed varies as well.
"""

# B resamples, T = 10 IoU thresholds, K categories by id

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssd_graph.cli import InputError
from ssd_graph.data.coco import CocoSplit, find_annotations, load_split
from ssd_graph.scoring.bootstrap import LEVEL, ResampledAp, draw_images, interval, mean_ap
from ssd_graph.scoring.detections import DetectionRows
from ssd_graph.scoring.evaluate import STAT_NAMES, CocoScorer
from ssd_graph.scoring.summary import detections_of, empty_images, read_summary

NUM_RESAMPLES = 1000
SEED = 1
MIN_IMAGES = 10
"""On fewer there are no intervals, of a class or of all: draws of a handful are too much alike."""

_AGREEMENT = 1e-6
"""How far a summary's AP may be from that of its detections."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What tools/eval_onnx.py left in a folder."""

    path: Path
    """The summary.json."""
    summary: dict[str, Any]
    rows: DetectionRows


@dataclass(frozen=True, slots=True)
class Change:
    """A number of two evaluations."""

    a: float | None
    """None where there are no objects."""
    b: float | None
    low: float | None = None
    """Ends of the interval of the difference; None where it was not resampled."""
    high: float | None = None

    @property
    def difference(self) -> float | None:
        """B less A."""
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def includes_zero(self) -> bool | None:
        """Whether the interval does; None without one."""
        return None if self.low is None or self.high is None else self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome."""

    a: Evaluation
    b: Evaluation
    num_resamples: int
    stats: dict[str, Change]
    """By name, in the order of STAT_NAMES; AP, AP50 and AP75 have intervals, given MIN_IMAGES with objects."""
    per_class: dict[str, Change]
    """AP by class, in the order of category ids; classes on at least MIN_IMAGES images have intervals."""
    num_objects: dict[str, int]
    """By class."""

    def verdict(self) -> str:
        """What the interval of the difference in AP says, in a sentence or two."""
        ap = self.stats["AP"]
        if self.a.summary["detections_sha256"] == self.b.summary["detections_sha256"]:
            return "The detections are the same."
        if ap.difference is None:
            return "There are no objects, so there is nothing to compare."
        if ap.includes_zero is None:
            return f"AP changes by {ap.difference:+.4f}. Fewer than {MIN_IMAGES} images have objects: too few to tell."
        told = "includes 0: these images cannot tell the two apart" if ap.includes_zero else "does not include 0"
        return f"AP changes by {ap.difference:+.4f}. The {LEVEL:.0%} interval of the change {told}."

    def to_json(self) -> dict[str, Any]:
        """Everything, for `json.dumps`."""
        return {
            "a": str(self.a.path),
            "b": str(self.b.path),
            "num_images": self.a.summary["num_images"],
            "num_resamples": self.num_resamples,
            "level": LEVEL,
            "verdict": self.verdict(),
            "stats": {name: _change_json(change) for name, change in self.stats.items()},
            "per_class": {
                name: {**_change_json(change), "num_objects": self.num_objects[name]}
                for name, change in self.per_class.items()
            },
        }

    def table(self, num_classes: int = 10) -> str:
        """The twelve numbers, and AP of the classes that changed most, for a console."""
        return "\n".join(_lines(self, num_classes))


def load_evaluation(path: Path) -> Evaluation:
    """Read a summary.json, or the one in a folder, and the detections.json beside it.

    Raises:
        InputError: a file is missing, or the two do not belong together.
    """
    path = path / "summary.json" if path.is_dir() else path
    summary = read_summary(path)
    rows = detections_of(path, summary)
    if rows is None:
        raise InputError(f"no detections.json beside {path}, or not what that was computed from; evaluate again")
    return Evaluation(path, summary, rows)


def compare(
    a: Evaluation, b: Evaluation, root: Path, num_resamples: int = NUM_RESAMPLES, seed: int = SEED
) -> Comparison:
    """Compare two evaluations on the COCO folder `root`.

    Raises:
        InputError: they are not of the same images and annotations, or `root` does not hold these.
    """
    split = _same_images(a, b, root)
    scorer = CocoScorer(split.annotation_file)
    image_ids = split.image_ids[: a.summary["num_images"]]
    resampled = [ResampledAp(scorer.match(side.rows, image_ids)) for side in (a, b)]
    for side, ap in zip((a, b), resampled, strict=True):
        _check_agreement(side, ap)
    draws = draw_images(len(image_ids), num_resamples, seed)
    differences = resampled[1](draws) - resampled[0](draws)  # [B, T, K]
    num_objects = resampled[0].num_objects
    shown: dict[str, np.ndarray] = {}
    if (num_objects > 0).any(0).sum() >= MIN_IMAGES:
        shown = {"AP": differences, "AP50": differences[:, :1], "AP75": differences[:, 5:6]}
    one, other = (side.summary["stats"] for side in (a, b))
    stats = {
        name: Change(
            _defined(one[name]),
            _defined(other[name]),
            *(interval(mean_ap(shown[name])) if name in shown else (None, None)),
        )
        for name in STAT_NAMES
    }
    if len(num_objects) != len(a.summary["per_class"]):
        raise InputError(f"{a.path} does not have the classes of {split.annotation_file}; evaluate again")
    enough = (num_objects > 0).sum(1) >= MIN_IMAGES
    per_class = {
        name: Change(
            a.summary["per_class"][name],
            b.summary["per_class"][name],
            *(interval(differences[:, :, k].mean(1)) if enough[k] else (None, None)),
        )
        for k, name in enumerate(a.summary["per_class"])
    }
    counts = dict(zip(per_class, num_objects.sum(1).tolist(), strict=True))
    return Comparison(a, b, num_resamples, stats, per_class, counts)


def _same_images(a: Evaluation, b: Evaluation, root: Path) -> CocoSplit:
    one, other = (side.summary for side in (a, b))
    if one["annotations"]["sha256"] != other["annotations"]["sha256"]:
        raise InputError(f"{a.path} and {b.path} were scored on different annotations; evaluate both on the same")
    if one["num_images"] != other["num_images"]:
        raise InputError(
            f"{a.path} has {one['num_images']} images and {b.path} {other['num_images']}; evaluate both on the same"
        )
    if list(one["per_class"]) != list(other["per_class"]):
        raise InputError(f"{a.path} and {b.path} name different classes; evaluate both again with one version")
    if empty_images(one) != empty_images(other):
        raise InputError(f"{a.path} has --empty-images {empty_images(one)} and {b.path} not; evaluate both alike")
    for name in ("val", "train"):
        file = find_annotations(root, name)
        if file and hashlib.sha256(file.read_bytes()).hexdigest() == one["annotations"]["sha256"]:
            return load_split(root, name, empty_images=empty_images(one))
    raise InputError(f"{root} does not hold the annotations that {a.path} was scored on; give their folder with --data")


def _check_agreement(side: Evaluation, ap: ResampledAp) -> None:
    """Which images were scored is not in the summary, so the AP of those assumed must be the summary's."""
    value = mean_ap(ap(np.ones((ap.num_images, 1))))[0]
    expected = side.summary["stats"]["AP"]
    if abs((-1 if np.isnan(value) else value) - expected) > _AGREEMENT:
        raise InputError(
            f"{side.path} says AP {expected:.6f}, its detections have {value:.6f}; evaluate again with this version"
        )


def _change_json(change: Change) -> dict[str, Any]:
    return {**asdict(change), "difference": change.difference, "includes_zero": change.includes_zero}


def _defined(value: float) -> float | None:
    return None if value < 0 else value


def _lines(comparison: Comparison, num_classes: int) -> Iterator[str]:
    a, b = comparison.a, comparison.b
    images = f"{a.summary['num_images']} images of {a.summary['annotations']['file']}"
    yield f"A  {a.path}\nB  {b.path}\n{images}, resampled {comparison.num_resamples} times\n"
    tested = {name: c for name, c in comparison.per_class.items() if c.includes_zero is not None}
    largest = sorted(
        (name for name in tested if tested[name].difference), key=lambda n: -abs(tested[n].difference or 0)
    )
    largest = largest[:num_classes]
    width = max(len(name) for name in ("AR100", *largest))
    head = f"{'':{width}}{'A':>9}{'B':>9}{'change':>9}   {LEVEL:.0%} interval"
    yield head
    yield from (_row(f"{name:{width}}", change) for name, change in comparison.stats.items())
    yield f"\n{comparison.verdict()}"
    if largest:
        expected = (1 - LEVEL) * len(tested)
        certain = sum(not change.includes_zero for change in tested.values())
        yield (
            "\nAP of the classes that change most. The interval leaves out 0 for "
            f"{certain} of {len(tested)} classes on {MIN_IMAGES} images\n"
            f"or more; if nothing truly changed, it would for about {expected:{'.0f' if expected >= 1 else '.1g'}}.\n"
        )
        yield head
        yield from (
            f"{_row(f'{name:{width}}', tested[name])}  ({comparison.num_objects[name]} objects)" for name in largest
        )


def _row(name: str, change: Change) -> str:
    def number(value: float | None, sign: str = "") -> str:
        return "-" if value is None else f"{value:{sign}.4f}"

    text = f"{name}{number(change.a):>9}{number(change.b):>9}{number(change.difference, '+'):>9}"
    if change.includes_zero is not None:
        text += f"   {number(change.low, '+')} to {number(change.high, '+')}{'  includes 0' * change.includes_zero}"
    return text
