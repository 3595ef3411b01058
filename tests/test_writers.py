"""Files whose names come from data: whatever an image is called, nothing is written out of the output folder."""

import contextlib
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import supervision as sv
import torch

from d2kit.audit.page import Picture, Row, write_page
from d2kit.commands import run_command
from d2kit.report.report import write_report
from d2kit.sources import Source
from istd.audit.files import Audit, write_reviewed
from istd.checkpoints import Recipe
from istd.commands import points
from istd.deploy import ISTDPredictor, Runner
from istd.deploy.detect import TargetRun
from istd.engine.report import REPORT_PARTS
from istd.evaluation.evaluator import ISTDEvaluator
from istd.modeling.feature_cache import FeatureCache, view_key
from istd.pseudo_masks.state import PseudoMasks
from s4m.data.tiles import write_tiles
from s4m.deploy.instance_run import InstanceRun
from s4m.labeling.exports import write_yolo
from s4m.sam.embedding_cache import EmbeddingCache
from s4m.sam.structures import Embedding, Frame

HOSTILE = [
    "../../x.png",
    "a/../../../x.png",
    "{sandbox}/outside/x.png",
    "link/x.png",  # A symbolic link in the output folder leads out of it.
    "..",
    "a\\..\\..\\..\\x.png",
    "C:\\x.png",
    "~/x.png",
    "a\0.png",
    "caf\udce9.png",
    "\ud800.png",
]


def tiles(name, source, output):
    content = {"images": [{"id": 1, "file_name": name, "height": 8, "width": 8}]}
    json_file = output / "given" / "source.json"
    json_file.parent.mkdir()
    json_file.write_text(json.dumps(content))
    write_tiles(json_file, source, output, tile=4)


def detection_run(output):
    recipe = Recipe("none", {"in_channels": 1}, mean=0.0, std=255.0, pad_multiple=1)
    run = TargetRun(ISTDPredictor(runner=Runner(lambda images: images.clamp(0, 1), recipe, 1)), output)
    for folder in ("masks", "overlays"):
        (output / folder / "link").symlink_to(Path.cwd())
    return run


def detected_image(name, source, output):
    run = detection_run(output)
    run.add(Source(source / "plain.png", os.path.splitext(name)[0], False))
    run.close()


def detected_sequence(name, source, output):
    np.save(output / "stack.npy", np.zeros((2, 8, 8), np.uint8))
    run = detection_run(output)
    run.add(Source(output / "stack.npy", os.path.splitext(name)[0], True))
    run.close()


class Nothing:
    """A detector that finds nothing."""

    class_names, value_range = ["thing"], "extremes"

    def __call__(self, image):
        return sv.Detections.empty()


def predicted_image(name, source, output):
    run = InstanceRun(Nothing(), output)
    (output / "overlays" / "link").symlink_to(Path.cwd())
    run.add(Source(source / "plain.png", os.path.splitext(name)[0], False, name))
    run.close()


