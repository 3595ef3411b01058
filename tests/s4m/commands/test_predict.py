"""`s4m predict` on images, folders, videos and broken files."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image
from pycocotools.coco import COCO

from d2kit.commands import run_command
from s4m.commands import predict
from s4m.data import images

# `s4m predict` in a process without PyTorch and Detectron2, with a detector that takes 50 ms for an image.
SLOW = """
import sys, time
sys.modules["torch"] = sys.modules["detectron2"] = None
import numpy as np
import supervision as sv
from d2kit.commands import run_command
from s4m.commands import predict

class Slow:
    class_names, value_range = ["thing"], "extremes"

    def __call__(self, image):
        time.sleep(0.05)
        mask = image[None, ..., 0] > 100
        return sv.Detections(sv.mask_to_xyxy(mask), mask=mask, confidence=np.ones(1), class_id=np.zeros(1, int))

predict.build_detector = lambda options: Slow()
sys.exit(run_command(predict, sys.argv[1:]))
"""


@pytest.fixture
def use_regions(regions, monkeypatch):
    """Lets the command take a detector whose instances are the connected regions."""
    monkeypatch.setattr(predict, "build_detector", lambda options: regions)


def scene(*rectangles, size=(60, 80)) -> np.ndarray:
    """Rectangles (x0, y0, x1, y1, value) on black; the class is value // 100, and the score value / 255."""
    image = np.zeros((*size, 3), np.uint8)
    for x0, y0, x1, y1, value in rectangles:
        image[y0:y1, x0:x1] = value
    return image


ONE = scene((30, 20, 34, 23, 255))


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def run(*arguments):
    """Exit status, and what the json file holds."""
    output = Path(arguments[-1])
    status = run_command(predict, [*map(str, arguments[:-1]), "--run", "x", "--output", str(output)])
    return status, json.loads((output / "detections.json").read_text())


