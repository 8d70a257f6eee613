"""A signal is noted once and, some seconds later, does again what it did; threads note nothing."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ssd_graph.training.launch import launch
from ssd_graph.training.stop import stop_requests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("later", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_its_echo_is_not_and_a_later_one_is_not_held_back(number, later, monkeypatch):
    seen, now = [], [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    before = {n: signal.signal(n, lambda *_: seen.append("before")) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        with stop_requests() as requested:
            assert requested() == 0
            for now[0] in (100.0, 104.0):
                os.kill(os.getpid(), number)
                assert (requested(), seen) == (number, [])
            now[0] = 106.0
            os.kill(os.getpid(), later)
            assert (requested(), seen) == (number, ["before"])
        os.kill(os.getpid(), number)
        assert seen == ["before", "before"]
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


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
