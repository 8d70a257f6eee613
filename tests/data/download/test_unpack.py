"""Zips are unpacked whole or not at all, into their own folder only, whatever is in them; shown with hostile zips."""

import io
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssd_graph.cli import InputError
from ssd_graph.data.download.unpack import unpack
from tests.conftest import refusal

FILES = {"val2017/1.jpg": b"one" * 1000, "val2017/sub/2.jpg": b"two"}


def zipped(files=FILES, **changes):
    """A zip with `files` (bytes by name), each entry's ZipInfo changed as given."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings(action="ignore"):
        for name, content in files.items() if isinstance(files, dict) else files:
            entry = zipfile.ZipInfo(name)
            entry.compress_type = zipfile.ZIP_DEFLATED
            for key, value in changes.items():
                setattr(entry, key, value)
            archive.writestr(entry, content)
    return buffer.getvalue()


def unpacked(tmp_path, content, max_bytes=10**6):
    """Unpack `content` into `tmp_path / "root"` and return the files there by name."""
    root = tmp_path / "root"
    root.mkdir(exist_ok=True)
    (tmp_path / "a.zip").write_bytes(content)
    unpack(tmp_path / "a.zip", root, "val2017", max_bytes)
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def refused(tmp_path, content, **options):
    """The message of a zip that must leave no trace."""
    message = refusal(unpacked, tmp_path, content, **options)
    assert sorted(f.name for f in tmp_path.rglob("*")) == ["a.zip", "root"]
    return message


def test_all_files_come_out(tmp_path):
    assert unpacked(tmp_path, zipped()) == FILES
    assert stat.S_IMODE((tmp_path / "root" / "val2017").stat().st_mode) & 0o077 == 0o077 & ~umask()


def umask():
    os.umask(value := os.umask(0))
    return value


@pytest.mark.parametrize(
    "name",
    [
        *("../evil.jpg", "val2017/../../evil.jpg", "val2017/../evil.jpg", "/evil.jpg", "//evil.jpg", "evil.jpg", ""),
        *("val2017/./evil.jpg", "val2017//evil.jpg", "train2017/1.jpg"),
        *("val2017\\..\\..\\evil.jpg", "C:\\evil.jpg", "val2017/..\\evil.jpg"),
    ],
)
def test_a_name_outside_the_folder_is_refused(tmp_path, name):
    assert "does not lie in val2017/" in refused(tmp_path, zipped({**FILES, name: b"evil"}))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_links_and_devices_are_refused(tmp_path, kind):
    message = refused(tmp_path, zipped({"val2017/1.jpg": b"/etc/passwd"}, external_attr=(kind | 0o777) << 16))
    assert "neither file nor folder" in message


def test_permissions_in_the_zip_count_for_nothing(tmp_path):
    unpacked(tmp_path, zipped(external_attr=(stat.S_IFREG | 0o6777) << 16))
    assert (tmp_path / "root" / "val2017" / "1.jpg").stat().st_mode & 0o7111 == 0


@pytest.mark.parametrize("files", [{}, {"val2017/": b""}])
def test_a_zip_without_files_is_refused(tmp_path, files):
    assert "holds no files" in refused(tmp_path, zipped(files))


def test_a_file_instead_of_the_folder_is_refused(tmp_path):
    assert "should be a folder" in refused(tmp_path, zipped({"val2017": b"x"}))


def test_a_name_used_twice_is_refused(tmp_path):
    assert "File exists" in refused(tmp_path, zipped([("val2017/1.jpg", b"a"), ("val2017/1.jpg", b"b")]))


def test_a_zip_bomb_is_refused_by_what_it_claims(tmp_path):
    content = zipped({"val2017/1.jpg": bytes(5 * 10**6)})
    assert len(content) < 10**4
    assert "would unpack to 5,004,096 bytes" in refused(tmp_path, content)


def test_many_empty_files_are_a_bomb_too(tmp_path):
    assert "would unpack to" in refused(tmp_path, zipped({f"val2017/{i}": b"" for i in range(300)}))


def test_a_zip_bomb_that_claims_little_is_stopped_there(tmp_path):
    content = zipped({"val2017/1.jpg": bytes(5 * 10**6)})
    claim = (5 * 10**6).to_bytes(4, "little")
    assert content.count(claim) == 2
    assert "damaged" in refused(tmp_path, content.replace(claim, (9).to_bytes(4, "little")))


def test_a_packing_method_that_is_not_deflate_is_refused(tmp_path):
    assert "another method" in refused(tmp_path, zipped(compress_type=zipfile.ZIP_BZIP2))


@pytest.mark.parametrize("keep", [0, 1, 100, 3000, -1, -30])
def test_a_truncated_zip_is_refused(tmp_path, keep):
    content = zipped({"val2017/1.jpg": os.urandom(5000)})
    assert "damaged" in refused(tmp_path, content[:keep])


def test_a_flipped_bit_in_a_file_is_found(tmp_path):
    content = bytearray(zipped({"val2017/1.jpg": os.urandom(5000)}))
    content[2000] ^= 1
    assert "damaged" in refused(tmp_path, bytes(content))


@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), min_size=1, max_size=8))
def test_random_damage_leaves_all_or_nothing(tmp_path_factory, damage):
    content = bytearray(zipped())
    for place, value in damage:
        content[place % len(content)] = value
    folder = tmp_path_factory.mktemp("damaged")
    try:
        files = unpacked(folder, bytes(content))
    except InputError:
        files = None
    assert not files or all(name.startswith("val2017/") for name in files)
    assert {f.name for f in folder.iterdir()} == {"a.zip", "root"}
    assert [f.name for f in (folder / "root").iterdir()] == (["val2017"] if files else [])


def test_a_link_in_the_way_is_not_followed(tmp_path):
    (tmp_path / "root").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").touch()
    (tmp_path / "root" / ".val2017.unpacking").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot unpack"):
        unpacked(tmp_path, zipped())
    assert [f.name for f in (tmp_path / "elsewhere").iterdir()] == ["precious"]


def test_a_killed_run_leaves_no_folder_and_the_next_one_finishes(tmp_path):
    files = {f"val2017/{i}.jpg": b"x" for i in range(3_000)}
    (tmp_path / "a.zip").write_bytes(zipped(files))
    code = "import sys; from pathlib import Path; from ssd_graph.data.download.unpack import unpack; "
    code += "d = Path(sys.argv[1]); unpack(d / 'a.zip', d, 'val2017', 10**9)"
    command = [sys.executable, "-c", code, str(tmp_path)]
    making, folder = tmp_path / ".val2017.unpacking" / "val2017", tmp_path / "val2017"
    with subprocess.Popen(command) as process:
        wait_for(lambda: making.is_dir() and len(os.listdir(making)) > 20, process)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert making.is_dir()
    assert not folder.exists()
    with subprocess.Popen(command) as process:
        wait_for(folder.is_dir, process)
        assert len(os.listdir(folder)) == len(files)
    assert process.returncode == 0
    assert not making.exists()


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None
        time.sleep(0.002)