def predicted_video(name, source, output):
    writer = cv2.VideoWriter(str(output / "clip.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 64))
    writer.write(np.zeros((64, 64, 3), np.uint8))
    writer.release()
    run = InstanceRun(Nothing(), output)
    (output / "overlays" / "link").symlink_to(Path.cwd())
    run.add(Source(output / "clip.avi", os.path.splitext(name)[0], True, name))
    run.close()


def points_of_masks(name, source, output):
    run_command(points, [str(source), "--output", str(output), "--overwrite"])


def evaluator(name, source, output):
    scorer = ISTDEvaluator(str(output))
    image = {"file_name": name, "characteristic": name, "mask": np.ones((8, 8), np.uint8)}
    scorer.process([image], [{"probability": np.ones((8, 8), np.float32)}])
    scorer.evaluate()


class Segmenter:
    """A segmenter whose embedding is zero."""

    fingerprint, device = "zero", "cpu"

    def encode(self, images):
        return Embedding(torch.zeros(len(images), 1, 2, 2), [Frame((8, 8), (8, 8), 8)] * len(images))


def embedding_cache(name, source, output):
    cache = EmbeddingCache(output, Segmenter(), 1.0)
    cache.encode_files([os.path.join(source, name)], lambda _: torch.zeros(3, 8, 8))


class VFM:
    """A foundation model whose features are the image."""

    layers, fingerprint = 1, "image"

    def __call__(self, images):
        return [images]


def feature_cache(name, source, output):
    FeatureCache(VFM(), folder=str(output))(torch.zeros(1, 1, 8, 8), [view_key(name, (8, 8))])


def pseudo_masks(name, source, output):
    masks = PseudoMasks()
    masks.put(name, np.ones((8, 8), np.float32))
    masks.save(output)


def yolo(name, source, output):
    data = {"images": [{"id": 1, "file_name": name, "height": 8, "width": 8}]}
    json_file = output / "given" / "source.json"
    json_file.parent.mkdir()
    json_file.write_text(json.dumps(data))
    (output / "yolo" / "labels").mkdir(parents=True)
    (output / "yolo" / "labels" / "link").symlink_to(Path.cwd())
    write_yolo(json_file, source, output / "yolo")


def report(name, source, output):
    rows = [{"iteration": 0, f"istd/IoU-{name}": 1.0}, {"iteration": 0, "total_loss": 1.0}]
    (output / "metrics.json").write_text("\n".join(map(json.dumps, rows)))
    (output / "config.yaml").write_text(json.dumps({"DATASETS": {"TRAIN": [name]}}))
    write_report(REPORT_PARTS, [output], output / "report.html")


def audit_page(name, source, output):
    row = Row(name, 0, 1.0, [name], (0, 0, 8, 8), facts={name: name})
    pictures = [Picture(name, source / "plain.png", np.zeros((8, 8), np.uint8), [], [row])]
    texts = {"mask": name, "other": name, "take": name}
    write_page(output / "audit", pictures, title=name, source=name, classes=[name], texts=texts)


def reviewed_masks(name, source, output):
    record = {"image_id": os.path.splitext(name)[0], "file_name": str(source / "plain.png"), "points": []}
    audit = Audit([record], {record["image_id"]: np.ones((8, 8), bool)}, {}, [])
    write_reviewed(audit, [], {}, output / "reviewed")


WRITERS = [
    yolo,
    tiles,
    detected_image,
    detected_sequence,
    predicted_image,
    predicted_video,
    points_of_masks,
    evaluator,
    embedding_cache,
    feature_cache,
    pseudo_masks,
    report,
    audit_page,
    reviewed_masks,
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Function (name) -> folders of an image of that name and of the output, which has links that lead elsewhere."""
    source, output, outside = (tmp_path / part for part in ("work/data/in", "work/data/out", "outside"))

    def make(name):
        for folder in (source, output / "images", outside):
            folder.mkdir(parents=True)
        for folder in (output, output / "images"):
            (folder / "link").symlink_to(outside)
        monkeypatch.chdir(outside)
        picture = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
        (source / "plain.png").write_bytes(picture)
        with contextlib.suppress(OSError, ValueError):  # The image is where the name says, if there can be such a file.
            Path(source, name).parent.mkdir(parents=True, exist_ok=True)
            Path(source, name).write_bytes(picture)
        return source, output

    return make


def files_outside(sandbox, output):
    paths = (path for path in sandbox.rglob("*") if path.is_file() and output not in path.parents)
    return {path: path.read_bytes() for path in paths}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_no_name_leads_out_of_the_output_folder(writer, name, place, tmp_path):
    name = name.format(sandbox=tmp_path)
    source, output = place(name)
    before = files_outside(tmp_path, output)
    with contextlib.suppress(OSError, ValueError):  # A sentence that refuses the name is as good as a safe file.
        writer(name, source, output)
    assert files_outside(tmp_path, output) == before


@pytest.mark.parametrize("writer", WRITERS)
def test_an_ordinary_name_gives_files(writer, place):
    source, output = place("a/x.png")
    writer("a/x.png", source, output)
    assert any(path.is_file() for path in output.rglob("*"))
