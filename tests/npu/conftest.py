"""The tests of this folder need torch_npu, which lives in an environment of its own; elsewhere they skip."""

import importlib.util
import os

import pytest

from ssd_graph.npu.stand_in import CANN_VARIABLES


@pytest.fixture(scope="session", autouse=True)
def _torch_npu():
    if importlib.util.find_spec("torch_npu") is None:
        pytest.skip("torch_npu is not installed in this environment")
    if any(name in os.environ for name in CANN_VARIABLES):
        pytest.skip("they make graphs without CANN; run them by `env -i PATH=$PATH HOME=$HOME make test`")
