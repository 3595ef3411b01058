"""The scenario times S4M's training step with and without its guards: boundary consistency, calibration, matching."""

import argparse
from collections.abc import Iterator

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances
from detectron2.utils.events import EventStorage

from benchmarks.harness import Case, Comparison, Goal, largest_difference
from d2kit.config_files import compose_config
from d2kit.rng import seeded
from s4m.config import add_s4m_config
from s4m.data.shapes import ShapesRecipe, draw_scene
from s4m.modeling.rcnn import paste_probabilities
from s4m.modeling.teacher_student import TeacherStudent

# Each setting has a name, the files of the configuration and the number of objects an image.
SETTINGS = (
    ("shapes_stage2", ("quick/shapes_stage2.yaml",), 4),
    ("shapes_stage2", ("quick/shapes_stage2.yaml",), 12),
    ("shapes_stage2 mask2former", ("quick/shapes_stage2.yaml", "quick/overlays/mask2former_stage2.yaml"), 4),
)
GUARDS = ("BOUNDARY", "CALIBRATION", "MATCHING")
MOST_TIME = 1.15  # The guards should take at most this multiple of the time without them.
IMAGES = 4
SIZE = (128, 128)
MASK_SIDE = 28
SCORES = (0.95, 0.9, 0.8, 0.4)  # The objects of an image get these in turn, so that one in four is no pseudo-label.


def configure(files: tuple[str, ...], device: str, guards: bool) -> CfgNode:
    """Compose a second stage on shapes whose thresholds do not move, so that both ways have the same labels."""
    cfg = compose_config(files, add_keys=[add_s4m_config])
    cfg.DATASETS.UNLABELED = ("drawn here",)
    cfg.MODEL.DEVICE = device
    cfg.S4M.CALIBRATION.BOUNDS = (cfg.S4M.SELECTION.SCORE, cfg.S4M.SELECTION.SCORE)
    cfg.S4M.TEACHER.WEIGHTS = ""
    for name in GUARDS:
        cfg.S4M[name].ENABLED = guards
    return cfg


def draw_images(first_seed: int, objects: int) -> list[dict]:
    """Draw labeled images of shapes, each with its `seed`."""
    recipe = ShapesRecipe(image_size=SIZE, objects=(objects, objects))
    entries = []
    for seed in range(first_seed, first_seed + IMAGES):
        image, owner, names = draw_scene(recipe, np.random.default_rng(seed))
        masks = BitMasks(torch.stack([torch.from_numpy(owner == i + 1) for i in range(len(names))]))
        classes = torch.tensor([recipe.classes.index(name) % 3 for name in names])
        instances = Instances(SIZE, gt_boxes=masks.get_bounding_boxes(), gt_classes=classes, gt_masks=masks)
        image = torch.from_numpy(image).permute(2, 0, 1).contiguous()
        entries.append({"image": image, "instances": instances, "seed": seed, "file_name": str(seed)})
    return entries


def answer_with_truth(model: TeacherStudent, entries: list[dict]) -> None:
    """Let the untrained teacher do its work, but return the objects as a trained teacher's mask head predicts them."""
    predict_untrained = model.teacher.predict
    answers = {}
    for entry in entries:
        truth = entry["instances"]
        crops = truth.gt_masks.crop_and_resize(truth.gt_boxes.tensor, MASK_SIDE)[:, None].float() * 0.9
        answer = Instances(SIZE, pred_boxes=truth.gt_boxes, pred_masks=crops, pred_classes=truth.gt_classes)
        answer.scores = torch.tensor(SCORES).repeat(len(truth))[: len(truth)]
        answers[entry["seed"]] = answer.to(model.device)

    def predict(batch: list[dict], min_score: float) -> list[Instances]:
        predict_untrained(batch, 1.0)
        predictions = []
        for entry in batch:
            answer = answers[entry["seed"]]
            answer = answer[answer.scores > min_score]
            answer.soft_masks = paste_probabilities(answer)
            answer.remove("pred_masks")
            predictions.append(answer)
        return predictions

    model.teacher.predict = predict


def guards_case(name: str, files: tuple[str, ...], objects: int, device: str) -> Case:
    """Return the case of one setting, whose two models have the same weights and the same images."""
    labeled, unlabeled = draw_images(0, objects), draw_images(IMAGES, objects)
    weak = [{key: value for key, value in entry.items() if key != "instances"} for entry in unlabeled]
    with seeded(0):
        models = {guards: build_model(configure(files, device, guards)).train() for guards in (False, True)}
    models[True].load_state_dict(models[False].state_dict(), strict=False)
    for model in models.values():
        answer_with_truth(model, [*labeled, *unlabeled])
    steps = models[True].calibration.period

    def run(model: TeacherStudent) -> torch.Tensor:
        """Run as many steps as one fit of the calibration takes, and return the first step's losses on labels."""
        first = []
        with seeded(0), EventStorage():
            for _ in range(steps):
                model.zero_grad()
                losses = model({"labeled": labeled, "unlabeled": weak})
                sum(losses.values()).backward()
                first = first or [losses[key].detach() for key in sorted(losses) if not key.endswith("_pseudo")]
        return torch.stack(first)

    settings = {"configuration": name, "images": 2 * IMAGES, "objects": objects, "image_size": list(SIZE)}
    ways = {"without": lambda: run(models[False]), "with": lambda: run(models[True])}
    goal = Goal(f"at most {MOST_TIME} times the time", "speed_ratio", 1 / MOST_TIME)
    comparison = Comparison(*ways, largest_difference("loss on labels"), {"loss on labels": 1e-3}, [goal])
    return Case({**settings, "steps": steps}, ways, [comparison])


def s4m_guards(options: argparse.Namespace) -> Iterator[Case]:
    """A step of S4M with boundary consistency, calibration and matching is compared with one without them."""
    yield from (guards_case(*setting, options.device) for setting in SETTINGS)
