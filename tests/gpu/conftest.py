"""The stand-in takes the place of a GPU, so a real one is hidden from these tests."""

from unittest.mock import patch

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _no_gpu():
    with patch.object(torch.cuda, "is_available", lambda: False):
        yield
