"""Proves what a run writes: one JSON object a line, nothing from other ranks, and after a resume the records
of the steps before it and no others.
"""

import json

import pytest

from ssd_graph.cli import InputError
from ssd_graph.training.metrics import RunLog, duration, read_records


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run" / "metrics.jsonl"


def write(path, steps, first_step=0):
    log = RunLog(path, 100, first_step)
    for step in steps:
        log.record("train", step, loss=step / 4)
        if step % 20 == 0:
            log.record("validation", step, AP=0.5)
    log.close()


def test_a_record_is_a_line_of_json(path):
    write(path, [10, 20])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"event": "train", "step": 10, "loss": 2.5},
        {"event": "train", "step": 20, "loss": 5.0},
        {"event": "validation", "step": 20, "AP": 0.5},
    ]


def test_a_record_is_on_disk_before_the_run_ends(path):
    log = RunLog(path, 100)
    log.record("train", 1)
    assert path.read_text() == '{"event": "train", "step": 1}\n'
    log.close()


def test_records_are_read_by_event(path):
    write(path, [10, 20, 30, 40])
    assert [r["step"] for r in read_records(path, "validation")] == [20, 40]


def test_a_new_run_starts_a_new_file(path):
    write(path, [10, 20])
    write(path, [10])
    assert [r["step"] for r in read_records(path, "train")] == [10]


def test_a_resumed_run_keeps_just_the_steps_before_it(path):
    write(path, [10, 20, 30, 40])
    write(path, [30], first_step=20)
    assert [r["step"] for r in read_records(path, "train")] == [10, 20, 30]
    assert [r["step"] for r in read_records(path, "validation")] == [20]


def test_a_line_cut_off_by_a_crash_is_dropped(path):
    write(path, [10, 20])
    path.write_text(path.read_text() + '{"event": "train", "st')
    write(path, [30], first_step=25)
    assert [r["step"] for r in read_records(path, "train")] == [10, 20, 30]


@pytest.mark.parametrize("line", [b"\xff", b"[" * 100_000, b"7", b'{"event": "train"}', b'{"event": 1, "step": 2}'])
def test_records_end_at_a_line_that_is_none(path, line):
    write(path, [10, 20])
    path.write_bytes(path.read_bytes() + line + b'\n{"event": "train", "step": 30}\n')
    assert [r["step"] for r in read_records(path, "train")] == [10, 20]


def test_resuming_without_a_log_is_refused(path):
    with pytest.raises(InputError, match=r"no .*metrics\.jsonl to continue; resume in the folder"):
        RunLog(path, 100, first_step=5)


def test_lines_go_to_stdout(path, capsys):
    log = RunLog(path, 100)
    log.say("step 10 | loss 2.5")
    log.close()
    assert capsys.readouterr() == ("step 10 | loss 2.5\n", "")


def test_other_ranks_say_and_write_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    log = RunLog(None, 100)
    log.say("step 10")
    log.record("train", 10)
    log.advance()
    log.close()
    assert capsys.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_gets_no_progress_bar(path, capsys):
    log = RunLog(path, 100)
    log.advance()
    log.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0:00"),
        (59.6, "1:00"),
        (123, "2:03"),
        (3599.7, "1:00:00"),
        (3723, "1:02:03"),
        (90_000, "25:00:00"),
    ],
)
def test_durations_read_like_a_clock(seconds, text):
    assert duration(seconds) == text
