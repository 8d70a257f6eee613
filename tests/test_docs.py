"""Every command of the documentation works: it is run on a small data set, or its tool's own parser accepts it."""

import argparse
import importlib.util
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pytest

from ssd_graph.data.coco80 import COCO80
from ssd_graph.onnx_model.web import RUNTIME_FILES
from tests import REPOSITORY, markdown
from tests.checkpoints.test_published import network, saved
from tests.conftest import edit_annotations
from tests.data.convert.folders import every_layout
from tests.markdown import PAGES
from tests.run import exit_code

ONLY_PARSED = {
    "needs NPUs or GPUs": r"--[ng]pus\b",
    "trains for minutes": r"tools/train_graph\.py",
    "scores what the page's scripts make; tests/onnx_model/test_outputs.py runs it": r"eval_onnx\.py.* --outputs\b",
    "measures for minutes": r"tools/bench\.py",
    "fetches from the network": r"tools/download_coco\.py",
    "needs torch_npu; tests/npu runs it": r"tools/lower_npu\.py",
    "compiles for a minute; tests/gpu runs it": r"tools/lower_gpu\.py",
    "needs PyAV or a camera; onnx_model/test_video.py runs it": r"tools/predict_onnx\.py.* (clip\.mp4|--camera)\b",
}
"""Why a command of ours is not run, and how such a command looks."""

RUN_WHEN_SLOW = {
    "exports another form": r"export/to_onnx\.py.* --(raw|half|int8)\b",
    "captures a graph": r"tools/eval_graph\.py",
}
"""As above, of commands that `make test` only parses and `make test-slow` runs."""

OTHER_PROGRAMS = {
    "pip": "changes the environment",
    "python3": "makes an environment",
    ".": "changes the shell",
    "atc": "belongs to CANN",
    "npm": "fetches from the network",
    "tar": "unpacks what npm fetched",
    "pre-commit": "changes the clone",
}
"""What the documentation asks for that is not ours and is not run, and why."""

SHORT_TRAINING = ["--max-steps", "3", "--workers", "0", "--backend", "eager", "--overwrite"]
"""Flags that make a training short enough to be run, over what the fixture put where it goes."""

SHELL_COMMANDS = ("ln", "mkdir", "cp")
"""Run as they stand, in the page's folder."""


class Reached(BaseException):
    """A tool has made its parser."""


@cache
def parser_of(script):
    """The parser with which a script of the repository reads its arguments."""

    def stop(parser, *_):
        raise Reached(parser)

    with patch.object(argparse.ArgumentParser, "parse_args", stop), pytest.raises(Reached) as reached:
        runpy.run_path(str(REPOSITORY / script), run_name="__main__")
    return reached.value.args[0]


def require_accepted(script, arguments):
    try:
        parser_of(script).parse_args(arguments)
    except SystemExit:
        pytest.fail(f"{script} does not accept {shlex.join(arguments)}")


def run_script(script, arguments):
    """Run a script as `python SCRIPT ARGUMENTS` would in the current folder, without a new process."""
    code = exit_code(script, *arguments)
    assert not code, f"{script} {shlex.join(arguments)} ends with exit code {code}"


def check(command, *, slow=False):
    """Run or parse one command in the current folder; fail if neither is known to apply."""
    words = shlex.split(command)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, *arguments = words
    program = program.rpartition("/")[2]  # of .venv-npu/bin/python
    if program == "make":
        subprocess.run(["make", "-n", *arguments], cwd=REPOSITORY, check=True, capture_output=True)
    elif program in SHELL_COMMANDS:
        subprocess.run(command, shell=True, check=True)
    elif program == "python":
        if "--recipe finetune" in command:
            run_script(arguments[0], [*arguments[1:], *SHORT_TRAINING])
        else:
            check_python(command, arguments, ONLY_PARSED if slow else {**ONLY_PARSED, **RUN_WHEN_SLOW})
    elif program not in OTHER_PROGRAMS:
        pytest.fail(f"`{command}` has no place in tests/test_docs.py")


def check_python(command, arguments, only_parsed):
    first, *rest = arguments
    if first == "-c":
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    elif first == "-m":
        assert importlib.util.find_spec(rest[0]), f"`{command}`: no module {rest[0]}"
        missing = [word for word in rest if "/" in word and not (REPOSITORY / word.split("::")[0]).exists()]
        assert not missing, f"`{command}` names {missing[0]}, which is not there"
    elif any(re.search(look, command) for look in only_parsed.values()):
        require_accepted(first, rest)
    else:
        run_script(first, rest)


