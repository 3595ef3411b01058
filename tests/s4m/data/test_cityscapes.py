import json
import shutil
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image

from s4m.data.cityscapes import prepare_cityscapes
from s4m.data.coco import validate_coco


@pytest.fixture(scope="module")
def prepared(cityscapes_tree, tmp_path_factory):
    return prepare_cityscapes(cityscapes_tree / "cityscapes", tmp_path_factory.mktemp("json"))


def test_json_holds_the_masks_of_the_instance_images(prepared, cityscapes_tree):
    root = cityscapes_tree / "cityscapes"
    data = validate_coco(prepared, root / "leftImg8bit" / "train")
    assert [c["id"] for c in data["categories"]] == [24, 25, 26, 27, 28, 31, 32, 33]
    assert len(data["images"]) == 10 and len(data["annotations"]) == 40
    image = data["images"][0]
    assert image["file_name"] == "aachen/aachen_000000_000019_leftImg8bit.png" and image["id"] == 1
    ids = np.array(Image.open(root / "gtFine/train/aachen/aachen_000000_000019_gtFine_instanceIds.png"))
    found = [a for a in data["annotations"] if a["image_id"] == 1]
    assert sorted((a["category_id"], a["iscrowd"]) for a in found) == [(24, 0), (26, 0), (26, 0), (26, 1)]
    for annotation, key in zip(found, sorted(i for i in np.unique(ids) if i >= 24), strict=True):
        assert (mask_util.decode(annotation["segmentation"]) == (ids == key)).all()
        rows, columns = np.nonzero(ids == key)
        left, top = columns.min(), rows.min()
        assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
        assert annotation["area"] == (ids == key).sum()


def test_image_without_instances_stays(cityscapes_tree, tmp_path):
    path = prepare_cityscapes(cityscapes_tree / "cityscapes", tmp_path, split="val", val="train")
    data = json.loads(path.read_text())
    assert path.name == "instances_val.json" and len(data["images"]) == 2
    assert {a["image_id"] for a in data["annotations"]} == {1}


def test_shared_image_is_refused(cityscapes_tree, tmp_path):
    with pytest.raises(ValueError, match=r"'train' shares 10 image\(s\) with 'train', such as 'aachen_000000"):
        prepare_cityscapes(cityscapes_tree / "cityscapes", tmp_path, val="train")
    assert not list(tmp_path.iterdir())


def test_what_is_absent_is_named(cityscapes_tree, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="leftImg8bit/test' holds no image"):
        prepare_cityscapes(cityscapes_tree / "cityscapes", tmp_path, split="test")
    shutil.copytree(cityscapes_tree / "cityscapes", tmp_path / "copy")
    lost = tmp_path / "copy" / "gtFine" / "val" / "munster" / "munster_000021_000019_gtFine_instanceIds.png"
    lost.unlink()
    with pytest.raises(FileNotFoundError, match=r"munster_000021_000019_gtFine_instanceIds\.png' does not exist"):
        prepare_cityscapes(tmp_path / "copy")
    monkeypatch.setitem(sys.modules, "cityscapesscripts", None)
    with pytest.raises(ImportError, match=r"cityscapesscripts is not installed.*\[cityscapes\]"):
        prepare_cityscapes(cityscapes_tree / "cityscapes", tmp_path)
