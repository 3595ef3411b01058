"""Benchmark of a training step with and without boundary consistency, calibration and matching; see s4m.benchmarks."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from d2kit.benchmark import Case, Comparison, Goal, Scenario
from d2kit.rng import seeded
from s4m.config import add_s4m_config
from s4m.data.shapes import ShapesRecipe, draw_scene
from s4m.modeling.rcnn import paste_probabilities
from s4m.modeling.teacher_student import TeacherStudent

_CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "quick"
_SETTINGS = (("shapes_student", 4), ("shapes_student", 12), ("shapes_mask2former_student", 4))  # and objects an image
_GUARDS = ("BOUNDARY", "CALIBRATION", "MATCHING")
_MOST = 1.15  # of the time without
_IMAGES, _SIZE = 4, (128, 128)
_MASK_SIDE = 28
_SCORES = (0.95, 0.9, 0.8, 0.4)  # of an image's objects in turn; one in four is no pseudo-label


def _configuration(name: str, device: str, guards: bool) -> CfgNode:
    """A second stage on shapes; the classes' thresholds stay where they are, so that both ways have the same labels."""
    cfg = get_cfg()
    add_s4m_config(cfg)
    cfg.merge_from_file(str(_CONFIGS / f"{name}.yaml"))
    cfg.DATASETS.UNLABELED = ("drawn here",)
    cfg.MODEL.DEVICE = device
    cfg.S4M.CALIBRATION.WARMUP = 1 << 30
    for name in _GUARDS:
        cfg.S4M[name].ENABLED = guards
    return cfg


def _draw(first: int, objects: int) -> list[dict]:
    """Labelled images of shapes, each with `seed`."""
    recipe, entries = ShapesRecipe(image_size=_SIZE, objects=(objects, objects)), []
    for seed in range(first, first + _IMAGES):
        image, owner, names = draw_scene(recipe, np.random.default_rng(seed))
        masks = BitMasks(torch.stack([torch.from_numpy(owner == i + 1) for i in range(len(names))]))
        classes = torch.tensor([recipe.classes.index(name) % 3 for name in names])
        instances = Instances(_SIZE, gt_boxes=masks.get_bounding_boxes(), gt_classes=classes, gt_masks=masks)
        image = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        entries.append({"image": image, "instances": instances, "seed": seed, "file_name": str(seed)})
    return entries


def _answer_with_truth(model: TeacherStudent, entries: list[dict]) -> None:
    """Let the untrained teacher do its work, but answer with the objects as a trained one's mask head sees them."""
    own, answers = model.teacher.predict, {}
    for entry in entries:
        truth = entry["instances"]
        crops = truth.gt_masks.crop_and_resize(truth.gt_boxes.tensor, _MASK_SIDE)[:, None].float() * 0.9
        found = Instances(_SIZE, pred_boxes=truth.gt_boxes, pred_masks=crops, pred_classes=truth.gt_classes)
        found.scores = torch.tensor(_SCORES).repeat(len(truth))[: len(truth)]
        answers[entry["seed"]] = found.to(model.device)

    def predict(batch: list[dict], min_score: float) -> list[Instances]:
        own(batch, 1.0)
        result = []
        for entry in batch:
            found = answers[entry["seed"]]
            found = found[found.scores > min_score]
            found.soft_masks = paste_probabilities(found)
            found.remove("pred_masks")
            result.append(found)
        return result

    model.teacher.predict = predict


def _cases(options: argparse.Namespace) -> Iterator[Case]:
    for name, objects in _SETTINGS:
        yield _case(name, objects, options.device)


def _case(name: str, objects: int, device: str) -> Case:
    labeled, unlabeled = _draw(0, objects), _draw(_IMAGES, objects)
    weak = [{key: value for key, value in entry.items() if key != "instances"} for entry in unlabeled]
    with seeded(0):
        models = {guards: build_model(_configuration(name, device, guards)).train() for guards in (False, True)}
    models[True].load_state_dict(models[False].state_dict(), strict=False)
    for model in models.values():
        _answer_with_truth(model, [*labeled, *unlabeled])
    steps = models[True].calibration.period

    def run(model: TeacherStudent) -> dict[str, torch.Tensor]:
        """As many steps as there are to a fit of the calibration; the first one's losses on labels."""
        first = {}
        with seeded(0), EventStorage():
            for _ in range(steps):
                model.zero_grad()
                losses = model({"labeled": labeled, "unlabeled": weak})
                sum(losses.values()).backward()
                first = first or {key: loss.detach() for key, loss in losses.items() if not key.endswith("_pseudo")}
        return first

    images = {"images": 2 * _IMAGES, "objects": objects, "image_size": list(_SIZE)}
    return Case(
        settings={"configuration": name, **images, "steps": steps},
        ways={"without": lambda: run(models[False]), "with": lambda: run(models[True])},
        comparisons=[
            Comparison(
                "without",
                "with",
                lambda plain, ours: {"loss on labels": max(abs(plain[key] - ours[key]) for key in plain)},
                {"loss on labels": 1e-3},
                [Goal(f"at most {_MOST} times the time", "speed_ratio", 1 / _MOST)],
            )
        ],
    )


SCENARIO = Scenario(
    "s4m_guards",
    "a training step of S4M without and with boundary consistency, calibration and matching, of both small students",
    _cases,
)
