import sys

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.builtin import register_all_cityscapes
from detectron2.structures import Instances
from PIL import Image

from s4m.evaluation.build import build_evaluator

NAME = "cityscapes_fine_instance_seg_val"
PERSON, CAR = 0, 2


@pytest.fixture(scope="module")
def records(cityscapes_tree):
    """Detectron2's records of the validation set, whose name stands for the tree's."""
    with pytest.MonkeyPatch.context() as patch:
        for catalog in (DatasetCatalog, MetadataCatalog):
            patch.setattr(catalog, "data", {k: v for k, v in catalog.data.items() if "cityscapes_fine" not in k})
        register_all_cityscapes(str(cityscapes_tree))
        yield DatasetCatalog.get(NAME)


def perfect(record):
    """Class, score and mask of every instance of an image, groups left out, from instanceIds."""
    truth = record["file_name"].replace("leftImg8bit", "gtFine", 1).replace("leftImg8bit", "gtFine_instanceIds")
    ids = np.array(Image.open(truth))
    kinds = {24: PERSON, 26: CAR}
    return [(kinds[key // 1000], 0.9, ids == key) for key in np.unique(ids) if key >= 1000]


def evaluate(cfg, records, answer):
    """AP of `answer(record)`, a list of class, score and mask (64, 128)."""
    evaluator = build_evaluator(cfg, NAME)
    evaluator.reset()
    for record in records:
        rows = answer(record)
        found = Instances((64, 128))
        found.pred_masks = torch.from_numpy(np.array([mask for *_, mask in rows], bool).reshape(-1, 64, 128))
        found.scores = torch.tensor([score for _, score, _ in rows])
        found.pred_classes = torch.tensor([kind for kind, *_ in rows], dtype=torch.int64)
        evaluator.process([record], [{"instances": found}])
    return evaluator.evaluate()["segm"]


def test_perfect_prediction_scores_one(small_cfg, records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sorted(len(perfect(record)) for record in records) == [0, 3]
    assert evaluate(small_cfg(), records, perfect) == {"AP": pytest.approx(100), "AP50": pytest.approx(100)}
    assert not list(tmp_path.iterdir())  # cityscapesscripts itself leaves a file there


def test_missed_car_wrong_class_and_nothing(small_cfg, records):
    cfg = small_cfg()
    without = evaluate(cfg, records, lambda r: [row for row in perfect(r) if row[0] == CAR][:1])
    assert without["AP"] == pytest.approx(25)  # of the cars one of two, of the persons none
    swapped = evaluate(cfg, records, lambda r: [(PERSON + CAR - kind, s, m) for kind, s, m in perfect(r)])
    assert swapped["AP"] == 0
    assert evaluate(cfg, records, lambda r: []) == {"AP": 0, "AP50": 0}


def test_void_and_groups_are_ignored_and_other_pixels_are_not(small_cfg, records):
    cfg = small_cfg()
    ego, group, road = (np.zeros((64, 128), bool) for _ in range(3))
    ego[57:63], group[12:28, 102:118], road[46:55] = True, True, True
    more = {"ego": [(CAR, 0.95, ego), (CAR, 0.95, group)], "road": [(CAR, 0.95, road)]}
    assert evaluate(cfg, records, lambda r: perfect(r) + more["ego"] * bool(perfect(r)))["AP"] == pytest.approx(100)
    assert evaluate(cfg, records, lambda r: perfect(r) + more["road"])["AP"] < 90


def test_without_cityscapesscripts_one_sentence_says_so(small_cfg, records, monkeypatch):
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)
    with pytest.raises(ImportError, match=r"cityscapesscripts is not installed.*\[cityscapes\]"):
        build_evaluator(small_cfg(), NAME)
