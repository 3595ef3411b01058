"""What the loader of annotated images tells besides its objects: void and crowds, in the frame of the network."""

import json

import numpy as np
import pycocotools.mask as mask_util
import torch
from detectron2.config import get_cfg
from PIL import Image

from s4m.config import add_s4m_config
from s4m.data.coco import register_coco_json
from s4m.data.test_loaders import build_annotated_loader


def rle(left, right):
    mask = np.zeros((20, 60), np.uint8, order="F")
    mask[:, left:right] = 1
    found = mask_util.encode(mask)
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
