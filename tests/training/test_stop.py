"""A signal is noted once and, some seconds later, ends the process; threads note nothing."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import ANY

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from ssd_graph.training.launch import _cause, launch
from ssd_graph.training.options import TrainOptions
from ssd_graph.training.stop import stop_requests
from ssd_graph.training.train import train
from tests import PATIENCE

WAITING = """
import ctypes, threading
from ssd_graph.training import stop
stop._ECHO_SECONDS = 1.0
with stop.stop_requests() as requested:
    print("ready", flush=True)
    while not requested():
        threading.Event().wait(0.01)
    print(requested(), flush=True)
    while True:
        ctypes.CDLL(None).sleep(30)  # as a library that runs no Python
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("later", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_its_echo_is_not_and_a_later_one_ends_what_hangs(number, later):
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == f"{int(number)}\n"
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        time.sleep(1 * PATIENCE)
        process.send_signal(later)
        assert process.wait(timeout=10 * PATIENCE) == -later


def test_handlers_are_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    with stop_requests() as requested:
        assert requested() == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert requested() == signal.SIGTERM
    assert {number: signal.getsignal(number) for number in before} == before


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as requested:
            os.kill(os.getpid(), signal.SIGINT)
            assert requested() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_launcher_gives_its_processes_hours_to_save(monkeypatch):
    configs = []
    monkeypatch.setattr(
        "torch.distributed.launcher.api.elastic_launch", lambda config, _: configs.append(config) or print
    )
    monkeypatch.setattr("os.environ", os.environ.copy())
    launch(2, max_restarts=0)
    assert getattr(configs[0], "shutdown_timeout", 3600) >= 3600  # torch 2.11 has none


def failures(**codes):
    return {int(rank[1:]): ProcessFailure(int(rank[1:]), 1, code, "") for rank, code in codes.items()}


@pytest.mark.parametrize(
    ("ended", "rank"),
    [
        ({"r0": 1, "r1": -signal.SIGKILL}, 1),
        ({"r0": -signal.SIGBUS, "r1": 1}, 0),
        ({"r0": 1, "r1": -signal.SIGTERM}, 0),
        ({"r0": 2, "r1": -signal.SIGABRT}, 0),
    ],
)
def test_a_killed_rank_is_the_cause_of_what_the_others_meet(ended, rank):
    assert _cause(failures(**ended)) == (rank, ANY)


def test_a_run_to_be_overwritten_is_not_gone_on_with(tiny_coco, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("ssd_graph.training.train.launch", lambda *arguments: started.append(arguments))
    (tmp_path / "last.pth").touch()
    for overwrite, again in ((True, []), (False, ["--resume", "auto", "--out", str(tmp_path)])):
        resume = None if overwrite else "auto"
        options = TrainOptions(data=str(tiny_coco), out=tmp_path, overwrite=overwrite, num_devices=2, resume=resume)
        monkeypatch.setattr("ssd_graph.training.train.checkpoint_to_resume", lambda _: (None, []))
        train(options, command=True)
        assert started[-1][2]() == again
    (tmp_path / "step-00000001.pth").touch()
    assert started[0][2]() == again


def test_another_thread_notes_nothing():
    def noted():
        with stop_requests() as requested:
            return requested()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(noted).result() == 0
