"""Labels with a `confidence` weigh in the losses of a training, from the json to the loss."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from d2kit.rng import seeded
from s4m.data.coco import read_coco
from s4m.data.mappers import LabeledMapper
from s4m.engine.trainer import S4MTrainer


@pytest.fixture
def data_set(shapes, tmp_path):
    """Function (confidence of each annotation by its number, void) -> name of a copy of the labeled shapes."""
    _, source, images = shapes.labeled.split(":")
    names = []

    def make(confidence, void=False):
        data = json.loads(Path(source).read_text(encoding="utf-8"))
        for number, annotation in enumerate(data["annotations"]):
            value = confidence(number)
            if value is not None:
                annotation["confidence"] = value
        for image in data["images"] if void else ():
            image["void"] = {"size": [64, 64], "counts": [0, 640, 64 * 64 - 640]}
        file = tmp_path / f"{len(names)}.json"
        file.write_text(json.dumps(data))
        names.append(f"coco:{file}:{images}")
        return names[-1]

    yield make
    for name in names:
        if name in DatasetCatalog:
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def first_views(small_cfg, name, count=2, **more):
    cfg = small_cfg("supervised", semi=False, DATASETS__TRAIN=(name,), **more)
    with seeded(1):
        return cfg, [LabeledMapper(cfg)(record) for record in DatasetCatalog.get(name)[:count]]


def losses(cfg, views):
    with seeded(0):
        model = build_model(cfg)
    with EventStorage(), seeded(1):
        return {name: value.item() for name, value in model(views).items()}


def test_weights_are_the_confidences_and_else_one(small_cfg, data_set):
    name = data_set(lambda number: [0.25, None][number % 2])
    _, (first, second) = first_views(small_cfg, name)
    counted = [len(view["instances"]) for view in (first, second)]
    weights = torch.cat([view["instances"].gt_weights for view in (first, second)])
    assert weights.tolist() == [[0.25, 1.0][number % 2] for number in range(sum(counted))]


def test_the_key_switches_weights_off_and_plain_labels_have_none(small_cfg, data_set):
    for name, on in ((data_set(lambda _: 0.25), False), (data_set(lambda _: None), True)):
        _, views = first_views(small_cfg, name, INPUT__CONFIDENCE_WEIGHTS=on)
        assert not any(view["instances"].has("gt_weights") for view in views)


def test_void_weighs_one_beside_weighted_objects(small_cfg, data_set):
    _, (view, _) = first_views(small_cfg, data_set(lambda _: 0.25, void=True))
    instances = view["instances"]
    ignored = instances.gt_classes < 0
    assert ignored.sum() == 1
    assert instances.gt_weights[ignored].tolist() == [1.0]
    assert set(instances.gt_weights[~ignored].tolist()) == {0.25}


def test_the_losses_of_objects_are_the_confidence_times_those_without(small_cfg, data_set):
    plain, weighted = (losses(*first_views(small_cfg, data_set(lambda _, c=c: c))) for c in (None, 0.25))
    for name in ("loss_rpn_loc", "loss_box_reg", "loss_mask"):
        assert plain[name] > 0
        assert weighted[name] == pytest.approx(0.25 * plain[name], rel=1e-5)
    # Background weighs 1, so the loss of classes lies between a quarter and the whole.
    assert 0.25 * plain["loss_cls"] < weighted["loss_cls"] < plain["loss_cls"]


def test_confidences_of_one_train_to_the_same_bits(small_cfg, data_set, tmp_path):
    weights = []
    for number, confidence in enumerate((None, 1)):
        name = data_set(lambda _, c=confidence: c)
        cfg = small_cfg("supervised", semi=False, DATASETS__TRAIN=(name,), SOLVER__MAX_ITER=2, TEST__EVAL_PERIOD=0)
        cfg.OUTPUT_DIR = str(tmp_path / str(number))
        cfg.freeze()
        with seeded(0):
            trainer = S4MTrainer(cfg)
        trainer.resume_or_load(resume=False)
        trainer.train()
        weights.append(trainer.network.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("value", [87, -0.1, None, "0.5", [0.5], True])
def test_other_confidences_are_left_out_and_told(value, tmp_path):
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": 0}
    annotation |= {"segmentation": [[0, 0, 4, 0, 4, 4, 0, 4]], "confidence": value}
    images = [{"id": 1, "file_name": "a.png", "height": 8, "width": 8}]
    data = {"images": images, "categories": [{"id": 1, "name": "a"}], "annotations": [annotation]}
    (tmp_path / "a.json").write_text(json.dumps(data))
    content, faults = read_coco(tmp_path / "a.json")
    assert "confidence" not in content["annotations"][0]
    assert any("confidences that are no number from 0 to 1" in told for told in map(str, faults.of("repaired")))
