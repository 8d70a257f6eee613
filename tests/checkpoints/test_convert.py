"""Published files become checkpoints that the other commands read, and checkpoints become published files."""

import pytest
import torch

from ssd_graph.checkpoints.checkpoint import load_checkpoint
from ssd_graph.checkpoints.convert import export_published, import_published, load_scorable, load_weights
from ssd_graph.cli import InputError
from ssd_graph.config import model_config
from ssd_graph.data.coco import Categories, load_split
from ssd_graph.data.coco80 import COCO80
from ssd_graph.graph.model import SSD300, skeleton
from ssd_graph.graph.state import StateLayout
from tests.checkpoints.test_published import Malicious, network, require_equal, saved
from tests.conftest import train_tiny
from tests.run import command_here, refused

CONVERT = "tools/convert_checkpoint.py"


def read(path):
    return torch.load(path, weights_only=True)


@pytest.fixture
def asc_file(tmp_path):
    """A file as ASC writes it, of 80 categories."""
    return saved(tmp_path / "iter_183250.pt", network("asc", 81).state_dict())


def test_a_published_file_becomes_a_checkpoint_of_cocos_categories_at_step_0(asc_file, tmp_path):
    import_published(asc_file, tmp_path / "ckpt.pth")
    checkpoint = load_checkpoint(tmp_path / "ckpt.pth")
    assert (checkpoint.model, checkpoint.categories) == (model_config("ssd300-nano", 81), COCO80)
    assert (checkpoint.step, checkpoint.optimizer["momentum"].abs().max()) == (0, 0.0)
    assert checkpoint.run["imported"] == "iter_183250.pt"


@pytest.mark.parametrize("layout", ["asc", "ref"])
def test_there_and_back_again_loses_nothing(layout, tmp_path):
    names = dict(enumerate(("background", *COCO80.names)))
    more = {"label_map": names} if layout == "ref" else {}
    source = saved(tmp_path / "a.pt", network(layout, 81).state_dict(), **more)
    import_published(source, tmp_path / "ckpt.pth")
    export_published(tmp_path / "ckpt.pth", tmp_path / "b.pt", layout)
    before, after = read(source), read(tmp_path / "b.pt")
    require_equal(dict(before.pop("model")), after.pop("model"))
    assert before == after


def test_a_trained_checkpoint_goes_there_and_back_and_counts_its_steps(trained, tiny_coco, tmp_path):
    original = load_checkpoint(trained / "last.pth")
    for layout in ("asc", "ref"):
        export_published(trained / "last.pth", tmp_path / "a.pt", layout)
        published = import_published(tmp_path / "a.pt", tmp_path / "b.pth", str(tiny_coco))
        assert published.num_batches == original.step == 6
        again = load_checkpoint(tmp_path / "b.pth")
        assert (again.model, again.categories) == (original.model, original.categories)
        require_equal(again.tensors, original.tensors)


def test_exports_are_in_torchs_oldest_format(trained, tmp_path):
    export_published(trained / "last.pth", tmp_path / "a.pt", "asc")
    assert not (tmp_path / "a.pt").read_bytes().startswith(b"PK")


@pytest.mark.parametrize("count", ["6", -1, 2**63, [6]])
def test_a_count_of_batches_that_is_none_is_refused(trained, tmp_path, count):
    content = torch.load(trained / "last.pth", weights_only=True)
    content["run"]["num_batches"] = count
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"it counts .* batches"):
        export_published(tmp_path / "a.pth", tmp_path / "a.pt", "asc")


def test_training_begins_with_an_imported_network(tiny_coco, tmp_path):
    num_classes = load_split(tiny_coco, "val").categories.num_classes
    source = saved(tmp_path / "a.pt", network("asc", num_classes).state_dict())
    import_published(source, tmp_path / "ckpt.pth", str(tiny_coco))
    train_tiny(tiny_coco, tmp_path / "run", checkpoint=tmp_path / "ckpt.pth", max_steps=1)
    assert load_checkpoint(tmp_path / "run" / "last.pth").step == 1
    with pytest.raises(InputError, match="begin with it by --checkpoint"):
        train_tiny(tiny_coco, tmp_path, resume=str(tmp_path / "ckpt.pth"), max_steps=1)


