"""`istd detect` on images, folders, 16-bit files, videos and broken ones."""

import argparse
import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from d2kit.commands import run_command
from d2kit.config_files import compose_config
from istd import add_istd_config
from istd.checkpoints import Recipe, save_network
from istd.commands import detect
from istd.data import images
from istd.deploy import ISTDPredictor, Runner
from istd.modeling import build_network

# `istd detect` with the predictor of `gray_predictor`, in a process that takes 50 ms for an image.
SLOW = """
import sys, time
from d2kit.commands import run_command
from d2kit.config_files import compose_config
from istd import add_istd_config
from istd.checkpoints import Recipe
from istd.commands import detect
from istd.deploy import ISTDPredictor, Runner

def slow(images):
    time.sleep(0.05)
    return images.clamp(0, 1)

recipe = Recipe("none", {"in_channels": 1}, mean=0.0, std=255.0, pad_multiple=1)
detect.build_predictor = lambda options: ISTDPredictor(runner=Runner(slow, recipe, 1))
sys.exit(run_command(detect, sys.argv[1:]))
"""


@pytest.fixture
def gray_predictor(monkeypatch):
    """Lets the command take a predictor that gives gray / 255 as probability."""
    recipe = Recipe("none", {"in_channels": 1}, mean=0.0, std=255.0, pad_multiple=1)

    def build(options):
        runner = Runner(lambda images: images.clamp(0, 1), recipe, 1)
        return ISTDPredictor(runner=runner, tile=options.tile, overlap=options.overlap)

    monkeypatch.setattr(detect, "build_predictor", build)


def scene(size=(60, 80), at=(20, 30)) -> np.ndarray:
    image = np.full(size, 20, np.uint8)
    image[at[0] : at[0] + 3, at[1] : at[1] + 4] = 255
    return image


def run(*arguments):
    """Exit status, and what the json file holds."""
    output = Path(arguments[-1])
    status = run_command(detect, [*map(str, arguments[:-1]), "--model", "x", "--output", str(output)])
    return status, json.loads((output / "detections.json").read_text())


