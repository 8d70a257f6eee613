"""Proves what a user of the published package gets: every file, and commands that say their own name."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from zipfile import ZipFile

import pytest

import ssd_graph
from tests import REPOSITORY, markdown

pytest.importorskip("build")

NOT_SOURCES = (".*", "*.egg-info", "__pycache__", "build", "coco", "demo", "dist", "runs", "*.pth", "*.onnx")
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMMANDS = sorted(PROJECT["scripts"])


def run(*command, **environment):
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def canonical(requirement):
    return re.match(r"[\w-]+", requirement)[0].lower().replace("_", "-")


def unnamed():
    """The packages in pyproject.toml that docs/evaluation.md does not install."""
    of_us = map(canonical, chain(PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()))
    commands = [command for _, command in markdown.commands(REPOSITORY / "docs" / "evaluation.md")]
    (line,) = (command for command in commands if command.startswith("pip install -c "))
    return set(of_us) - {"ssd-graph", *map(canonical, line.split()[4:])}


UNNAMED = unnamed()


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """A folder with the source distribution and the wheel that was built from it."""
    sources, out = tmp_path_factory.mktemp("build") / "sources", tmp_path_factory.mktemp("dist")
    # An older build's leftovers in the working tree must not be packed.
    shutil.copytree(REPOSITORY, sources, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(sources))
    return out


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """A folder with the installed wheel and its commands in bin/, beside which only those packages can be imported that
    docs/evaluation.md installs.
    """
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = dist.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    for module, packages in packages_distributions().items():
        if UNNAMED & set(map(canonical, packages)):
            (target / f"{module}.py").write_text(f"raise ModuleNotFoundError('hidden', name='{module}')")
    return target


def test_the_source_distribution_holds_what_git_does(dist):
    if not (REPOSITORY / ".git").exists():
        pytest.skip("not a git checkout")
    listed = run("git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    wanted = {name for name in listed if not name.startswith(".") and (REPOSITORY / name).is_file()}
    (archive,) = dist.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        names = {member.name.partition("/")[2] for member in tar.getmembers() if member.isfile()}
    made = {name for name in names if name.startswith("ssd_graph.egg-info/")} | {"PKG-INFO", "setup.cfg"}
    assert names - made == wanted


def test_the_wheel_holds_the_package_alone(dist):
    (wheel,) = dist.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = REPOSITORY / "ssd_graph"
    sources = [file for file in package.rglob("*") if file.suffix in (".py", ".css", ".json", ".html", ".js", ".typed")]
    assert names == {file.relative_to(REPOSITORY).as_posix() for file in sources}


def test_the_version_is_the_packages(dist):
    assert {file.name.split("-")[1].removesuffix(".tar.gz") for file in dist.iterdir()} == {ssd_graph.__version__}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_installed_command_helps_by_its_own_name_without_most_packages(installed, name):
    told = run(str(installed / "bin" / name), "--help", PYTHONPATH=str(installed))
    assert told.startswith(f"usage: {name} ")
    assert told.count("\n") < 112
    assert f"\n{name} " in told.replace("    ", "")
    assert "python tools/" not in told
    assert "python export/" not in told


def test_what_the_evaluation_page_installs_is_enough_to_score_and_to_detect(installed, trained, tiny_coco, tmp_path):
    assert {"torch", "onnx", "pyyaml"} <= UNNAMED
    path = {"PYTHONPATH": str(installed)}
    model, image = str(trained / "model.onnx"), str(next((tiny_coco / "val2017").iterdir()))
    evaluate = (str(installed / "bin" / "ssd-eval"), model, "--data", str(tiny_coco), "--out", str(tmp_path))
    run(*evaluate, "--report", **path)
    run(*evaluate, "--scorer", "pycocotools", **path)
    code = "import sys; from ssd_graph import RECIPES, Detector, TrainOptions; Detector(sys.argv[1])(sys.argv[2])"
    run(sys.executable, "-P", "-c", code, model, image, **path)  # without the clone, which is the current folder


def test_every_installed_command_is_tested(installed):
    assert {file.name for file in (installed / "bin").glob("ssd-*")} == set(COMMANDS)


def test_an_installed_command_tells_its_version(installed):
    told = run(str(installed / "bin" / "ssd-eval"), "--version", PYTHONPATH=str(installed))
    assert told == f"ssd_graph {ssd_graph.__version__}\n"
