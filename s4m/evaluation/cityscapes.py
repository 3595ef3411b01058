"""The evaluator of Cityscapes computes the instance AP of cityscapesscripts."""

from unittest import mock

import numpy as np
from detectron2.evaluation import CityscapesInstanceEvaluator

from d2kit.require import require_extra


class CityscapesAPEvaluator(CityscapesInstanceEvaluator):
    """Detectron2's CityscapesInstanceEvaluator, made to run with NumPy 2.

    The result is {"segm": {"AP", "AP50"}} in percent; cityscapesscripts ignores void and groups.

    Raises:
        ImportError: cityscapesscripts is not installed.
    """

    def __init__(self, dataset_name: str):
        require_extra("cityscapesscripts", "cityscapes")
        super().__init__(dataset_name)

    def evaluate(self) -> dict | None:
        import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as scripts

        # The script calls np.in1d, which NumPy 2.4 lacks, and writes matches.json into the working directory.
        with mock.patch.object(np, "in1d", np.isin, create=True), mock.patch.object(scripts, "writeDict2JSON"):
            return super().evaluate()
