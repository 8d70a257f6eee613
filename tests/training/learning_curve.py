"""How ssd300-r34 learns real photographs on a CPU, beside the reference's mathematics under torch.optim.SGD.

    python -m tests.training.learning_curve run COCO OUT             # once more goes on where a run was cut off
    python -m tests.training.learning_curve reference OUT --steps N  # the same images in the same order
    python -m tests.training.learning_curve plot OUT FILE.svg

COCO is a folder with few images. Both learn its training images by heart, unchanged, and are scored on them.
"""

import argparse
import json
import shutil
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ssd_graph.config import NO_AUGMENT, PIXEL_MEAN, PIXEL_STD, RECIPES, EvalConfig, model_config
from ssd_graph.data.coco import CocoSplit, load_split
from ssd_graph.data.evaluation import image_batches
from ssd_graph.data.loader import Batch, Loader
from ssd_graph.graph.default_boxes import default_boxes
from ssd_graph.graph.model import SSD300
from ssd_graph.graph.postprocess import Postprocess
from ssd_graph.scoring.detections import detection_rows, join_rows
from ssd_graph.scoring.evaluate import CocoScorer
from ssd_graph.training.metrics import read_records
from ssd_graph.training.options import TrainOptions
from ssd_graph.training.schedule import Schedule
from ssd_graph.training.train import train
from tests import reference

PRINT_EVERY = 10
SEED = 1
RECIPE = replace(
    RECIPES["mlperf-256"],
    batch_size=8,
    learning_rate=0.008,
    warmup_epochs=4.0,
    decay_epochs=(78.0, 87.0),
    epochs=92.0,
    evaluation_epochs=(5.0, 10.0, 20.0, 30.0, 34.0, 50.0, 60.0, 70.0, 80.0, 87.0),
    threshold=None,
    augment=NO_AUGMENT,
)


def run(coco: Path, out: Path) -> None:
    """Train and score on the training images of `coco`."""
    data = out / "data"
    (data / "annotations").mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):
        shutil.copy(coco / "annotations/instances_train2017.json", data / f"annotations/instances_{split}2017.json")
        if not (data / f"{split}2017").is_symlink():
            (data / f"{split}2017").symlink_to((coco / "train2017").resolve())
    options = TrainOptions(data=str(data), recipe=RECIPE, amp="bf16", cache="ram", seed=SEED, out=out, resume="auto")
    train(replace(options, print_every=PRINT_EVERY))


