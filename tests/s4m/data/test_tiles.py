"""Images and masks cut into tiles, against values counted by hand."""

import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data.datasets import load_coco_json
from PIL import Image

from s4m.data.images import turn
from s4m.data.tiles import cut_annotation, tile_bounds, write_tiles


@pytest.mark.parametrize(
    ("length", "tile", "bounds"),
    [
        (4, 4, [(0, 4)]),
        (3, 8, [(0, 3)]),
        (10, 4, [(0, 3), (3, 7), (7, 10)]),
        (8, 4, [(0, 4), (4, 8)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_bounds_cover_each_pixel_once(length, tile, bounds):
    assert tile_bounds(length, tile) == bounds


def decoded(annotation):
    return mask_util.decode(annotation["segmentation"]).astype(bool)


@pytest.mark.parametrize("crowd", [0, 1])
def test_part_of_an_object_in_the_frame_of_its_tile(crowd):
    mask = np.zeros((6, 8), np.uint8)
    mask[1:5, 2:6] = 1
    found = cut_annotation({"category_id": 3, "iscrowd": crowd, "area": 16}, mask, (4, 2, 8, 6), min_share=0.3)
    wanted = np.zeros((4, 4), bool)
    wanted[0:3, 0:2] = True
    assert (decoded(found) == wanted).all()
    assert found["bbox"] == [0, 0, 2, 3] and found["area"] == 6 and found["category_id"] == 3
    assert found["iscrowd"] == crowd


def test_a_sliver_is_a_crowd_region_and_nothing_is_nothing():
    mask = np.zeros((6, 8), np.uint8)
    mask[1:5, 2:6] = 1
    assert cut_annotation({}, mask, (4, 2, 8, 6), min_share=0.4)["iscrowd"] == 1
    assert cut_annotation({}, mask, (6, 0, 8, 6), min_share=0.0) is None


@pytest.fixture
def source(tmp_path):
    """Two images of 6x10 and 4x4 pixels; a square by polygon over the first one's border, an RLE, and no object."""
    rng = np.random.default_rng(0)
    (tmp_path / "images" / "a").mkdir(parents=True)
    pixels = {
        "a/one.png": rng.integers(0, 65535, (6, 10), np.uint16),
        "two.png": rng.integers(0, 255, (4, 4, 3), np.uint8),
    }
    for name, image in pixels.items():
        cv2.imwrite(str(tmp_path / "images" / name), image)
    rle = np.zeros((6, 10), np.uint8)
    rle[5, 0] = 1
    code = mask_util.encode(np.asfortranarray(rle))
    shared = {"image_id": 7, "category_id": 1, "iscrowd": 0}
    annotations = [
        shared | {"id": 1, "area": 16, "bbox": [3, 0, 4, 4], "segmentation": [[3, 0, 7, 0, 7, 4, 3, 4]]},
        shared | {"id": 2, "area": 1, "bbox": [0, 5, 1, 1], "segmentation": code | {"counts": code["counts"].decode()}},
    ]
    images = [
        {"id": 7, "file_name": "a/one.png", "height": 6, "width": 10, "note": "kept"},
        {"id": 9, "file_name": "two.png", "height": 4, "width": 4},
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "square"}]}
    (tmp_path / "source.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path, pixels


def test_tiles_hold_every_pixel_of_images_and_masks(source):
    folder, pixels = source
    path = write_tiles(folder / "source.json", folder / "images", folder / "tiles", tile=5)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert [(i["file_name"], i["height"], i["width"], i["source_id"]) for i in data["images"]] == [
        ("a/one_y0_x0.png", 3, 5, 7),
        ("a/one_y0_x5.png", 3, 5, 7),
        ("a/one_y3_x0.png", 3, 5, 7),
        ("a/one_y3_x5.png", 3, 5, 7),
        ("two_y0_x0.png", 4, 4, 9),
    ]
    assert data["images"][0]["note"] == "kept"
    tiles = [cv2.imread(str(folder / "tiles/images" / i["file_name"]), cv2.IMREAD_UNCHANGED) for i in data["images"]]
    assert (np.block([[tiles[0], tiles[1]], [tiles[2], tiles[3]]]) == pixels["a/one.png"]).all()
    assert (tiles[4] == pixels["two.png"]).all()
    parts = [(a["image_id"], a["area"], a["iscrowd"]) for a in data["annotations"]]
    assert parts == [(1, 6, 0), (2, 6, 0), (3, 2, 1), (3, 1, 0), (4, 2, 1)]
    assert [a["id"] for a in data["annotations"]] == [1, 2, 3, 4, 5]
    assert len(load_coco_json(str(path), str(folder / "tiles/images"))) == 5


@pytest.mark.parametrize(
    ("damage", "message"),
    [("size", "'.*two.png' is 3x4, but its json says 4x4"), ("content", "'.*two.png' cannot be read")],
)
def test_bad_images_are_named_and_no_json_is_left(source, damage, message):
    folder, pixels = source
    if damage == "size":
        cv2.imwrite(str(folder / "images/two.png"), pixels["two.png"][:, :3])
    else:
        (folder / "images/two.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=message):
        write_tiles(folder / "source.json", folder / "images", folder / "tiles", tile=5)
    assert not (folder / "tiles/annotations.json").exists()


def test_images_of_one_name_have_tiles_of_their_own(source):
    folder, pixels = source
    cv2.imwrite(str(folder / "images/two.bmp"), 255 - pixels["two.png"])
    names = ["two.png", "a/../two.bmp", "a/one.png"]
    sizes = [(4, 4), (4, 4), (6, 10)]
    images = [
        {"id": number, "file_name": name, "height": height, "width": width}
        for number, (name, (height, width)) in enumerate(zip(names, sizes, strict=True))
    ]
    (folder / "names.json").write_text(json.dumps({"images": images}))
    path = write_tiles(folder / "names.json", folder / "images", folder / "tiles", tile=10)
    tiles = [image["file_name"] for image in json.loads(path.read_text())["images"]]
    assert tiles == ["two_y0_x0.png", "two_2_y0_x0.png", "a/one_y0_x0.png"]
    written = [cv2.imread(str(folder / "tiles/images" / name)) for name in tiles[:2]]
    assert (written[0] == pixels["two.png"]).all() and (written[1] == 255 - pixels["two.png"]).all()


@pytest.mark.parametrize("output", [".", "images", "images/tiles", "other/..", "deep"])
def test_the_source_is_never_replaced(source, output):
    folder, _ = source
    json_file, images = folder / "source.json", folder / "images"
    (folder / "other").mkdir()
    if output == "deep":  # The images lie in the folder `images` of the output.
        images = folder / "deep" / "images" / "below"
        images.parent.mkdir(parents=True)
        (folder / "images").rename(images)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="choose another output"):
        write_tiles(json_file, images, folder / output, tile=5)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_tiles_of_no_pixels_are_refused(source):
    with pytest.raises(ValueError, match="tiles of 0 pixels"):
        write_tiles(source[0] / "source.json", source[0] / "images", source[0] / "tiles", tile=0)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_images_are_turned_before_they_are_cut(source, orientation, suffix):
    folder, _ = source
    upright = np.random.default_rng(0).integers(0, 255, (6, 10, 3), np.uint8)
    undo = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[274] = orientation
    stored = np.ascontiguousarray(turn(upright, undo))
    Image.fromarray(stored).save(folder / f"images/turned{suffix}", exif=exif)
    data = {"images": [{"id": 1, "file_name": f"turned{suffix}", "height": 6, "width": 10}]}
    (folder / "turned.json").write_text(json.dumps(data))
    write_tiles(folder / "turned.json", folder / "images", folder / "tiles", tile=10)
    assert (cv2.imread(str(folder / "tiles/images/turned_y0_x0.png"))[..., ::-1] == upright).all()


def test_a_json_of_the_stored_frame_names_the_orientation(source):
    folder, _ = source
    exif = Image.Exif()
    exif[274] = 6
    Image.fromarray(np.zeros((6, 10, 3), np.uint8)).save(folder / "images/turned.jpg", exif=exif)
    data = {"images": [{"id": 1, "file_name": "turned.jpg", "height": 6, "width": 10}]}
    (folder / "turned.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"turned.jpg' is 6x10, but its json says 10x6: its EXIF orientation 6"):
        write_tiles(folder / "turned.json", folder / "images", folder / "tiles", tile=10)


@pytest.mark.parametrize(("orientation", "size"), [(3, (10, 6)), (6, (8, 8))])
def test_an_orientation_that_no_size_tells_is_a_warning(source, caplog, orientation, size):
    folder, _ = source
    exif = Image.Exif()
    exif[274] = orientation
    Image.new("RGB", size).save(folder / "images/turned.jpg", exif=exif)
    data = {"images": [{"id": 1, "file_name": "turned.jpg", "height": size[1], "width": size[0]}]}
    (folder / "turned.json").write_text(json.dumps(data))
    write_tiles(folder / "turned.json", folder / "images", folder / "tiles", tile=10)
    assert "turned.json': images with an EXIF orientation that keeps their size" in caplog.text
