"""A figure's surroundings are recorded by name."""

import platform

import onnxruntime

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
