"""A missing or old Detectron2 is one clear sentence."""

import sys
import types

import pytest

from d2kit import require_detectron2
from d2kit.require import require_extra, require_torch


def test_present():
    require_detectron2("s4m")


def test_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(ImportError, match="s4m needs Detectron2 0.6 or newer, which is not installed"):
        require_detectron2("s4m")


@pytest.mark.parametrize(("version", "old"), [("0.5", True), ("0.6", False), ("0.10.1", False)])
def test_old(monkeypatch, version, old):
    module = types.ModuleType("detectron2")
    module.__version__ = version
    monkeypatch.setitem(sys.modules, "detectron2", module)
    if old:
        with pytest.raises(ImportError, match="0.6 or newer, but 0.5"):
            require_detectron2("istd")
    else:
        require_detectron2("istd")


@pytest.mark.parametrize(("version", "old"), [("2.5.1+cu124", True), ("2.6.0", False), ("2.11.0a0", False)])
def test_old_torch(monkeypatch, version, old):
    monkeypatch.setattr("torch.__version__", version)
    if old:
        with pytest.raises(ImportError, match=r"PyTorch 2\.6 or newer is needed.*but 2\.5\.1\+cu124 is installed"):
            require_torch()
    else:
        require_torch()


def test_an_optional_library():
    assert require_extra("json", "none").dumps([1]) == "[1]"
    with pytest.raises(ImportError, match=r"no_such_library is not installed: .*extra \[onnx\]"):
        require_extra("no_such_library", "onnx")
