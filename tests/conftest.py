"""Fixtures that every test folder shares."""

import os
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def two_threads():
    torch.set_num_threads(min(2, os.cpu_count() or 1))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with real `data/` and `weights/`, named by the environment variable S4M_TEST_DATA."""
    folder = os.environ.get("S4M_TEST_DATA", "")
    if not folder:
        pytest.skip("S4M_TEST_DATA is not set: tests on real data need it")
    assert Path(folder, "data").is_dir(), f"S4M_TEST_DATA={folder} holds no folder 'data'"
    return Path(folder)