@pytest.fixture
def folder(trained, tiny_coco, tmp_path, monkeypatch):
    """The current folder: what the documentation's file names stand for, from a trained ssd300-nano."""
    for name in ("ckpt.pth", *(f"runs/{run}/best.pth" for run in ("last", "eight", "first", "mine")), "demo/last.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(trained / "last.pth", tmp_path / name)
    for name in ("model.onnx", "other.onnx", "ckpt.onnx"):
        shutil.copy(trained / "model.onnx", tmp_path / name)
    (tmp_path / "package" / "dist").mkdir(parents=True)
    for name in RUNTIME_FILES:
        (tmp_path / "package" / "dist" / name).touch()
    (tmp_path / "coco").symlink_to(tiny_coco)
    (tmp_path / "photos").symlink_to(tiny_coco / "val2017")
    shutil.copy(tiny_coco / "annotations" / "instances_val2017.json", tmp_path / "photos.json")
    every_layout(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def publish(folder):
    """A published checkpoint, and COCO's 80 categories, which it is for."""
    saved(folder / "iter_183250.pt", network("asc", 81).state_dict())
    (folder / "coco").rename(folder / "shapes")
    shutil.copytree(folder / "shapes", folder / "coco")
    categories = [{"id": number, "name": name} for number, name in zip(COCO80.ids, COCO80.names, strict=True)]
    edit_annotations(folder / "coco", lambda content: content.update(categories=categories))


@pytest.fixture(scope="module")
def already_run():
    """Commands that an earlier page has, letter by letter."""
    return set()


@pytest.mark.parametrize("slow", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["fast", "slow"])
@pytest.mark.parametrize("page", [page for page in PAGES if markdown.commands(page)], ids=lambda page: page.stem)
def test_every_command_of_a_page_works(page, slow, folder, already_run):
    if page.stem == "checkpoints":
        publish(folder)
    for number, line in markdown.commands(page):
        for command in line.split(" && "):
            print(f"{page.name}:{number}: {command}")
            if (command, slow) not in already_run:
                check(command.split(" | ")[0], slow=slow)
            already_run.add((command, slow))


def mentions():
    """(page, script, arguments) of every command in running text and tables."""
    for page in PAGES:
        for code in markdown.inline_code(page):
            if match := re.fullmatch(r"(?:python )?((?:tools|export)/\w+\.py)((?: .*)?)", code):
                yield pytest.param(match[1], match[2].split(), id=f"{page.stem}: {code}")


@pytest.mark.parametrize(("script", "arguments"), list(mentions()))
def test_commands_in_running_text_are_accepted(script, arguments):
    flags = [word for word in arguments if word.startswith("--")]
    if len(arguments) > 1 or not flags:
        assert (REPOSITORY / script).is_file()
        if arguments:
            require_accepted(script, arguments)
    else:  # one flag, as one speaks of it
        assert flags[0] in parser_of(script)._option_string_actions


@pytest.mark.parametrize("guide", ["npu", "gpu"])
def test_each_step_of_a_guide_trains_into_a_folder_of_its_own(guide):
    page = REPOSITORY / "docs" / f"{guide}.md"
    code = [*(command for _, command in markdown.commands(page)), *markdown.inline_code(page)]
    steps = [words for text in code if (words := re.fullmatch(r"python tools/train_graph\.py (.*)", text))]
    outs = [parser_of("tools/train_graph.py").parse_args(shlex.split(words[1])).out.as_posix() for words in steps]
    assert len(outs) == len(set(outs)) >= 4
    assert set(re.findall(r"(\S+)/best\.pth", "\n".join(code))) <= set(outs)


def test_the_readme_names_every_command():
    scripts = [*REPOSITORY.glob("tools/*.py"), *REPOSITORY.glob("export/*.py")]
    missing = [file.name for file in scripts if file.name not in (REPOSITORY / "README.md").read_text()]
    assert not missing


@pytest.mark.parametrize("command", ["docker run ssd_graph", "python tools/predict_onnx.py model.onnx --no-such-flag"])
def test_a_command_without_a_place_or_with_a_wrong_flag_fails(command, folder):
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        check(command)


def test_every_excuse_is_still_needed():
    told = [command for page in PAGES for _, command in markdown.commands(page)]
    for reason, look in {**ONLY_PARSED, **RUN_WHEN_SLOW}.items():
        assert any(re.search(look, command) for command in told), reason
    programs = {part.split()[0] for command in told for part in command.split(" && ")}
    assert set(OTHER_PROGRAMS) <= programs


@pytest.mark.slow
def test_the_diagram_shows_the_step_as_it_is(tmp_path):
    import torch

    drawing = runpy.run_path(str(REPOSITORY / "docs" / "draw_step.py"))
    if not torch.__version__.startswith("2.13.0"):
        pytest.skip("the diagram counts the operations of torch 2.13.0")
    assert drawing["draw"](drawing["capture"]()) == Path(drawing["PICTURE"]).read_text()
