"""A small training run, with random weights, and images to label."""

from types import SimpleNamespace

import cv2
import pytest
import torch
from detectron2.modeling import build_model

from d2kit.rng import seeded
from s4m.data.shapes import write_shapes


@pytest.fixture(scope="session")
def make_run(small_cfg, tmp_path_factory):
    """Function (name in RUNS, semi, file of the checkpoint, **keys) -> folder of a run."""

    def make(name, *, semi, checkpoint="model_final.pth", **more):
        folder = tmp_path_factory.mktemp(name)
        cfg = small_cfg(name, semi=semi, SEED=3, **more)
        with seeded(0):
            model = build_model(cfg)
        (folder / "config.yaml").write_text(cfg.dump())
        torch.save({"model": model.state_dict()}, folder / checkpoint)
        (folder / "last_checkpoint").write_text(checkpoint)
        return folder

    return make


@pytest.fixture(scope="session")
def stage_1(make_run):
    return make_run("stage1", semi=False, TEST__DETECTIONS_PER_IMAGE=6)


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Folder of five images of shapes, of which one lies in a subfolder and one is larger; and one that is damaged."""
    folder = tmp_path_factory.mktemp("to_label")
    write_shapes(folder / "made", 5, seed=7, image_size=(64, 64))
    source = folder / "images"
    (folder / "made" / "images").rename(source)
    (source / "deep").mkdir()
    (source / "000002.png").rename(source / "deep" / "a b.png")
    large = cv2.resize(cv2.imread(str(source / "000003.png")), (150, 100))
    cv2.imwrite(str(source / "000003.png"), large)
    (source / "broken.png").write_bytes((source / "000004.png").read_bytes()[:200])
    return source


@pytest.fixture(scope="session")
def labeled(stage_1, images, tmp_path_factory):
    """The result of an uninterrupted labeling of stage 1."""
    from s4m.labeling.run import label_folder

    result = label_folder(stage_1, images, tmp_path_factory.mktemp("labels"))
    return SimpleNamespace(**result._asdict(), bytes=result.path.read_bytes())
