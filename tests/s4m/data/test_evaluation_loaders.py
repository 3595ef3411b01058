"""What the loader of annotated images tells besides its objects: void and crowds, in the frame of the network."""

import json

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, DatasetMapper
from PIL import Image

from s4m.config import add_s4m_config
from s4m.data.coco import register_coco_json
from s4m.data.evaluation_loaders import build_annotated_loader, build_test_loader


def rle(left, right):
    mask = np.zeros((20, 60), np.uint8)
    mask[:, left:right] = 1
    return encode(mask)


def encode(mask):
    found = mask_util.encode(np.asfortranarray(mask))
    return {"size": found["size"], "counts": found["counts"].decode()}


def test_void_and_crowds(tmp_path):
    Image.fromarray(np.zeros((20, 60, 3), np.uint8)).save(tmp_path / "a.png")
    shared = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 20, 20], "area": 400}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "height": 20, "width": 60, "void": rle(20, 40)}],
        "annotations": [
            {**shared, "id": 1, "iscrowd": 0, "segmentation": rle(0, 20)},
            {**shared, "id": 2, "iscrowd": 1, "segmentation": rle(40, 60)},
        ],
        "categories": [{"id": 7, "name": "thing"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco_json("test_void_and_crowds", tmp_path / "a.json", tmp_path)
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.IGNORE_VOID = 40, False
    ((entry,),) = build_annotated_loader(cfg, "test_void_and_crowds")
    assert entry["instances"].gt_classes.tolist() == [0, -1] and entry["crowds"].gt_classes.tolist() == [0]
    masks = torch.cat([entry[key].gt_masks.tensor for key in ("instances", "crowds")])
    expected = torch.arange(120).expand(40, -1) // 40 == torch.arange(3)[:, None, None]
    assert torch.equal(masks, expected)


def crops(name, **options):
    """All images of a set as training would crop them."""
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.S4M.QUALITY_VIEW, cfg.INPUT.CROP.ENABLED = "train", True
    cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = "absolute", [24, 24]
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = (24,), 24
    cfg.merge_from_list([item for pair in options.items() for item in pair])
    return [entry for batch in build_annotated_loader(cfg, name) for entry in batch]


def test_views_of_training(tmp_path):
    rng, images, annotations = np.random.default_rng(0), [], []
    for number in range(1, 7):
        mask = (rng.random((8, 8)) < 0.5).astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1)
        Image.fromarray((255 * mask)[:, :, None].repeat(3, axis=2)).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 64})
        box = {"bbox": [0, 0, 64, 64], "area": int(mask.sum()), "iscrowd": 0, "category_id": 1}
        annotations.append({"id": number, "image_id": number, "segmentation": encode(mask), **box})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "thing"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco_json("test_views_of_training", tmp_path / "a.json", tmp_path)

    np.random.seed(0)
    state = np.random.get_state()[1].copy()
    first = crops("test_views_of_training")
    assert (np.random.get_state()[1] == state).all()  # whoever trains goes on as if nothing had been measured
    np.random.seed(1)
    again = crops("test_views_of_training")
    for entry, same in zip(first, again, strict=True):
        assert entry["image"].shape == (3, 24, 24) and torch.equal(entry["image"], same["image"])
        mask = entry["instances"].gt_masks.tensor[0]
        assert torch.equal(mask, entry["image"][0] > 127)
        rows, columns = mask.nonzero().T
        expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert entry["instances"].gt_boxes.tensor[0].tolist() == [float(side) for side in expected]
    offsets = {tuple(entry["transforms"].apply_coords(np.zeros((1, 2)))[0]) for entry in first}
    assert len(offsets) > 1  # not one crop for all


def test_unknown_view():
    with pytest.raises(ValueError, match="S4M.QUALITY_VIEW must be test or train, not 'weak'"):
        crops("nothing", **{"S4M.QUALITY_VIEW": "weak"})


def test_test_images_are_read_as_detectron2_reads_them(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = {"images": [{"id": 5, "file_name": "a.png", "height": 20, "width": 60}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    register_coco_json("test_read_as_detectron2", tmp_path / "a.json", tmp_path)
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.INPUT.MIN_SIZE_TEST, cfg.DATALOADER.NUM_WORKERS = 40, 0
    ((ours,),) = build_test_loader(cfg, "test_read_as_detectron2")
    theirs = DatasetMapper(cfg, is_train=False)(DatasetCatalog.get("test_read_as_detectron2")[0])
    assert torch.equal(ours["image"], theirs["image"])
    assert {k: ours[k] for k in ("image_id", "height", "width")} == {"image_id": 5, "height": 20, "width": 60}
