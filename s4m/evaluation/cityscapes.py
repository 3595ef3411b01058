"""Cityscapes' own instance AP."""

from unittest import mock

import numpy as np
from detectron2.evaluation import CityscapesInstanceEvaluator

from d2kit.require import require_extra


class CityscapesAPEvaluator(CityscapesInstanceEvaluator):
    """Detectron2's CityscapesInstanceEvaluator, which calls cityscapesscripts, on NumPy 2 as well.

    The result is {"segm": {"AP", "AP50"}} in percent; void and groups are ignored as cityscapesscripts does.

    Raises:
        ImportError: cityscapesscripts is not installed.
    """

    def __init__(self, dataset_name: str):
        require_extra("cityscapesscripts", "cityscapes")
        super().__init__(dataset_name)

    def evaluate(self) -> dict | None:
        import cityscapesscripts.evaluation.evalInstanceLevelSemanticLabeling as scripts

        # It calls np.in1d, which NumPy 2.4 has no more, and writes matches.json wherever the process runs.
        with mock.patch.object(np, "in1d", np.isin, create=True), mock.patch.object(scripts, "writeDict2JSON"):
            return super().evaluate()
