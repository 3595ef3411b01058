"""Sequences in one file: every frame is an image of its data set, and none is lost or read in silence."""

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from d2kit.faults import Faults
from d2kit.sources import find_sources
from istd.cli import main
from istd.data.check import check_groups
from istd.data.datasets import load_sirst
from istd.data.frames import count_frames, frame_path
from istd.data.images import BadImageError, image_size, read_infrared, read_mask
from istd.data.mapper import ISTDMapper
from istd.data.sirst_folder import SirstFolder
from istd.deploy.sources import open_frames

SIZE = (24, 32)
COUNT = 4


def frames(count=COUNT):
    rng = np.random.default_rng(0)
    return [(rng.normal(100, 5, SIZE) + 10 * number).astype(np.uint8) for number in range(count)]


def masks(count=COUNT):
    stack = np.zeros((count, *SIZE), np.uint8)
    for number in range(count):
        stack[number, 5, number + 3] = 255
    return list(stack)


def save_pages(path, pages, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = (page if isinstance(page, Image.Image) else Image.fromarray(page) for page in pages)
    first.save(path, save_all=True, append_images=others, **options)


def save_folder(folder, pictures, name="{:06}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / name.format(number)), picture)


@pytest.fixture
def root(tmp_path):
    save_pages(tmp_path / "images" / "clip.tif", frames())
    (tmp_path / "train.txt").write_text("clip\n")
    return tmp_path


def load(root, **options):
    return load_sirst(root, "train", **{"masks": "", "points": "", **options})


def test_all_pages_are_images_of_the_set(root):
    records = load(root)
    assert [record["image_id"] for record in records] == [f"clip.tif/{number:06}" for number in range(COUNT)]
    assert {(record["height"], record["width"]) for record in records} == {SIZE}
    for record, frame in zip(records, frames(), strict=True):
        assert np.array_equal(read_infrared(record["file_name"]), frame)
    assert np.array_equal(ISTDMapper(is_train=False)(records[2])["image"][0], frames()[2])


@pytest.mark.parametrize(
    ("lines", "numbers"),
    [("clip.tif", [0, 1, 2, 3]), ("clip/000002", [2]), ("clip.tif/3\nclip/0001", [3, 1]), ("images/clip/0", [0])],
)
def test_a_split_names_the_sequence_or_a_frame(root, lines, numbers):
    (root / "train.txt").write_text(lines)
    assert [record["image_id"] for record in load(root)] == [f"clip.tif/{number:06}" for number in numbers]


@pytest.mark.parametrize(
    ("lines", "message"),
    [("clip\nclip.tif/000001", "names image 'clip.tif/000001' twice"), ("clip/4", "'clip/4', which is not in")],
)
def test_a_split_that_names_a_frame_twice_or_one_beyond_the_end(root, lines, message):
    (root / "train.txt").write_text(lines)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load(root)


@pytest.mark.parametrize("name", ["clip.tif", "clip_mask.tiff", "clip.npy"])
def test_masks_in_a_file_of_several(root, name):
    path = root / "masks" / name
    save_pages(path, masks()) if "tif" in name else (path.parent.mkdir(), np.save(path, masks()))
    records = load(root, masks="masks")
    assert [record["mask_file"] for record in records] == [frame_path(path, number) for number in range(COUNT)]
    assert [np.argwhere(read_mask(record["mask_file"])).tolist() for record in records] == [
        [[5, number + 3]] for number in range(COUNT)
    ]
    assert np.array_equal(ISTDMapper(is_train=False)(records[1])["mask"] > 0, masks()[1] > 0)


@pytest.mark.parametrize("folder", ["clip", "clip.tif"])  # The second is what `istd detect` writes.
@pytest.mark.parametrize("name", ["{:06}.png", "{:04}_mask.png", "{}.bmp"])
def test_masks_in_a_folder_by_frame(root, folder, name):
    save_folder(root / "masks" / folder, masks(), name)
    records = load(root, masks="masks")
    assert [np.argwhere(read_mask(record["mask_file"]))[0, 1] - 3 for record in records] == [0, 1, 2, 3]


def test_masks_that_do_not_fit_the_frames_are_refused(root):
    cases = {
        "single": (lambda: save_folder(root / "single", masks(1), "clip.png"), "has 1 images, but .* has 4 frames"),
        "fewer": (lambda: save_pages(root / "fewer" / "clip.tif", masks(3)), "numbered 0 to 2, but .* 0 to 3"),
        "more": (lambda: save_pages(root / "more" / "clip.tif", masks(5)), "numbered 0 to 4, but .* 0 to 3"),
        "surplus": (lambda: save_folder(root / "surplus/clip", masks(5)), "numbered 0 to 4, but .* 0 to 3"),
        "from_1": (lambda: save_folder(root / "from_1/clip", masks(4), "{:03}.png"), "numbered 1 to 3, but .* 0 to 3"),
    }
    for name, (make, message) in cases.items():
        make()
        (root / "from_1" / "clip" / "000.png").unlink(missing_ok=True)
        with pytest.raises(ValueError, match=message):
            load(root, masks=name)


def test_a_frame_never_gets_the_mask_of_another_image(root):
    (root / "images" / "000001.png").write_bytes(b"")
    save_folder(root / "masks", masks(2))
    assert not any("mask_file" in record for record in load(root, masks="masks"))


def test_sequences_in_folders(root):
    (root / "images" / "seq").mkdir()
    (root / "images" / "clip.tif").rename(root / "images" / "seq" / "clip.tif")
    (root / "train.txt").write_text("seq\\clip")
    save_pages(root / "masks" / "clip.tif", masks())
    records = load(root, masks="masks")
    assert records[3]["image_id"] == "seq/clip.tif/000003" and records[3]["mask_file"].endswith("clip.tif/000003")


@pytest.mark.parametrize("output", ["points", "points.csv"])
def test_points_of_frames_are_made_and_read(root, output, capsys):
    save_pages(root / "masks" / "clip.tif", masks())
    assert main(["points", str(root / "masks"), "--output", str(root / output)]) == 0
    assert "4 points of 4 images" in capsys.readouterr().out
    assert [record["points"] for record in load(root, points=output)] == [[[number + 3, 5]] for number in range(COUNT)]


def test_points_in_a_file_of_several(root):
    save_pages(root / "dots" / "clip.tif", masks())
    assert [record["points"] for record in load(root, points="dots")] == [[[number + 3, 5]] for number in range(COUNT)]
    save_pages(root / "dots" / "clip.tif", masks(3))
    with pytest.raises(ValueError, match="'clip.tif/000003', which has no points in"):
        load(root, points="dots")


def palette(picture):
    image = Image.fromarray(picture).convert("P")
    image.putpalette([255 - value for value in range(256) for _ in range(3)])
    return image


KINDS = {
    "lzw": lambda path: save_pages(path, frames(), compression="tiff_lzw"),
    "jpeg": lambda path: save_pages(path, frames(), compression="jpeg", quality=100),
    "palette": lambda path: save_pages(path, [palette(255 - frame) for frame in frames()]),
    "white is 0": lambda path: tifffile.imwrite(path, 255 - np.stack(frames()), photometric="miniswhite"),
    "imagej": lambda path: tifffile.imwrite(path, np.stack(frames()), imagej=True),
    "big-endian": lambda path: tifffile.imwrite(path, np.stack(frames()), byteorder=">", photometric="minisblack"),
    "bigtiff": lambda path: tifffile.imwrite(path, np.stack(frames()), bigtiff=True, photometric="minisblack"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_any_kind_are_read_as_single_images_are(tmp_path, kind):
    path = tmp_path / "a.tif"
    KINDS[kind](path)
    assert count_frames(path) == COUNT
    for number, frame in enumerate(frames()):
        assert np.abs(read_infrared(frame_path(path, number)) - frame).max() <= (3 if kind == "jpeg" else 0)
    assert image_size(frame_path(path, 3)) == SIZE
    with pytest.raises(BadImageError, match="has 4 frames, and none of number 4"):
        read_infrared(frame_path(path, 4))


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def damaged_page(path):
    with tifffile.TiffFile(path) as file:
        place = file.pages[2].offset
    content = bytearray(path.read_bytes())
    content[place : place + 60] = b"\xff" * 60
    path.write_bytes(bytes(content))


def ring(path):
    with tifffile.TiffFile(path) as file:
        last, tags, first = file.pages[COUNT - 1].offset, len(file.pages[COUNT - 1].tags), file.pages[0].offset
    content = bytearray(path.read_bytes())
    content[last + 2 + 12 * tags : last + 6 + 12 * tags] = first.to_bytes(4, "little")
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("kind", ["", "lzw", "imagej", "bigtiff"])
@pytest.mark.parametrize("damage", [lambda p: cut(p, 0.2), lambda p: cut(p, 0.6), lambda p: cut(p, 0.97)])
def test_a_cut_file_is_refused_and_its_frames_are_never_taken_for_all(root, kind, damage):
    path = root / "images" / "clip.tif"
    if kind:
        KINDS[kind](path)
    damage(path)
    [fault] = check_groups_of(root)
    assert fault.level == "error" and "clip.tif" in str(fault)
    sources, _ = find_sources([path], root / "out", (), (".tif",), count_frames)
    with pytest.raises(BadImageError, match="clip.tif"):
        if sources[0].is_sequence:
            list(open_frames(path, "percentiles")[1])
        else:
            read_infrared(path)


@pytest.mark.parametrize("damage", [damaged_page, ring])
def test_a_damaged_chain_of_pages_is_refused(root, damage):
    path = root / "images" / "clip.tif"
    damage(path)
    with pytest.raises(ValueError, match=r"clip\.tif is cut off or damaged: of its pages, only . can be found"):
        load(root)


def check_groups_of(root):
    from d2kit.config_files import compose_config
    from istd import add_istd_config

    name = f"sirst:{root}:train:masks=,points="
    [faults] = check_groups({name: [name]}, compose_config([], [], [add_istd_config]))
    return faults


def test_pages_of_another_size_are_told(root):
    thumbnail = frames()[0][::4, ::4]
    with tifffile.TiffWriter(root / "images" / "clip.tif") as file:
        for page in (*frames(), thumbnail, thumbnail):
            file.write(page, photometric="minisblack")
    faults = Faults()
    assert len(SirstFolder(root, "train", masks="", points="").read(faults)) == COUNT
    [fault] = faults
    assert (fault.level, fault.headline, fault.count) == ("warning", "pages of another size or type", 2)


def test_an_animated_png_is_told(root):
    path = root / "images" / "a.png"
    save_pages(path, frames())
    said = []
    assert np.array_equal(read_infrared(path, report=lambda *args: said.append(args)), frames()[0])
    [(level, _, sentence, _)] = said
    assert level == "warning" and sentence == f"{path} holds 4 images, of which the first is read."
    (root / "train.txt").write_text("a")
    assert [fault.headline for fault in check_groups_of(root)] == ["several images in a file"]
