"""Areas that are not those of their masks are recomputed."""

import json

import pycocotools.mask as mask_util
import pytest

from s4m.data.areas import outline_areas
from s4m.data.coco import read_coco

SQUARE = [10, 10, 30, 10, 30, 30, 10, 30]  # 400 pixels
RLE = {"size": [60, 80], "counts": [100, 300, 4400]}


def areas(tmp_path, segmentation, given):
    data = {
        "images": [{"id": 1, "file_name": "a.png", "height": 60, "width": 80}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [], "segmentation": segmentation, "area": area}
            for number, area in enumerate(given, start=1)
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(data))
    data, faults = read_coco(tmp_path / "a.json")
    told = [fault for fault in faults.of("repaired") if fault.headline.startswith("areas")]
    return [annotation["area"] for annotation in data["annotations"]], told


def compressed():
    return {
        key: value.decode() if key == "counts" else value for key, value in mask_util.frPyObjects(RLE, 60, 80).items()
    }


@pytest.mark.parametrize(
    ("segmentation", "true"),
    [([SQUARE], 400), ([SQUARE, [40, 40, 60, 40, 60, 50, 40, 50]], 600), (RLE, 300), (compressed(), 300)],
)
def test_areas_in_fractions_or_of_another_resolution_are_recomputed(tmp_path, segmentation, true):
    given = [true, true / 4800, 1, 0.9 * true, 1.9 * true, 2.1 * true, 0.4 * true, 16 * true]
    found, [told] = areas(tmp_path, segmentation, given)
    assert found == [true, true, true, 0.9 * true, 1.9 * true, true, true, true]
    assert told.headline == "areas that are not those of their masks, recomputed" and told.count == 5
    assert told.examples[0] == f"annotation 2 has the area {true / 4800:g}, and its mask {true} pixels"


def test_areas_that_fit_the_outline_or_the_pixels_stay(tmp_path):
    sliver = [10, 10, 50, 10.2, 10, 10.4]  # Its outline has 8 pixels, and its mask another number.
    assert areas(tmp_path, [sliver], [8.0])[1] == []
    bow = [10, 10, 30, 30, 30, 10, 10, 30]  # The halves of its outline cancel out.
    assert outline_areas([[bow]]) == 0 and areas(tmp_path, [bow], [200])[1] == []


def test_outlines_of_several_parts():
    assert outline_areas([[SQUARE, [0, 0, 2, 0, 2, 2]], [[0, 0, 0, 5, 5, 5]]]).tolist() == [402, 12.5]
