"""Where masks are found, and what of them is told before a training."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from istd.data.datasets import load_sirst
from istd.data.mask_files import find_mask, image_of_mask

NAMES = ("a", "b.1", "c")


@pytest.fixture
def root(tmp_path):
    """A set of three images without masks."""
    (tmp_path / "images").mkdir()
    for name in NAMES:
        save(np.full((8, 9), 50, np.uint8), tmp_path / "images" / f"{name}.png")
    (tmp_path / "all.txt").write_text("\n".join(NAMES))
    return tmp_path


def save(array, path, **options):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path, **options)


def write_masks(root, folder="masks", suffix="", extension="png", value=255, names=NAMES, **options):
    mask = np.zeros((8, 9), np.uint8)
    mask[2:4, 3:5] = value
    for name in names:
        save(mask, root / folder / f"{name}{suffix}.{extension}", **options)


@pytest.mark.parametrize("suffix", ["", "_mask", "_pixels0", "_label", "_gt", "_GT", "-mask"])
@pytest.mark.parametrize("extension", ["png", "bmp", "TIF"])
def test_masks_by_their_names(root, suffix, extension):
    write_masks(root, suffix=suffix, extension=extension)
    records = load_sirst(root, "all", points="")
    assert [record["mask_file"] for record in records] == [
        str(root / "masks" / f"{name}{suffix}.{extension}") for name in NAMES
    ]
    assert [image_of_mask(Path(record["mask_file"]).name) for record in records] == list(NAMES)


@pytest.mark.parametrize("folder", ["masks", "mask", "label", "labels", "gt"])
def test_folders_of_masks(root, folder):
    (root / "labels").mkdir()
    (root / "labels" / "a.txt").write_text("0 0.5 0.5 0.1 0.1")  # A folder without images holds no masks.
    write_masks(root, folder)
    assert len([record["mask_file"] for record in load_sirst(root, "all", points="")]) == 3


def test_masks_beside_their_images(root):
    write_masks(root, "images", "_mask")
    records = load_sirst(root, "all", points="", masks="images")
    assert [record["mask_file"] for record in records] == [str(root / "images" / f"{name}_mask.png") for name in NAMES]


def test_names_that_fit_no_image_are_refused(root):
    write_masks(root, suffix="_segmentation")
    with pytest.raises(ValueError, match=r"masks has no mask for any image, such as .*a\.png: .* 'a_segmentation"):
        load_sirst(root, "all", points="")


def test_some_images_without_masks_are_told(root, caplog, monkeypatch):
    monkeypatch.setattr("d2kit.faults._logged", set())
    write_masks(root, names=NAMES[:2])
    (root / "rest.txt").write_text("c")
    assert "mask_file" not in load_sirst(root, "all", points="")[2]
    assert "1 of 3 images have no mask in" in caplog.text and "c.png for one" in caplog.text
    assert "mask_file" not in load_sirst(root, "rest", points="")[0]  # The masks belong to other splits.


def test_finding_a_mask(tmp_path):
    for name in ("a.png", "a_mask.png", "b_mask.png"):
        (tmp_path / name).touch()
    assert find_mask(tmp_path, "a") == tmp_path / "a.png"
    assert find_mask(tmp_path, "a", tmp_path) == tmp_path / "a_mask.png"
    assert find_mask(tmp_path, "b") == tmp_path / "b_mask.png"
    assert find_mask(tmp_path, "c") is None


@pytest.mark.parametrize("extension", ["webp", "gif"])
def test_masks_of_unknown_formats_are_refused(root, extension):
    write_masks(root, extension=extension)
    with pytest.raises(ValueError, match=rf"masks has no mask for any image, .* 'a\.{extension}'.* format \.png"):
        load_sirst(root, "all", points="")


@pytest.mark.parametrize(("folder", "suffix"), [("label", ""), ("masks", "_mask"), ("gt", "_gt")])
def test_points_of_the_masks_are_found_wherever_masks_are(root, folder, suffix):
    write_masks(root, folder, suffix)
    assert [record["points"] for record in load_sirst(root, "all", points="masks")] == [[[3, 2]]] * 3
