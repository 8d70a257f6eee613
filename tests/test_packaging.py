"""Proves what a user of the published package gets: every file, and commands that say their own name."""

import os
import shutil
import subprocess
import sys
import tarfile
from zipfile import ZipFile

import pytest

import ssd_graph
from tests import REPOSITORY

pytest.importorskip("build")

NOT_SOURCES = (".*", "*.egg-info", "__pycache__", "build", "coco", "demo", "dist", "runs", "*.pth", "*.onnx")
COMMANDS = (
    *("train", "export", "web", "eval", "eval-graph", "predict", "compare", "convert"),
    *("check-coco", "to-coco", "download-coco"),
)


def run(*command, **environment):
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


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
    """A folder with the installed wheel, its commands in bin/, and a torch that cannot be imported."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = dist.glob("*.whl")
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    (target / "torch.py").write_text("raise AssertionError('torch was imported')")
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
    sources = [file for file in package.rglob("*") if file.suffix in (".py", ".css", ".json", ".html", ".js")]
    assert names == {file.relative_to(REPOSITORY).as_posix() for file in sources}


def test_the_version_is_the_packages(dist):
    assert {file.name.split("-")[1].removesuffix(".tar.gz") for file in dist.iterdir()} == {ssd_graph.__version__}


@pytest.mark.parametrize("name", COMMANDS)
def test_an_installed_command_helps_by_its_own_name_without_torch(installed, name):
    told = run(str(installed / "bin" / f"ssd-{name}"), "--help", PYTHONPATH=str(installed))
    assert told.startswith(f"usage: ssd-{name} ")
    assert f"\nssd-{name} " in told.replace("    ", "")
    assert "python tools/" not in told
    assert "python export/" not in told


def test_every_installed_command_is_tested(installed):
    assert {file.name for file in (installed / "bin").glob("ssd-*")} == {f"ssd-{name}" for name in COMMANDS}


def test_an_installed_command_tells_its_version(installed):
    told = run(str(installed / "bin" / "ssd-eval"), "--version", PYTHONPATH=str(installed))
    assert told == f"ssd_graph {ssd_graph.__version__}\n"