class Reference:
    """The reference's network, loss and optimiser, from the same first weights as `run`."""

    def __init__(self, split: CocoSplit) -> None:
        config = model_config("ssd300-r34", split.categories.num_classes)
        torch.manual_seed(SEED)
        self.net = reference.network(config)
        reference.load_ours(self.net, SSD300(config).state_dict())
        self.net.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.optimizer = torch.optim.SGD(
            self.net.parameters(), 0.0, momentum=RECIPE.momentum, weight_decay=RECIPE.weight_decay
        )
        self.schedule = Schedule(RECIPE, RECIPE.batch_size, len(split))
        self.defaults = torch.from_numpy(default_boxes())
        self._targets: dict[bytes, tuple[Tensor, Tensor]] = {}

    def step(self, index: int, batch: Batch) -> float:
        """The loss of a step, which is taken."""
        boxes, labels = (
            torch.stack(parts) for parts in zip(*map(self._target, batch.boxes, batch.labels), strict=True)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(index)
        self.optimizer.zero_grad()
        loss = reference.loss(*self._forward(batch.images), boxes.transpose(1, 2), labels, self.defaults)
        loss.backward()
        self.optimizer.step()
        return loss.item()

    @torch.no_grad()
    def ap(self, split: CocoSplit) -> float:
        """On the images of `split`, by the project's own postprocessing and scorer."""
        self.net.eval()
        postprocess = Postprocess(split.categories.ids, EvalConfig())
        rows = []
        for chosen, images in image_batches(split, range(len(split)), RECIPE.batch_size, 2):
            found = (o.numpy() for o in postprocess(*self._forward(images)))
            rows.append(detection_rows(split.image_ids[chosen], split.sizes[chosen], *found))
        self.net.train()
        return CocoScorer(split.annotation_file).score(join_rows(rows), split.image_ids).stats["AP"]

    def _forward(self, images: np.ndarray) -> tuple[Tensor, Tensor]:
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
        planes = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std
        with torch.autocast("cpu", torch.bfloat16):
            boxes, logits = self.net(planes.to(memory_format=torch.channels_last))
        return boxes.float(), logits.float()

    def _target(self, boxes: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
        """Of one image; they never change, and the loops are slow."""
        key = boxes.tobytes() + labels.tobytes()
        if key not in self._targets:
            real = labels > 0
            truth = torch.from_numpy(boxes[real])
            low, high = (self.defaults[:, :2] + sign * self.defaults[:, 2:] / 2 for sign in (-1, 1))
            table = torch.stack([reference.iou(box, torch.cat([low, high], 1).t()) for box in truth])
            self._targets[key] = reference.match_table(table, truth, torch.from_numpy(labels[real]), self.defaults)
        return self._targets[key]


def run_reference(out: Path, num_steps: int) -> None:
    """Train `num_steps` steps on the batches of `run`, and write their mean losses, and AP where `run` has it."""
    split = load_split(out / "data", "train")
    trained, batches = Reference(split), Loader(split, RECIPE.batch_size, RECIPE.augment, seed=SEED).batches()
    scored = {trained.schedule.step_of_epoch(epoch) for epoch in RECIPE.evaluation_epochs} | {num_steps}
    losses = []
    with open(out / "reference.jsonl", "w") as file:
        for step, batch in enumerate(tqdm(islice(batches, num_steps), total=num_steps), 1):
            losses.append(trained.step(step - 1, batch))
            if step % PRINT_EVERY == 0:
                file.write(json.dumps({"step": step, "loss": float(np.mean(losses[-PRINT_EVERY:]))}) + "\n")
            if step in scored:
                file.write(json.dumps({"step": step, "AP": trained.ap(split)}) + "\n")
            file.flush()
    batches.close()


def plot(out: Path, picture: Path) -> None:
    """Both losses and both APs over the steps, as an SVG that follows the reader's light or dark scheme."""
    ours = read_records(out / "metrics.jsonl", "train"), read_records(out / "metrics.jsonl", "validation")
    other = [json.loads(line) for line in (out / "reference.jsonl").read_text().splitlines()]
    theirs = [r for r in other if "loss" in r], [r for r in other if "AP" in r]
    last = ours[0][-1]["step"]
    parts, most = [], next(top for top in (0.2, 0.5, 1.0) if top >= max(r["AP"] for r in ours[1]))
    for left, name, kind, top in ((60, "loss", 0, 50.0), (430, "AP", 1, most)):
        for value in np.linspace(0, top, 6):
            y = 240 - 200 * value / top
            parts.append(
                f'<path class="g" d="M{left} {y}h280"/><text x="{left - 8}" y="{y + 4}" class="e">{value:g}</text>'
            )
        for step in (0, last // 2, last):
            parts.append(f'<text x="{left + 280 * step / last:.0f}" y="258" class="m">{step:,}</text>')
        parts.append(f'<text x="{left}" y="24">{name}</text><text x="{left + 140}" y="276" class="m">steps</text>')
        for css, records in (("b", theirs[kind]), ("a", ours[kind])):
            points = [(left + 280 * r["step"] / last, 240 - 200 * min(r[name] / top, 1)) for r in records]
            parts.append(f'<polyline class="{css}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
            if kind:
                parts += [f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points]
    for y, css, what in ((66, "a", "the captured step"), (86, "b", "the reference's mathematics")):
        parts.append(f'<path class="{css}" d="M150 {y - 4}h24"/><text x="180" y="{y}">{what}</text>')
    style = (
        "text{font:13px sans-serif;fill:#333}.e{text-anchor:end}.m{text-anchor:middle}.g{stroke:#8884;fill:none}"
        ".a,.b{fill:none;stroke-width:2}.a{stroke:#0b6bcb}.b{stroke:#d9480f;stroke-dasharray:5 3}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.a{stroke:#6cb4ff}.b{stroke:#ff9d66}}"
    )
    picture.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 730 290"><style>{style}</style>{"".join(parts)}</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for name, *paths in (("run", "coco", "out"), ("reference", "out"), ("plot", "out", "picture")):
        part = parts.add_parser(name)
        for path in paths:
            part.add_argument(path, type=Path)
        if name == "reference":
            part.add_argument("--steps", type=int, required=True)
    args = parser.parse_args()
    if args.part == "run":
        run(args.coco, args.out)
    elif args.part == "reference":
        run_reference(args.out, args.steps)
    else:
        plot(args.out, args.picture)


if __name__ == "__main__":
    main()