def test_images_of_any_kind(gray_predictor, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(scene()).save(folder / "eight.png")
    tifffile.imwrite(folder / "sixteen.tif", scene().astype(np.uint16) * 50 + 3000)
    Image.fromarray(np.full((5, 7), 10, np.uint8)).save(folder / "empty.png")
    Image.fromarray(scene((300, 420), (280, 400))).save(folder / "large.png")
    status, document = run(folder, "--tile", "128", "--overlap", "32", tmp_path / "out")
    assert status == 0 and document["failed"] == {} and document["threshold"] == 0.5
    found = {Path(record["file"]).name: record for record in document["images"]}
    assert list(found) == ["eight.png", "empty.png", "large.png", "sixteen.tif"]
    expected = {"centroid": [31.5, 21.0], "box": [30, 20, 34, 23], "area": 12, "score": 1.0}
    assert found["eight.png"]["detections"] == found["sixteen.tif"]["detections"] == [expected]
    assert found["empty.png"]["detections"] == [] and found["empty.png"]["frame"] is None
    assert found["large.png"]["detections"][0]["box"] == [400, 280, 404, 283]
    for name, record in found.items():
        mask = np.asarray(Image.open(tmp_path / "out" / record["mask"]))
        assert mask.shape == (record["height"], record["width"]) and set(np.unique(mask)) <= {0, 255}
        assert np.count_nonzero(mask) == sum(one["area"] for one in record["detections"]), name
        assert cv2.imread(str(tmp_path / "out" / record["overlay"])).shape[:2] == mask.shape
    with open(tmp_path / "out" / "detections.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [Path(row["file"]).name for row in rows] == ["eight.png", "large.png", "sixteen.tif"]
    assert "3 detections in 4 images and frames" in capsys.readouterr().out


def test_a_video(gray_predictor, tmp_path):
    writer = cv2.VideoWriter(str(tmp_path / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 60))
    for number in range(5):
        writer.write(cv2.cvtColor(scene(at=(20, 30 + 4 * number)), cv2.COLOR_GRAY2BGR))
    writer.release()
    status, document = run(tmp_path / "clip.avi", tmp_path / "out")
    assert status == 0
    assert [record["frame"] for record in document["images"]] == [0, 1, 2, 3, 4]
    for number, record in enumerate(document["images"]):
        (found,) = record["detections"]
        assert found["centroid"] == pytest.approx([31.5 + 4 * number, 21], abs=0.6)
        assert record["mask"] == f"masks/clip.avi/{number:06}.png" and record["overlay"] == "overlays/clip.mp4"
        assert np.count_nonzero(np.asarray(Image.open(tmp_path / "out" / record["mask"]))) == found["area"]
    overlay = cv2.VideoCapture(str(tmp_path / "out" / "overlays" / "clip.mp4"))
    assert overlay.get(cv2.CAP_PROP_FRAME_COUNT) == 5 and overlay.read()[1].shape == (60, 80, 3)
    assert [path.name for path in (tmp_path / "out" / "overlays").iterdir()] == ["clip.mp4"]


def test_the_pages_of_a_tiff_and_the_images_of_an_array_are_frames(gray_predictor, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    stack = np.stack([scene(at=(20, 30 + 4 * number)) for number in range(3)])
    tifffile.imwrite(folder / "a.tif", stack, photometric="minisblack")
    tifffile.imwrite(folder / "b.tiff", stack.astype(np.uint16) * 9 + 4000, photometric="minisblack")
    np.save(folder / "c.npy", stack)
    status, document = run(folder, tmp_path / "out")
    assert status == 0
    assert [(Path(record["file"]).name, record["frame"]) for record in document["images"]] == [
        (name, number) for name in ("a.tif", "b.tiff", "c.npy") for number in range(3)
    ]
    for record in document["images"]:
        (found,) = record["detections"]
        assert found["centroid"] == [31.5 + 4 * record["frame"], 21.0] and found["area"] == 12
        assert (tmp_path / "out" / record["mask"]).is_file() and (tmp_path / "out" / record["overlay"]).is_file()


def test_a_video_that_is_shorter_than_its_header_says(gray_predictor, tmp_path, caplog):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (80, 60))
    for _ in range(4):
        writer.write(cv2.cvtColor(scene(), cv2.COLOR_GRAY2BGR))
    writer.release()
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 24), (b"strh", 40)):
        place = data.find(tag) + offset
        data[place : place + 4] = (9).to_bytes(4, "little")
    path.write_bytes(data)
    status, document = run(path, tmp_path / "out")
    assert status == 0 and len(document["images"]) == 4 and document["failed"] == {}
    assert "clip.avi ends after 4 frames; its header says 9" in caplog.text


def test_a_dark_frame_stays_dark(gray_predictor, tmp_path):
    Image.fromarray((scene() > 100).astype(np.uint8)).save(tmp_path / "a.png")
    assert run(tmp_path / "a.png", tmp_path / "out")[1]["images"][0]["detections"] == []


def test_results_of_an_earlier_run_are_removed(gray_predictor, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    for name in ("old", "both", "below/old"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene()).save(folder / f"{name}.png")
    run(folder, output)
    (output / "notes.txt").write_text("mine")
    (output / "masks" / "mine.png").write_bytes(b"mine")
    (folder / "old.png").unlink()
    (folder / "below" / "old.png").unlink()
    run(folder, output)
    files = sorted(path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file())
    tables = ["detections.csv", "detections.json"]
    assert files == [*tables, "masks/both.png", "masks/mine.png", "notes.txt", "overlays/both.png"]
    assert not (output / "masks" / "below").exists()


def test_masks_of_another_origin_are_never_overwritten(gray_predictor, tmp_path, capsys):
    (tmp_path / "masks").mkdir()
    Image.fromarray(scene()).save(tmp_path / "masks" / "a.png")
    Image.fromarray(scene()).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png"), "--model", "x", "--output", str(tmp_path)]
    before = (tmp_path / "masks" / "a.png").read_bytes()
    assert run_command(detect, arguments) == 1 and "choose another --output" in capsys.readouterr().err
    assert (tmp_path / "masks" / "a.png").read_bytes() == before
    outside = {"images": [{"mask": "../a.png", "overlay": "/etc/none"}]}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "detections.json").write_text(json.dumps(outside))
    run(tmp_path / "masks" / "a.png", tmp_path / "out")
    assert (tmp_path / "a.png").is_file()


