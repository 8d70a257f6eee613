"""A signal is noted once and then does again what it did; threads note nothing."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from ssd_graph.training.stop import stop_requests


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_is_noted_and_the_second_is_not_held_back(number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append("before"))
    try:
        with stop_requests() as requested:
            assert requested() == 0
            os.kill(os.getpid(), number)
            assert (requested(), seen) == (number, [])
            os.kill(os.getpid(), number)
            assert seen == ["before"]
        os.kill(os.getpid(), number)
        assert seen == ["before", "before"]
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as requested:
            os.kill(os.getpid(), signal.SIGINT)
            assert requested() == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_notes_nothing():
    def noted():
        with stop_requests() as requested:
            return requested()

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(noted).result() == 0
