"""The user's commands as tests start them: each in a process, or in this one, which spares seconds of importing."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from unittest.mock import patch

import pytest

from tests import REPOSITORY


def command(script, *arguments, cwd):
    """Run a script of the repository and return (exit code, stdout, stderr)."""
    environment = {k: v for k, v in os.environ.items() if k != "SSD_GRAPH_DATA"}
    words = [sys.executable, REPOSITORY / script, *arguments]
    done = subprocess.run(list(map(str, words)), cwd=cwd, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


def exit_code(script, *arguments):
    """How a script of the repository ends, run in this process and in the current folder."""
    words = [str(script), *map(str, arguments)]
    with patch.object(sys, "argv", words), pytest.raises(SystemExit) as ended:
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
    return ended.value.code


def command_here(script, *arguments, cwd):
    """As `command`, in this process."""
    out, error, here = io.StringIO(), io.StringIO(), os.environ.copy()
    here.pop("SSD_GRAPH_DATA", None)
    with (
        patch.dict(os.environ, here, clear=True),
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
    ):
        code = exit_code(script, *arguments)
    return code, out.getvalue(), error.getvalue()


def refused(script, *arguments, cwd):
    """The one line of a command that must fail cleanly and leave `cwd` as it was."""
    before = _files(cwd)
    code, out, error = command_here(script, *arguments, cwd=cwd)
    assert (code, out) == (2, "")
    assert error.count("\n") == 1, error
    assert _files(cwd) == before
    return error


def _files(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}
