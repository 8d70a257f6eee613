"""Proves how commands end (exit code, one line on stderr) and that a file is replaced whole or not at all."""

import argparse
import stat
import sys

import pytest

from ssd_graph.cli import InputError, atomic_write, positive, run


def end_of(main, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train_graph.py"])
    with pytest.raises(SystemExit) as end:
        run(main)
    return end.value.code


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_finished_command_exits_with_its_result(monkeypatch, capsys, result, code):
    assert end_of(lambda: result, monkeypatch) == code
    assert capsys.readouterr() == ("", "")


def test_an_input_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def main():
        raise InputError("no file a.json;\n  give --data")

    assert end_of(main, monkeypatch) == 2
    assert capsys.readouterr() == ("", "train_graph.py: no file a.json; give --data\n")


def test_an_interrupt_is_exit_code_130(monkeypatch, capsys):
    def main():
        raise KeyboardInterrupt

    assert end_of(main, monkeypatch) == 130
    assert capsys.readouterr().err == "train_graph.py: interrupted\n"


def test_any_other_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--workers", type=positive)
    return parser


def test_positive_takes_integers_from_one(parser):
    assert [parser.parse_args(["--workers", text]).workers for text in ("1", "12")] == [1, 12]


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "two"])
def test_positive_refuses_anything_else(parser, text):
    with pytest.raises(argparse.ArgumentError, match="--workers"):
        parser.parse_args(["--workers", text])


def test_a_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "last.pth"
    path.write_text("old")
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "last.pth"
    path.write_text("old")

    def write_half():
        with atomic_write(path) as temporary:
            temporary.write_text("half of the ne")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_makes_missing_folders(tmp_path):
    with atomic_write(tmp_path / "runs" / "one" / "a.json") as temporary:
        temporary.write_text("{}")
    assert (tmp_path / "runs" / "one" / "a.json").read_text() == "{}"


def test_a_written_file_is_readable_by_others(tmp_path):
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == 0o644


def test_a_folder_that_cannot_be_made_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    expected = r"cannot write .*a\.json: .*; choose another place"
    with pytest.raises(InputError, match=expected), atomic_write(tmp_path / "file" / "a.json"):
        pass