def rows_of(output):
    with open(output / "detections.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_json_is_coco_with_class_names(use_regions, tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    save(folder / "a.png", scene((2, 3, 12, 8, 240), (30, 20, 70, 50, 140), (75, 1, 78, 4, 120)))
    save(folder / "below" / "b.png", scene(size=(20, 30)))
    status, document = run(folder, output)
    assert status == 0 and document["failed"] == {} and document["info"]["threshold"] == 0.5
    assert document["categories"] == [
        {"id": 1, "name": "disk"},
        {"id": 2, "name": "Stäbchen"},
        {"id": 3, "name": "cell"},
    ]
    first, second = document["images"]
    assert (first["file_name"], first["height"], first["width"]) == ("a.png", 60, 80)
    assert (second["file_name"], second["file"]) == ("below/b.png", str(folder / "below" / "b.png"))
    assert all(image["seconds"] >= 0 and image["frame"] is None for image in document["images"])
    coco = COCO(str(output / "detections.json"))
    assert coco.getAnnIds(imgIds=[second["id"]]) == [] and len(coco.anns) == 2, "a score is below the threshold"
    found = {one["category_id"]: one for one in coco.anns.values()}
    assert found[3]["bbox"] == [2, 3, 10, 5] and found[3]["area"] == 50 and found[3]["score"] == 0.94118
    expected = np.zeros((60, 80), np.uint8)
    expected[20:50, 30:70] = 1
    np.testing.assert_array_equal(coco.annToMask(found[2]), expected)
    for image in document["images"]:
        assert cv2.imread(str(output / image["overlay"])).shape == (image["height"], image["width"], 3)
    seconds = str(first["seconds"])
    rows = {tuple(row.values())[2:] for row in rows_of(output)}
    assert rows == {
        ("cell", "0.94118", "2", "3", "12", "8", "50", seconds),
        ("Stäbchen", "0.54902", "30", "20", "70", "50", "1200", seconds),
    }
    assert "2 instances in 2 images and frames, " in capsys.readouterr().out


def test_the_threshold(use_regions, tmp_path):
    save(tmp_path / "a.png", scene((2, 3, 12, 8, 240), (30, 20, 70, 50, 140)))
    assert len(run(tmp_path / "a.png", "--threshold", "0.6", tmp_path / "out")[1]["annotations"]) == 1
    assert run(tmp_path / "a.png", "--threshold", "1", tmp_path / "out")[1]["annotations"] == []


def test_images_are_read_as_in_training(use_regions, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    tifffile.imwrite(folder / "deep.tif", ONE[..., 0].astype(np.uint16) * 9 + 3000)
    Image.fromarray(ONE[..., 0]).save(folder / "gray.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(ONE).copy()).save(folder / "turned.png", exif=exif)
    document = run(folder, tmp_path / "out")[1]
    assert [image["file_name"] for image in document["images"]] == ["deep.tif", "gray.png", "turned.png"]
    assert [(image["height"], image["width"]) for image in document["images"]] == [(60, 80)] * 3
    assert [one["bbox"] for one in document["annotations"]] == [[30, 20, 4, 3]] * 3


def test_slices_find_an_object_over_seams_as_one(use_regions, regions, tmp_path):
    save(tmp_path / "large.png", scene((5, 10, 295, 190, 250), size=(200, 300)))
    document = run(tmp_path / "large.png", "--tile", "64", tmp_path / "out")[1]
    (found,) = document["annotations"]
    assert found["bbox"] == [5, 10, 290, 180] and found["area"] == 290 * 180
    assert set(regions.sizes) == {(64, 64)} and len(regions.sizes) == 6 * 4


def test_a_video(use_regions, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"HFYU"), 10, (80, 60))
    if not writer.isOpened():
        pytest.skip("OpenCV has no lossless encoder here")
    for number in range(3):
        writer.write(scene((30 + 4 * number, 20, 40 + 4 * number, 30, 255)))
    writer.release()
    status, document = run(tmp_path / "clip.avi", tmp_path / "out")
    assert status == 0 and [image["frame"] for image in document["images"]] == [0, 1, 2]
    assert [image["file_name"] for image in document["images"]] == [f"clip.avi/00000{number}" for number in range(3)]
    assert [one["bbox"] for one in document["annotations"]] == [[30 + 4 * number, 20, 10, 10] for number in range(3)]
    overlay = cv2.VideoCapture(str(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert overlay.get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_bad_files_are_named_and_the_rest_goes_on(use_regions, tmp_path, capsys):
    folder = tmp_path / "in"
    save(folder / "b.png", ONE)
    (folder / "a.png").write_bytes((folder / "b.png").read_bytes()[:60])
    (folder / "c.mp4").write_bytes(b"no video")
    status, document = run(folder, tmp_path / "absent.png", tmp_path / "out")
    assert status == 1 and len(document["images"]) == len(document["annotations"]) == 1
    named = [str(tmp_path / "absent.png"), str(folder / "a.png"), str(folder / "c.mp4")]
    assert list(document["failed"]) == named
    errors = capsys.readouterr().err
    assert all(f"left out {name}: " in errors for name in named)


def test_an_interrupted_run_keeps_its_tables(use_regions, tmp_path, monkeypatch):
    for name in "ab":
        save(tmp_path / "in" / f"{name}.png", ONE)
    read = images.read_image

    def interrupt(path, *options):
        if path.endswith("b.png"):
            raise KeyboardInterrupt
        return read(path, *options)

    monkeypatch.setattr("s4m.deploy.instance_run.read_image", interrupt)
    status, document = run(tmp_path / "in", tmp_path / "out")
    assert status == 128 + signal.SIGINT and [image["file_name"] for image in document["images"]] == ["a.png"]
    assert len(document["annotations"]) == len(rows_of(tmp_path / "out")) == 1


def test_a_killed_run_keeps_its_tables_and_the_next_one_begins_anew(use_regions, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for index in range(100):
        save(folder / f"{index:03}.png", ONE)
    arguments = [sys.executable, "-c", SLOW, str(folder), "--run", "x", "--output", str(output)]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    lines = output / "detections.jsonl"
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if lines.is_file() and lines.read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    records = [json.loads(line) for line in lines.read_text().splitlines()]
    assert 3 < len(records) < 100 and all(record["annotations"][0]["area"] == 12 for record in records)
    assert abs(len(rows_of(output)) - len(records)) <= 1
    assert not (output / "detections.json").exists()
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()
    assert [image["file_name"] for image in run(folder, output)[1]["images"]] == ["000.png", "001.png"]
    assert sorted(os.listdir(output / "overlays")) == ["000.png", "001.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give either --model or --run"),
        (["--run", "x", "--model", "y"], "give either --model or --run"),
        (["--model", "x", "--network", "teacher"], "--network and --classes belong to --run"),
        (["--run", "x", "--threshold", "1.5"], "--threshold must be within 0 to 1"),
        (["--run", "x", "--tile", "8", "--overlap", "8"], "0 < --overlap < --tile is needed"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    with pytest.raises(SystemExit) as error:
        run_command(predict, ["x.png", "--output", "out", *options])
    assert error.value.code == 2 and message in capsys.readouterr().err


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path, capsys):
    save(tmp_path / "a.png", ONE)
    arguments = [str(tmp_path / "a.png"), "--run", str(tmp_path), "--output", str(tmp_path / "out")]
    assert run_command(predict, arguments) == 1
    assert capsys.readouterr().err.endswith("is no folder of a training: it holds no config.yaml.\n")
    assert not (tmp_path / "out").exists()
