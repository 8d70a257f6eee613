"""What test files share: a small generated data set, the folder of real data, hypothesis' settings."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings

from ssd_graph.cli import InputError, load_no_plug_in
from ssd_graph.data.shapes import write_shapes

load_no_plug_in()

settings.register_profile("ssd_graph", deadline=None, derandomize=True, max_examples=100)
settings.load_profile("ssd_graph")


LONGEST_FIRST = (
    *("npu/test_lower.py", "training/test_resume_ranks.py", "gpu/test_replay.py", "training/test_resume.py"),
    *("npu/test_replay.py", "test_real_images.py", "training/test_train.py", "training/test_continued.py"),
    *("training/test_recording_device.py", "test_commands.py"),
)
"""Files that take a minute or more. If one came last, a core would run it alone."""


def pytest_collection_modifyitems(items):
    def place(item):
        name = item.path.relative_to(Path(__file__).parent).as_posix()
        return LONGEST_FIRST.index(name) if name in LONGEST_FIRST else len(LONGEST_FIRST)

    items.sort(key=place)


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory):
    """A generated COCO folder of 12 training and 6 validation images; read only."""
    root = tmp_path_factory.mktemp("tiny_coco")
    write_shapes(root, {"train": 12, "val": 6})
    return root


@pytest.fixture
def own_coco(tiny_coco, tmp_path):
    """A copy of tiny_coco whose files a test may change."""
    return shutil.copytree(tiny_coco, tmp_path / "coco")


def edit_annotations(root, change, *splits):
    """Let `change` alter the content of a COCO folder's annotation files, by default of both."""
    for split in splits or ("train", "val"):
        file = root / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))


@pytest.fixture
def fakes():
    """Makes fake tensors."""
    import torch
    from torch._subclasses import FakeTensorMode

    with FakeTensorMode():
        yield torch.empty


@pytest.fixture(scope="session")
def shared():
    """The folder with real COCO images (coco_mini) and published evaluator numbers (golden)."""
    if "SSD_GRAPH_SHARED" not in os.environ:
        pytest.skip("SSD_GRAPH_SHARED is not set to the folder that holds coco_mini and golden")
    return Path(os.environ["SSD_GRAPH_SHARED"])


@pytest.fixture(scope="session")
def trained(tiny_coco, tmp_path_factory):
    """The folder of a six-step run of ssd300-nano on tiny_coco: last.pth, best.pth, metrics.jsonl, model.onnx."""
    from ssd_graph.checkpoints.checkpoint import load_checkpoint
    from ssd_graph.onnx_model.export import export_onnx, sample_images

    out = tmp_path_factory.mktemp("trained")
    train_tiny(tiny_coco, out, max_steps=6)
    export_onnx(load_checkpoint(out / "last.pth"), out / "model.onnx", sample_images(None))
    return out


@pytest.fixture(scope="session")
def known_coco(trained, tiny_coco, tmp_path_factory):
    """tiny_coco with some of what `trained` finds as its val objects, so that AP is neither 0 nor 1; read only."""
    from ssd_graph.data.coco import load_split
    from ssd_graph.onnx_model.evaluate import evaluate_onnx

    root = shutil.copytree(tiny_coco, tmp_path_factory.mktemp("known") / "coco")
    rows = evaluate_onnx(trained / "model.onnx", load_split(tiny_coco, "val")).rows
    columns = zip(*(column[::9].tolist() for column in rows[:3]), strict=True)
    objects = [
        {"id": number, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for number, (image, category, box) in enumerate(columns, 1)
    ]
    edit_annotations(root, lambda content: content.update(annotations=objects), "val")
    return root


@pytest.fixture(scope="session")
def overfitted(shared, tmp_path_factory):
    """A folder with ssd300-nano trained for 110 steps on four real images without augmentation, and its data."""
    from ssd_graph.config import NO_AUGMENT, RECIPES
    from ssd_graph.training.options import TrainOptions
    from ssd_graph.training.train import train

    out = tmp_path_factory.mktemp("overfitted")
    real_subset(shared / "coco_mini", out / "data", num_images=4, every_category=False)
    recipe = replace(
        RECIPES["shapes"],
        batch_size=4,
        learning_rate=0.04,
        weight_decay=5e-3,
        warmup_epochs=10.0,
        decay_epochs=(97.0,),
        epochs=110.0,
        evaluation_epochs=(),
        augment=NO_AUGMENT,
    )
    train(TrainOptions(data=str(out / "data"), preset="ssd300-nano", recipe=recipe, backend="eager", out=out))
    return out


def real_subset(coco, root, num_images, every_category=True):
    """A COCO folder whose two splits are the same few real images, each with one to six boxes and no crowd.

    Without `every_category` it has only the categories of these: 81 classes cost four times as much.
    """
    content = json.loads((coco / "annotations" / "instances_train2017.json").read_text())
    of_image = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    fit = [i for i in content["images"] if 1 <= len(of_image[i["id"]]) <= 6]
    images = [i for i in fit if not any(a["iscrowd"] for a in of_image[i["id"]])][:num_images]
    annotations = [a for image in images for a in of_image[image["id"]]]
    shown = {a["category_id"] for a in annotations}
    categories = [c for c in content["categories"] if every_category or c["id"] in shown]
    (root / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        subset = {"images": images, "annotations": annotations, "categories": categories}
        (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(subset))
        (root / f"{split}2017").symlink_to((coco / "train2017").resolve())


def refusal(call, *arguments, **options):
    """The one line of the InputError with which a call must end."""
    with pytest.raises(InputError) as caught:
        call(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def train_tiny(data, out, **changes):
    """Train ssd300-nano in this process, uncompiled."""
    from ssd_graph.config import RECIPES
    from ssd_graph.training.options import TrainOptions
    from ssd_graph.training.train import train

    recipe = replace(RECIPES["shapes"], batch_size=4, epochs=50.0, evaluation_epochs=tuple(range(1, 50)))
    options = TrainOptions(data=str(data), preset="ssd300-nano", recipe=recipe, backend="eager", workers=0, out=out)
    train(replace(options, **{"print_every": 2, **changes}))
