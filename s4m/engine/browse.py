"""What training makes of its first images: the mappers' views, and the pseudo-labels at each step of the pipeline."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.structures import Instances
from detectron2.utils.env import seed_all_rng

from d2kit.report.page import Section, write_page
from d2kit.report.pictures import Picture, data_uri, draw_masks
from d2kit.rng import derive_seed, seed_everything
from s4m.data.two_stream import build_two_stream_loader
from s4m.engine.cached_source import refined_images, use_cache
from s4m.engine.report import class_color, class_legend
from s4m.engine.trainer import S4MTrainer
from s4m.engine.weights import TeacherStudentCheckpointer, load_teacher
from s4m.modeling.teacher_student import TeacherStudent
from s4m.pseudo_labels.record import ImageRecord

_NAMED = 8  # objects that a caption names


class Browser:
    """Draws the views of a training as sections of a page."""

    def __init__(self, cfg: CfgNode, class_names: Sequence[str]):
        """
        Args:
            cfg: INPUT.FORMAT is read.
            class_names: thing classes by contiguous index; if it is empty, the indices are written.
        """
        self._format = cfg.INPUT.FORMAT
        self._names = class_names

    def labeled(self, entry: dict) -> Picture:
        """Return the weak view of a labeled image with its labels."""
        return self._of_targets(f"{entry['file_name']}\n", entry["image"], entry["instances"])

    def unlabeled(self, record: ImageRecord, mixed: torch.Tensor, target: dict) -> tuple[str, list[Picture]]:
        """Return the row of an unlabeled image: weak view, labels before and after SAM, mixed view, strong view.

        Args:
            record: the pseudo-labels of the weak view.
            mixed: (3, H, W) uint8, the view after mixing.
            target: what the student learns from, with the strong view as `image` and its `instances`.
        """
        classes = record.classes
        weak = Picture(f"weak view, {record.candidates} predictions", data_uri(self._rgb(record.image)))
        before = self._picture(
            f"{record.selected} pseudo-labels before SAM", record.image, record.teacher_masks, classes, record.scores
        )
        if record.ignored is not None:
            classes = torch.where(record.ignored, -1, classes)
        after = f"after SAM, {record.refined} refined, {record.rejected} kept"
        after = self._picture(after, record.image, record.masks, classes, record.confidence)
        mixed = self._of_targets("mixed view, ", mixed, target["instances"])
        strong = Picture("strong view", data_uri(self._rgb(target["image"])))
        return record.file_name, [weak, before, after, mixed, strong]

    def _of_targets(self, title: str, image: torch.Tensor, instances: Instances) -> Picture:
        masks, classes = instances.gt_masks.tensor, instances.gt_classes
        return self._picture(f"{title}{len(instances)} objects", image, masks, classes)

    def _picture(
        self,
        title: str,
        image: torch.Tensor,
        masks: torch.Tensor,
        classes: torch.Tensor,
        scores: torch.Tensor | None = None,
    ) -> Picture:
        indices = classes.tolist()
        names = ["ignored" if i < 0 else self._names[i] if self._names else str(i) for i in indices]
        if scores is not None:
            names = [f"{name} {score:.2f}" for name, score in zip(names, scores.tolist(), strict=True)]
        more = ["…"] if len(names) > _NAMED else []
        drawn = draw_masks(self._rgb(image), list(masks.cpu().numpy()), list(map(class_color, indices)))
        return Picture(f"{title}\n{', '.join(names[:_NAMED] + more)}", data_uri(drawn))

    def _rgb(self, image: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(convert_image_to_rgb(image.cpu().permute(1, 2, 0), self._format))


def build_teacher(cfg: CfgNode, checkpoint: str) -> TeacherStudent:
    """Return the model of stage 2 in training mode.

    Args:
        cfg: complete configuration with unlabeled images.
        checkpoint: file of a training of stage 2; "" stands for the weights that the training starts from.
    """
    model = S4MTrainer.build_model(cfg)
    checkpointer = TeacherStudentCheckpointer(model)
    if checkpoint:
        checkpointer.load(checkpoint, checkpointables=[])
    else:
        if not cfg.S4M.TEACHER.WEIGHTS:
            checkpointer.load(cfg.MODEL.WEIGHTS, checkpointables=[])
        load_teacher(cfg, model)
    model.awaited_teacher = ""
    return model.train()


def write_views(cfg: CfgNode, path: Path, number: int, checkpoint: str = "") -> None:
    """Write a page of the first images of a training's two streams, as its mappers and its labeler make them.

    Without DATASETS.UNLABELED there are labeled images alone.

    Args:
        cfg: complete, frozen and scaled configuration with a seed of at least 0.
        path: file to write.
        number: images of each stream, positive.
        checkpoint: see `build_teacher`.

    Raises:
        FileNotFoundError, ValueError: data or weights are missing or do not fit.
    """
    seed_all_rng(cfg.SEED)  # Untrained weights are those of the training.
    loader = build_two_stream_loader(cfg)
    model = build_teacher(cfg, checkpoint) if cfg.DATASETS.UNLABELED else None
    if model is not None:
        use_cache(cfg, model, refined_images(cfg, loader))
    class_names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes", [])
    browser = Browser(cfg, class_names)
    labeled, unlabeled = [], []
    for iteration, batch in enumerate(loader):
        labeled += map(browser.labeled, batch["labeled"])
        if model is not None:
            seed_everything(derive_seed(cfg.SEED, "step", iteration, 0))
            if model.calibration is not None and model.calibration.due():
                model.calibrate(batch["labeled"])
            targets, record = model.pseudo_label(batch["unlabeled"])
            unlabeled += map(browser.unlabeled, record.images, record.mixed, targets)
        if len(labeled) >= number and (model is None or len(unlabeled) >= number):
            break
    legend = class_legend(class_names)
    sections = [Section("Labeled images", legend=legend, galleries=[("weak views", labeled[:number])])]
    if model is not None:
        source = checkpoint or cfg.S4M.TEACHER.WEIGHTS or cfg.MODEL.WEIGHTS or "untrained weights"
        text = [
            f"The teacher has the weights of {source}. Gray objects are ignored. Numbers are scores before SAM, and "
            "confidences after it where calibration is on."
        ]
        sections.append(Section("Unlabeled images", text, legend=legend, galleries=unlabeled[:number]))
    write_page(path, f"First images of a training, seed {cfg.SEED}", [], sections)
