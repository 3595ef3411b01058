"""An exported file runs in a process that cannot import Detectron2 or what comes with training."""

import numpy as np
import pytest

from istd.deploy.export import export_student
from istd.deploy.runners import open_model
from istd.modeling import build_network
from istd.recipe import Recipe

DETECT = """
import sys
from importlib.abc import MetaPathFinder

STACK = ("detectron2", "fvcore", "pycocotools", "timm", "sklearn", "matplotlib")


class Refuse(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in STACK:
            raise ImportError(f"{name} is refused")


sys.meta_path.insert(0, Refuse())
import numpy as np
from istd.deploy import ISTDPredictor
from istd.commands import detect

file, folder = sys.argv[1:]
found = ISTDPredictor.from_file(file, trust=True, tile=32, overlap=8)(np.load(f"{folder}/gray.npy"))
np.save(f"{folder}/found.npy", found["probability"])
assert not [name for name in sys.modules if name.split(".")[0] in STACK]
try:
    from istd import add_istd_config
except ImportError as error:
    assert "istd needs Detectron2" in str(error)
"""


@pytest.mark.parametrize("suffix", [".onnx", ".pt"])
def test_detection_without_the_training_stack(run_python, tmp_path, suffix):
    file = tmp_path / f"student{suffix}"
    export_student(build_network("ACM").eval(), Recipe("ACM"), file)
    gray = np.random.default_rng(0).uniform(0, 255, (30, 28)).astype(np.float32)
    np.save(tmp_path / "gray.npy", gray)
    run_python("-c", DETECT, file, tmp_path, log=tmp_path / "log")
    np.testing.assert_allclose(np.load(tmp_path / "found.npy"), open_model(file, trust=True)(gray), atol=1e-6)