def test_bad_files_are_named_and_the_rest_goes_on(gray_predictor, tmp_path, capsys):
    folder, empty = tmp_path / "in", tmp_path / "empty"
    folder.mkdir()
    empty.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    Image.fromarray(scene()).save(folder / "b.png")
    (folder / "c.mp4").write_bytes(b"no video")
    status, document = run(empty, folder, tmp_path / "out")
    assert status == 1 and len(document["images"]) == 1 and len(document["images"][0]["detections"]) == 1
    assert list(document["failed"]) == [str(empty), str(folder / "a.png"), str(folder / "c.mp4")]
    errors = capsys.readouterr().err
    assert all(f"left out {name}: " in errors for name in document["failed"])


def test_an_interrupted_run_keeps_its_tables(gray_predictor, tmp_path, monkeypatch):
    folder, decode = tmp_path / "in", images._read_bytes
    folder.mkdir()
    for name in "abc":
        Image.fromarray(scene()).save(folder / f"{name}.png")

    def fail(path, *options):
        if path.stem == "b":
            return decode(path, *options)
        raise zlib.error("incorrect data check") if path.stem == "a" else KeyboardInterrupt

    monkeypatch.setattr(images, "_read_bytes", fail)
    assert run(folder, tmp_path / "out")[0] == 128 + signal.SIGINT
    document = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(record["file"]).name for record in document["images"]] == ["b.png"]
    assert list(document["failed"]) == [str(folder / "a.png")]
    assert (tmp_path / "out" / "detections.csv").read_text().count("\n") == 2


def read_lines(output):
    """Records of detections.jsonl, and files of the rows of detections.csv."""
    lines = (output / "detections.jsonl").read_text().splitlines()
    with open(output / "detections.csv", newline="") as file:
        return [json.loads(line) for line in lines], [row["file"] for row in csv.DictReader(file)]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_keeps_its_rows(gray_predictor, tmp_path, number):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index in range(200):
        Image.fromarray(scene()).save(folder / f"{index:03}.png")
    arguments = [sys.executable, "-c", SLOW, str(folder), "--model", "x", "--output", str(output)]
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if (output / "detections.jsonl").is_file() and (output / "detections.jsonl").read_bytes().count(b"\n") > 3:
            break
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait() == -number
    records, rows = read_lines(output)
    files = [str(folder / f"{index:03}.png") for index in range(len(records))]
    assert 3 < len(records) < 200 and [record["file"] for record in records] == files
    assert rows == files[: len(rows)] and len(rows) >= len(files) - 1, "one image may be half entered"
    assert all(record["detections"][0]["area"] == 12 for record in records)
    assert all(np.count_nonzero(np.asarray(Image.open(output / record["mask"]))) == 12 for record in records)

    (output / "masks" / ".000.png.01234567.tmp").write_bytes(b"half")
    for path in sorted(folder.iterdir())[2:]:
        path.unlink()
    with open(output / "detections.jsonl", "a") as file:
        file.write('{"file": "cut o')
    document = run(folder, output)[1]  # The next run begins anew.
    assert [record["file"] for record in document["images"]] == files[:2]
    assert len(list((output / "masks").iterdir())) <= 3, "at most one mask was not listed yet"
    assert not (output / "detections.jsonl").exists()


