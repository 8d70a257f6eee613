"""A figure's surroundings are recorded by name."""

import platform

import onnxruntime
import pytest

from ssd_graph.onnx_model.machine import processor, versions


def test_versions_name_what_decides_the_detections():
    found = versions()
    assert found["onnxruntime"] == onnxruntime.__version__
    assert {"ssd_graph", "python", "numpy", "pillow", "pycocotools"} <= set(found)


def test_the_processor_has_a_name_and_where_linux_lists_them_its_instruction_sets():
    name = processor()
    assert name
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        with open("/proc/cpuinfo") as file:
            assert ("avx2" in name) == (" avx2 " in file.read())


KUNPENG = "processor : 0\nFeatures : fp asimd asimddp i8mm\nCPU implementer : 0x48\nCPU part : 0xd01\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (KUNPENG, "aarch64 0x48 0xd01 asimddp i8mm"),
        ("model name : EPYC\nflags : sse2 avx2\n", "EPYC avx2"),
        ("processor : 0\n", "aarch64"),
    ],
)
def test_an_arm_processor_is_named_by_its_makers_numbers(monkeypatch, cpuinfo, name):
    monkeypatch.setattr("pathlib.Path.read_text", lambda path: cpuinfo)
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert processor() == name
