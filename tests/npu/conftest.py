"""The tests of this folder need torch_npu, which lives in an environment of its own; elsewhere they skip."""

import importlib.util

import pytest


@pytest.fixture(scope="session", autouse=True)
def _torch_npu():
    if importlib.util.find_spec("torch_npu") is None:
        pytest.skip("torch_npu is not installed in this environment")
