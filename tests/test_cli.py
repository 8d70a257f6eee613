"""Proves how commands end (exit code, one line on stderr), and what a line of words on the way is."""

import argparse
import errno
import os
import signal
import subprocess
import sys

import pytest

import ssd_graph
from ssd_graph.cli import InputError, between, command, command_parser, not_negative, positive, run


def end_of(main, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train_graph.py"])
    with pytest.raises(SystemExit) as end:
        run(main)
    return end.value.code


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1)])
def test_a_finished_command_exits_with_its_result(monkeypatch, capsys, result, code):
    assert end_of(lambda: result, monkeypatch) == code
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("no file a.json;\n  give --data"), 2, "no file a.json; give --data"),
        (OSError(errno.EACCES, "no", "/closed/a"), 2, "cannot use /closed/a: no; give another path"),
        (OSError(errno.ENAMETOOLONG, "no", "/closed/a"), 2, "cannot use /closed/a: no; give another path"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_a_user_can_mend_or_asked_for_is_one_line(monkeypatch, capsys, error, code, line):
    def main():
        raise error

    assert end_of(main, monkeypatch) == code
    assert capsys.readouterr() == ("", f"train_graph.py: {line}\n")


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_that_leaves_ends_a_command_without_a_word(flush):
    code = f"from ssd_graph.cli import run; run(lambda: [print('x' * 9999, flush={flush}) for _ in range(99)] and 0)"
    unread, stdout = os.pipe()
    os.close(unread)
    done = subprocess.run([sys.executable, "-c", code], stdout=stdout, stderr=subprocess.PIPE)
    os.close(stdout)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_pipe_that_breaks_is_an_error():
    code = "import os; from ssd_graph.cli import run; r, w = os.pipe(); os.close(r); run(lambda: os.write(w, b'a'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert done.returncode == 1
    assert b"BrokenPipeError" in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
@pytest.mark.parametrize(("main", "code"), [("print", 0), ("lambda: int(1 / 0)", 1), ("refuse", 2)])
def test_a_command_without_stdout_or_stderr_ends_as_any(closed, main, code):
    command = "from ssd_graph.cli import InputError, run\ndef refuse(): raise InputError(str())\n" + f"run({main})"
    done = subprocess.run(f"exec {sys.executable} -c '{command}' {closed}", shell=True, capture_output=True)
    assert done.returncode == code
    assert bool(done.stderr) == (code > 0 and closed == ">&-")


def test_a_command_without_torch_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)

    def main():
        import torch  # noqa: F401

    assert end_of(main, monkeypatch) == 2
    assert capsys.readouterr().err == "train_graph.py: torch is not installed; run `pip install torch`\n"


def test_another_missing_module_keeps_its_traceback():
    def main():
        import a_module_that_does_not_exist  # noqa: F401  # type: ignore

    with pytest.raises(ModuleNotFoundError):
        run(main)


def test_a_decorated_function_ends_as_a_command(monkeypatch, capsys):
    @command
    def main():
        raise InputError("give --data")

    monkeypatch.setattr(sys, "argv", ["ssd-train"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert capsys.readouterr().err == "ssd-train: give --data\n"


def test_what_a_console_cannot_show_is_escaped():
    code = "from ssd_graph.cli import run; run(lambda: print('\\ud800 caf\\xe9'))"
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "\\ud800 caf\\xe9\n"


DOC = """Train.

python tools/train_graph.py --npus 8    # eight
torchrun tools/train_graph.py
"""


@pytest.mark.parametrize(
    ("name", "line"),
    [("tools/train_graph.py", "python tools/train_graph.py --npus 8"), ("ssd-train", "ssd-train --npus 8")],
)
def test_help_tells_the_command_that_was_used(monkeypatch, name, line):
    monkeypatch.setattr(sys, "argv", [name])
    told = command_parser(DOC).format_help()
    assert f"\n{line}    # eight\ntorchrun tools/train_graph.py\n" in told


def test_version_is_the_packages(monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        command_parser(DOC).parse_args(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"ssd_graph {ssd_graph.__version__}\n"


@pytest.mark.parametrize("rank", [False, True])
def test_a_termination_cleans_up_and_is_exit_code_143_but_of_a_rank_which_others_wait_for(rank):
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if rank else ()
    code = (
        "import os, signal\nfrom ssd_graph.cli import run\n"
        "def main():\n"
        "    try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally: print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)  # so a second one is not held back\n"
        "run(main)"
    )
    environment = os.environ | dict.fromkeys(names, "0")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    expected = (-signal.SIGTERM, "") if rank else (143, "True\n")
    assert (done.returncode, done.stdout, done.stderr) == (*expected, "")


def test_any_other_error_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 // 0)


@pytest.fixture
def parser():
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--workers", type=positive)
    parser.add_argument("--seed", type=between(0, 9))
    return parser


def test_flags_of_a_subcommand_may_have_underscores(monkeypatch):
    parser = command_parser("")
    parser.add_subparsers().add_parser("step").add_argument("--batch-size", type=positive)
    assert parser.parse_args(["step", "--batch_size", "4"]).batch_size == 4


def test_positive_takes_integers_from_one(parser):
    assert [parser.parse_args(["--workers", text]).workers for text in ("1", "12")] == [1, 12]


def test_not_negative_takes_integers_from_zero():
    assert [not_negative(text) for text in ("0", "12")] == [0, 12]
    with pytest.raises(argparse.ArgumentTypeError, match="-1: give 0 or more"):
        not_negative("-1")


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "two"])
def test_positive_refuses_anything_else(parser, text):
    with pytest.raises(argparse.ArgumentError, match="--workers"):
        parser.parse_args(["--workers", text])


def test_between_takes_integers_of_a_range_and_nothing_else(parser):
    assert [parser.parse_args(["--seed", text]).seed for text in ("0", "9")] == [0, 9]
    for text, words in (("-1", "-1: give 0 to 9"), ("10", "10: give 0 to 9"), ("0.5", "invalid integer value")):
        with pytest.raises(argparse.ArgumentError, match=words):
            parser.parse_args([f"--seed={text}"])


@pytest.mark.parametrize(
    ("variables", "heard"),
    [
        ({"RANK": "1"}, True),  # a cluster sets some of them
        ({"LOCAL_RANK": "1"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, True),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, False),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, True),
    ],
)
def test_only_ranks_of_a_launched_run_are_mute(monkeypatch, capsys, variables, heard):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def refuse():
        raise InputError("give another --out")

    assert end_of(refuse, monkeypatch) == 2
    assert bool(capsys.readouterr().err) == heard