def test_categories_that_do_not_fit_are_refused(tiny_coco, asc_file, tmp_path):
    three = saved(tmp_path / "three.pt", network("asc", 4).state_dict())
    named = saved(tmp_path / "named.pt", network("ref", 81).state_dict(), label_map=dict(enumerate("x" * 81)))
    for source, data, words in (
        (three, None, "has 3 categories, not COCO's 80: give --data"),
        (asc_file, str(tiny_coco), "has 80 categories, --data"),
        (named, None, "names 'x' where the data set has 'person'"),
    ):
        with pytest.raises(InputError, match=words):
            import_published(source, tmp_path / "ckpt.pth", data)
    assert not (tmp_path / "ckpt.pth").exists()


@pytest.mark.parametrize(("names", "kept"), [(COCO80.names, True), (tuple(map(str, range(80))), False)])
def test_81_classes_without_names_are_cocos(asc_file, names, kept):
    model = SSD300(model_config("ssd300-nano", 81))
    assert load_weights(asc_file, model, Categories(COCO80.ids, names)) is kept


def test_a_published_file_is_scored_as_it_is(trained, asc_file, tiny_coco, tmp_path):
    export_published(trained / "last.pth", tmp_path / "a.pt", "asc")
    ours, theirs = load_checkpoint(trained / "last.pth"), load_scorable(tmp_path / "a.pt", str(tiny_coco))
    assert (theirs.model, theirs.categories) == (ours.model, ours.categories)
    layout, device = StateLayout.of(skeleton(ours.model)), torch.device("cpu")
    assert torch.equal(theirs.state(layout, device).parameters, ours.state(layout, device).parameters)
    assert load_scorable(asc_file, str(tiny_coco)).categories == COCO80


def test_a_folder_in_the_files_place_is_refused_and_nothing_is_left(asc_file, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        import_published(asc_file, tmp_path / "out")
    assert sorted(f.name for f in tmp_path.iterdir()) == sorted([asc_file.name, "out"])


def test_coco80_is_what_cocos_annotations_list(shared):
    assert load_split(shared / "coco_mini", "val").categories == COCO80


def test_the_command_converts_both_ways(asc_file, tmp_path):
    code, out, error = command_here(CONVERT, asc_file, "--out", "ckpt.pth", cwd=tmp_path)
    assert (code, out, error) == (0, "ckpt.pth: ssd300-nano with 81 classes\n", "")
    code, _, error = command_here(CONVERT, "ckpt.pth", "--to", "asc", "--out", "back.pt", cwd=tmp_path)
    assert (code, error) == (0, "")
    require_equal(dict(read(asc_file)["model"]), read(tmp_path / "back.pt")["model"])


def test_the_command_refuses_in_one_line_and_writes_nothing(tmp_path):
    torch.save({"model": Malicious()}, tmp_path / "bad.pt")
    for arguments, words in (
        (("bad.pt", "--out", "a.pth"), "damaged or not a weights file"),
        (("bad.pt", "--to", "asc", "--out", "bad.pt"), "is the checkpoint itself"),
    ):
        assert words in refused(CONVERT, *arguments, cwd=tmp_path)


def test_an_export_of_a_published_file_or_to_an_impossible_place_is_refused(trained, asc_file, tmp_path):
    with pytest.raises(InputError, match=r"is not an ssd_graph checkpoint .*, or convert a published one with"):
        export_published(asc_file, tmp_path / "a.pt", "ref")
    with pytest.raises(InputError, match="is an ssd_graph checkpoint already; --to asc or --to ref"):
        import_published(trained / "last.pth", tmp_path / "a.pt")
    with pytest.raises(InputError, match="cannot write"):
        export_published(trained / "last.pth", asc_file / "a.pt", "ref")
