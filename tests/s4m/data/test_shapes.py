import json

import cv2
import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from s4m.data.coco import register_coco_json, validate_coco
from s4m.data.images import read_image
from s4m.data.shapes import OUTLINES, ShapesRecipe, draw_scene, write_shapes
from s4m.data.textures import TEXTURES, paint


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    return folder, json.loads(write_shapes(folder, 40, seed=3, image_size=(96, 128)).read_text())


def test_json_is_valid_and_images_are_there(written):
    folder, data = written
    assert validate_coco(folder / "annotations.json", folder / "images") == data
    assert len(data["images"]) == 40
    assert read_image(str(folder / "images" / data["images"][0]["file_name"]), "BGR").shape == (96, 128, 3)


def test_masks_are_the_visible_parts(written):
    _, data = written
    covered = {}
    for annotation in data["annotations"]:
        mask = mask_util.decode(annotation["segmentation"]).astype(int)
        assert mask.sum() == annotation["area"] >= ShapesRecipe.min_area
        ys, xs = np.nonzero(mask)
        assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]
        covered[annotation["image_id"]] = covered.get(annotation["image_id"], 0) + mask
    assert all(count.max() == 1 for count in covered.values())


def test_numbers_classes_and_scales_vary(written):
    _, data = written
    per_image = np.bincount([a["image_id"] for a in data["annotations"]])[1:]
    assert per_image.min() >= 1 and per_image.max() <= 6 and np.ptp(per_image) >= 3
    assert {a["category_id"] for a in data["annotations"]} == {1, 2, 3, 4, 5}
    areas = [a["area"] for a in data["annotations"]]
    assert np.quantile(areas, 0.9) > 4 * np.quantile(areas, 0.1)


def test_color_says_nothing_of_the_class(written):
    folder, data = written
    colors, classes = [], []
    for annotation in data["annotations"]:
        image = read_image(str(folder / "images" / f"{annotation['image_id']:06d}.png"), "BGR")
        colors.append(image[mask_util.decode(annotation["segmentation"]).astype(bool)].mean(axis=0))
        classes.append(annotation["category_id"])
    colors, classes = np.array(colors), np.array(classes)
    between = np.var([colors[classes == c].mean(axis=0) for c in range(1, 6)], axis=0)
    assert (between < 0.2 * colors.var(axis=0)).all()


def test_same_seed_same_bytes_and_a_longer_set_begins_alike(tmp_path):
    first = write_shapes(tmp_path / "a", 3, seed=1)
    second = write_shapes(tmp_path / "b", 3, seed=1)
    longer = write_shapes(tmp_path / "c", 4, seed=1)
    other = write_shapes(tmp_path / "d", 3, seed=2)
    assert first.read_bytes() == second.read_bytes()

    def pictures(json_file, count=3):
        return [(json_file.parent / "images" / f"{i + 1:06d}.png").read_bytes() for i in range(count)]

    assert pictures(first) == pictures(second) == pictures(longer)
    assert pictures(first) != pictures(other)


def test_written_set_is_left_alone_until_it_differs(tmp_path):
    json_file = write_shapes(tmp_path, 2, seed=1)
    before = json_file.stat().st_mtime_ns
    assert write_shapes(tmp_path, 2, seed=1).stat().st_mtime_ns == before
    assert len(json.loads(write_shapes(tmp_path, 1, seed=1).read_text())["images"]) == 1


@pytest.mark.parametrize("name", sorted(OUTLINES))
def test_each_outline_has_the_area_of_its_radius(name):
    recipe = ShapesRecipe(classes=(name,), objects=(1, 1), radius=(0.2, 0.2), min_inside=0.98)
    _, owner, names = draw_scene(recipe, np.random.default_rng(0))
    assert names == [name]
    assert (owner > 0).sum() == pytest.approx(np.pi * (0.2 * 128) ** 2, rel=0.08)


@pytest.mark.parametrize("name", sorted(TEXTURES))
def test_textures_waver_around_their_color(name):
    image = paint(name, (40, 60), np.array([100, 120, 140]), 50.0, np.random.default_rng(0))
    assert image.shape == (40, 60, 3)
    assert np.linalg.norm(image - [100, 120, 140], axis=2).max() <= 25.1
    assert name == "flat" or image.std(axis=(0, 1)).max() > 1


@pytest.mark.parametrize(
    "wrong",
    [{"classes": ("circle", "house")}, {"backgrounds": ("brick",)}, {"surfaces": ()}],
    ids=lambda w: next(iter(w)),
)
def test_unknown_names_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        write_shapes(tmp_path, 1, seed=0, **wrong)


def test_no_image_is_a_valid_set(tmp_path):
    assert validate_coco(write_shapes(tmp_path, 0, seed=0))["images"] == []


def test_registered_set_loads(written):
    folder, data = written
    register_coco_json("test_shapes_registered", folder / "annotations.json", folder / "images")
    dicts = DatasetCatalog.get("test_shapes_registered")
    assert len(dicts) == 40 and sum(len(d["annotations"]) for d in dicts) == len(data["annotations"])
    assert MetadataCatalog.get("test_shapes_registered").thing_classes[0] == "circle"


def test_tinted_objects_show_their_class_in_the_strongest_channel():
    recipe = ShapesRecipe(
        classes=("circle", "square", "triangle"), tinted=1.0, surfaces=("flat",), noise=(0.0, 0.0), clutter=(0, 0)
    )
    seen = set()
    for seed in range(8):
        image, owner, names = draw_scene(recipe, np.random.default_rng(seed))
        for number, name in enumerate(names, start=1):
            inside = cv2.erode((owner == number).astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
            if inside.sum() > 10:
                assert image[inside].mean(axis=0).argmax() == recipe.classes.index(name)
                seen.add(name)
    assert seen == set(recipe.classes)