def test_names_that_are_not_utf_8(gray_predictor, tmp_path):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    name = os.fsdecode(b"caf\xe9")
    try:
        for one in ("a", name, "z"):
            (folder / f"{one}.png").write_bytes(cv2.imencode(".png", scene())[1].tobytes())
    except OSError:
        pytest.skip("this file system takes UTF-8 names alone")
    for suffix in (".npy", ".avi"):  # OpenCV can read and write no video of such a name.
        np.save(folder / "stack.npy", np.stack([scene()] * 2))
        (folder / "stack.npy").rename(folder / f"{name}{suffix}")
    arguments = [sys.executable, "-c", SLOW, str(folder), "--model", "x", "--output", str(output)]
    assert subprocess.run(arguments, stderr=subprocess.DEVNULL).returncode == 1
    document = json.loads((output / "detections.json").read_text())
    files = [record["file"] for record in document["images"]]
    assert files == [str(folder / f"{one}.png") for one in ("a", name, "z")]
    assert all((output / record["mask"]).is_file() for record in document["images"])
    assert all((output / record["overlay"]).is_file() for record in document["images"])
    rows = (output / "detections.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 4 and rows[2].startswith(f"{folder}/caf\\udce9.png,")
    assert sorted(document["failed"]) == [str(folder / f"{name}{suffix}") for suffix in (".avi", ".npy")]
    assert all("is not UTF-8" in reason for reason in document["failed"].values())


def test_a_full_disk_ends_the_run_and_keeps_the_rows(gray_predictor, tmp_path, monkeypatch, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in "abcde":
        Image.fromarray(scene()).save(folder / f"{name}.png")
    synchronize, calls = os.fsync, []

    def fill(descriptor):
        calls.append(descriptor)
        if len(calls) > 4:  # A mask and an overlay are written for each of two images.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synchronize(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    assert run_command(detect, [str(folder), "--model", "x", "--output", str(output)]) == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    records, rows = read_lines(output)
    assert [Path(record["file"]).stem for record in records] == ["a", "b"] == [Path(row).stem for row in rows]
    assert len(calls) == 6, "the third mask and detections.json failed, and nothing was tried after them"
    monkeypatch.undo()


@pytest.mark.parametrize("blocked", ["out", "out/masks", "out/detections.csv"])
def test_the_output_is_tried_before_the_first_image(monkeypatch, tmp_path, capsys, blocked):
    def refuse(_):
        raise AssertionError("an image was predicted")

    runner = Runner(refuse, Recipe("none", {"in_channels": 1}, mean=0.0, std=255.0, pad_multiple=1), 1)
    monkeypatch.setattr(detect, "build_predictor", lambda _: ISTDPredictor(runner=runner))
    Image.fromarray(scene()).save(tmp_path / "a.png")
    if blocked == "out/detections.csv":
        (tmp_path / blocked).mkdir(parents=True)
    else:
        (tmp_path / blocked).parent.mkdir(exist_ok=True)
        (tmp_path / blocked).write_bytes(b"a file")
    arguments = [str(tmp_path / "a.png"), "--model", "x", "--output", str(tmp_path / "out")]
    assert run_command(detect, arguments) == 1
    assert str(tmp_path / blocked) in capsys.readouterr().err


def test_results_in_the_folder_of_the_images_are_not_read_again(gray_predictor, tmp_path):
    Image.fromarray(scene()).save(tmp_path / "a.png")
    for _ in range(2):
        document = run(tmp_path, tmp_path)[1]
        assert [record["file"] for record in document["images"]] == [str(tmp_path / "a.png")]
    before = (tmp_path / "masks" / "a.png").read_bytes()
    assert run_command(detect, [str(tmp_path / "masks"), "--model", "x", "--output", str(tmp_path)]) == 1
    assert (tmp_path / "masks" / "a.png").read_bytes() == before


def test_an_empty_folder_alone(gray_predictor, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "detections.csv").write_text("a table without its json\n")
    status, document = run(tmp_path, tmp_path / "out")
    assert status == 1 and document["images"] == [] and list(document["failed"]) == [str(tmp_path)]
    assert (tmp_path / "out" / "detections.csv").read_text().count("\n") == 1


def test_the_predictor_follows_the_options(tmp_path, capsys):
    def build(*options):
        parser = argparse.ArgumentParser()
        detect.add_arguments(parser)
        return detect.build_predictor(parser.parse_args([*common, *options]))

    save_network(tmp_path / "acm.pth", build_network("ACM"), Recipe("ACM", threshold=0.3))
    common = ["x.png", "--output", "out", "--tile", "96", "--overlap", "8"]
    predictor = build("--model", str(tmp_path / "acm.pth"))
    assert (predictor.threshold, predictor.tile, predictor.overlap) == (0.3, 96, 8)
    assert predictor.probability(np.zeros((20, 130), np.float32)).shape == (20, 130)
    trained = ["--config-file", "istd/networks/acm.yaml", "--weights", str(tmp_path / "acm.pth"), "--threshold", "0.7"]
    assert build(*trained).threshold == 0.7
    (tmp_path / "config.yaml").write_text(compose_config(["istd/networks/acm.yaml"], [], [add_istd_config]).dump())
    (tmp_path / "acm.pth").rename(tmp_path / "model_best.pth")
    assert build("--run", str(tmp_path)).threshold == 0.5
    assert run_command(detect, [*common, "--model", "absent.onnx"]) == 1
    assert "absent.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--model", "x", "--config-file", "y"],
        ["--run", "x", "--weights", "y"],
        ["--model", "x", "--tile", "8"],
    ],
)
def test_options_that_do_not_go_together(options):
    with pytest.raises(SystemExit) as error:
        run_command(detect, ["x.png", "--output", "out", *options])
    assert error.value.code == 2
