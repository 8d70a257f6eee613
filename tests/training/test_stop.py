"""A signal is noted once and, some seconds later, ends the process; threads note nothing."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from ssd_graph.training.launch import launch
from ssd_graph.training.stop import stop_requests
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


def test_another_thread_notes_nothing():
    def noted():
        with stop_requests() as requested:
            return requested()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(noted).result() == 0
