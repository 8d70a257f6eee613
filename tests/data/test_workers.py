"""Proves that worker processes neither overwrite a batch in use nor outlive their stream: after an error, a kill,
Ctrl-C or the end of the parent no process stays, and messages name the image.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from itertools import islice

import numpy as np
import pytest
import torch

from ssd_graph.cli import InputError
from ssd_graph.config import AugmentConfig
from ssd_graph.data.coco import load_split
from ssd_graph.data.loader import Loader
from tests import PATIENCE

SCRIPT = """
import multiprocessing, sys
from pathlib import Path
from ssd_graph.cli import run
from ssd_graph.data.coco import load_split
from ssd_graph.config import AugmentConfig
from ssd_graph.data.loader import Loader

def main():
    for batch in Loader(load_split(Path(sys.argv[1]), "train"), 4, AugmentConfig(), workers=2).batches():
        print(*(process.pid for process in multiprocessing.active_children()), flush=True)

if __name__ == "__main__":
    run(main)
"""


@pytest.fixture(scope="module")
def split(tiny_coco):
    return load_split(tiny_coco, "train")


@pytest.fixture
def running(tiny_coco, tmp_path):
    """A process that iterates a loader in a process group of its own, and the ids of its workers."""
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tiny_coco)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 2
        yield process, pids
        process.kill()


def ended(pid, seconds=20):
    """Whether a process ends in time; one that nobody has waited for has."""
    for _ in range(seconds * 20):
        try:
            with open(f"/proc/{pid}/stat") as status:
                if status.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        time.sleep(0.05)
    return False


def stream(split, batch_size=2, workers=2, **options):
    return Loader(split, batch_size, AugmentConfig(), workers=workers, **options).batches()


def test_batches_that_are_kept_are_never_written_to(split):
    kept = list(islice(stream(split), 12))  # twice as many as there are buffers
    for batch, expected in zip(kept, stream(split, workers=0), strict=False):
        np.testing.assert_array_equal(batch.images, expected.images)
        np.testing.assert_array_equal(batch.boxes, expected.boxes)


@pytest.mark.parametrize("field", ["images", "hue"])
def test_a_tensor_made_of_a_batch_keeps_its_buffer(split, field):
    batches = stream(split)
    tensor = torch.from_numpy(getattr(next(batches), field))[:1]
    before = tensor.clone()
    for _ in islice(batches, 12):
        pass
    assert torch.equal(tensor, before)
    batches.close()
    assert torch.equal(tensor, before)


def test_buffers_are_used_again(split):
    batches = stream(split)
    places = {batch.images.ctypes.data for batch in islice(batches, 30)}
    batches.close()
    assert len(places) <= 6


def test_dropping_the_stream_ends_its_processes(split):
    batches = stream(split)
    next(batches)
    assert len(multiprocessing.active_children()) == 2
    del batches
    assert not multiprocessing.active_children()


def test_an_image_that_cannot_be_decoded_ends_the_stream_and_is_named(own_coco):
    split = load_split(own_coco, "train")
    split.path(3).write_bytes(split.path(3).read_bytes()[:500])
    with pytest.raises(InputError) as error:
        list(islice(stream(split), len(split)))
    assert str(split.path(3)) in str(error.value)
    assert not multiprocessing.active_children()


class BrokenCache:
    """Raises what nobody foresaw."""

    def pixels(self, i, size):
        return 1 // 0


def test_an_unforeseen_error_names_the_image_and_shows_where(split):
    with pytest.raises(RuntimeError, match=r"train2017/.*\.jpg: ZeroDivisionError") as error:
        next(stream(split, cache=BrokenCache()))
    assert "return 1 // 0" in error.value.__notes__[0]
    assert not multiprocessing.active_children()


def test_a_killed_worker_ends_the_stream_with_its_image(split):
    batches = stream(split)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"killed \(exit code -9\) at .*\.jpg; .*fewer --workers"):
        list(islice(batches, 12))
    assert time.monotonic() - begin < 10 * PATIENCE
    assert not multiprocessing.active_children()


def test_ctrl_c_ends_all_processes_with_one_line(running):
    process, pids = running
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=30 * PATIENCE)
    assert (process.returncode, error) == (130, "script.py: interrupted\n")
    assert all(ended(pid) for pid in pids)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_a_killed_parent(running, number):
    process, pids = running
    process.send_signal(number)
    process.wait(30)
    assert all(ended(pid) for pid in pids)


def resident(pid):
    """Bytes of a process that are its own: neither files nor shared memory."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon"))


@pytest.mark.slow
def test_memory_is_constant_over_five_epochs(shared):
    real = load_split(shared / "coco_mini", "train")
    batches = stream(real, batch_size=32, workers=4)
    sizes = []
    for _ in range(6):
        for batch in islice(batches, len(real) // 32 + 1):
            del batch
        pids = [os.getpid(), *(process.pid for process in multiprocessing.active_children())]
        sizes.append(sum(resident(pid) for pid in pids))
    batches.close()
    assert max(sizes[2:]) <= 1.01 * sizes[1]
