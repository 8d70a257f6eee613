"""The promises of SECURITY.md that no other test file shows, on hostile files where there can be one."""

import ast
import stat
import subprocess
import sys
import warnings
import zlib

import pytest

from ssd_graph.cli import InputError
from ssd_graph.data.decode import decode
from ssd_graph.files import atomic_write
from tests import REPOSITORY

SOURCES = [f for folder in ("ssd_graph", "tools", "export") for f in sorted((REPOSITORY / folder).rglob("*.py"))]
NETWORK = {"aiohttp", "asyncio", "ftplib", "http", "httpx", "requests", "socket", "socketserver", "ssl", "urllib"}
LOADERS = ("eval", "exec", "torch.load", "np.load")
UNPICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


def imported(file):
    """Top-level packages that a source file imports, at whatever place."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]


def calls(file):
    """(source of the function, source of the call) of every call in a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), ast.unparse(node)


def test_only_the_downloader_knows_the_network():
    folders = {f.parent.name for f in SOURCES if NETWORK & set(imported(f))}
    assert folders == {"download"}
    users = {f.name for f in SOURCES if f.parent.name != "download" and "ssd_graph.data.download" in f.read_text()}
    assert users == {"download_coco.py"}


def test_nothing_unpickles_or_evaluates():
    assert not [f.name for f in SOURCES if UNPICKLERS & set(imported(f))]
    found = [call for f in SOURCES for name, call in calls(f) if name in LOADERS or name.startswith("yaml.")]
    inductor = ["exec(code, names)", "exec(compile(source, path, 'exec'), names)"]  # its own code, of this process
    assert sorted(found) == sorted(
        [
            *inductor,
            "np.load(file)",
            "np.load(file, mmap_mode='r')",
            "torch.load(path, map_location='cpu', weights_only=True)",
            "yaml.load(file.read_bytes(), Loader=yaml.BaseLoader)",  # text, lists and dictionaries
        ]
    )
    assert not any("allow_pickle" in f.read_text() for f in SOURCES)  # whose default is False


OFFLINE = """
import sys
def forbid(event, arguments):
    # Processes of one machine meet at a file: its address is a path, a network's is a tuple.
    if event in ("socket.connect", "socket.bind") and isinstance(arguments[1], (str, bytes)): return
    if event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        raise AssertionError(event)
sys.addaudithook(forbid)
"""


def offline(code, *arguments, cwd):
    subprocess.run([sys.executable, "-c", OFFLINE + code, *map(str, arguments)], cwd=cwd, check=True)


def test_the_hook_notices_the_network(tmp_path):
    with pytest.raises(subprocess.CalledProcessError):
        offline("import socket\ntry: socket.create_connection(('127.0.0.1', 9))\nexcept OSError: pass", cwd=tmp_path)


@pytest.mark.slow
def test_a_lone_process_trains_exports_and_scores_without_the_network(tiny_coco, tmp_path):
    code = "import runpy; sys.argv = sys.argv[1:]\n"
    code += "try: runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit as end: sys.exit(end.code)"
    train = ("--preset", "ssd300-nano", "--recipe", "shapes", "--backend", "eager", "--max-steps", 1, "--batch-size", 2)
    offline(code, REPOSITORY / "tools/train_graph.py", "--data", tiny_coco, *train, "--out", tmp_path, cwd=tmp_path)
    offline(code, REPOSITORY / "export/to_onnx.py", tmp_path / "last.pth", "--out", "model.onnx", cwd=tmp_path)
    offline(code, REPOSITORY / "tools/eval_onnx.py", "model.onnx", "--data", tiny_coco, cwd=tmp_path)


def test_an_image_bomb_is_refused_before_it_is_decoded(tmp_path):
    def chunk(kind, data):
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (30_000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(bytes(90_001) * 100)
    file = tmp_path / "bomb.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    with warnings.catch_warnings(action="error"), pytest.raises(InputError, match="exceeds limit"):
        decode(file)


def test_a_file_being_written_is_its_owners_alone(tmp_path):
    with atomic_write(tmp_path / "a") as temporary:
        assert stat.S_IMODE(temporary.stat().st_mode) == 0o600
        assert temporary.parent == tmp_path
