"""The pseudo-masks of a run: made once, evolved and mined by the teacher, the same on every process."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm

from istd.data.images import read_infrared, read_mask
from istd.pseudo_masks.evolve import evolve_mask
from istd.pseudo_masks.initialize import check_points, initialize_mask, is_easy
from istd.pseudo_masks.mine import ratio_at, select
from istd.pseudo_masks.state import PseudoMasks

logger = logging.getLogger(__name__)

FOLDER = "pseudo_masks"
MINING_END = 0.8  # share of the training after which no image enters the pool
_CHOICES = {"START": ("contours", "points"), "POOL": ("easy", "all")}


def first_mask(image: np.ndarray, points: Sequence, start: str) -> tuple[np.ndarray, np.ndarray]:
    """First pseudo-mask (H, W) float32 and (N,) bool, which points got one.

    `start`: "contours" (`initialize_mask`) or "points": the points alone, as LESPS begins.
    """
    if start == "contours":
        return initialize_mask(image, points)
    array = check_points(points, *image.shape)
    mask = np.zeros(image.shape, np.float32)
    mask[array[:, 1], array[:, 0]] = 1
    return mask, np.ones(len(array), bool)


def propose(
    cfg: CfgNode, record: dict, mask: np.ndarray, inside: bool, probability: np.ndarray, ratio: float
) -> np.ndarray | None:
    """One image's step of label evolution (in the pool) or of mining (outside it).

    Args:
        cfg: ISTD.EVOLUTION is read.
        record: dataset dict with image_id and points.
        mask: (H, W) current soft mask.
        inside: whether the image is in the pool.
        probability: (H, W) of the teacher.
        ratio: share of missed points with which a waiting image may enter.

    Returns:
        the new (H, W) mask, with which a waiting image enters the pool; None where it has to wait.
    """
    node, points = cfg.ISTD.EVOLUTION, record.get("points", ())
    if inside:
        return evolve_mask(
            mask,
            probability,
            points=points if node.FIXED == "points" else None,
            decay=node.DECAY,
        )
    accepted, mined = select(probability, points, ratio=ratio)
    return mined if accepted else None


class PseudoLabels:
    """The pseudo-masks of a run and how they change.

    Every process holds all of them. They are part of the checkpoint. The files in `folder` are for pictures alone.

    Attributes:
        masks: of training and validation images; empty before `start` or `load_state_dict`.
        folder: with one file for each version of the masks.
    """

    def __init__(self, cfg: CfgNode, train: Sequence[dict], validation: Sequence[dict] = ()):
        """
        Args:
            cfg: OUTPUT_DIR, ISTD.LABELS, EVOLUTION and MINING are read.
            train: dataset dicts with points.
            validation: such, whose masks evolve too and which are all in the pool.
        """
        for key, choices in _CHOICES.items():
            if cfg.ISTD.LABELS[key] not in choices:
                raise ValueError(f"ISTD.LABELS.{key} must be {' or '.join(choices)}, not '{cfg.ISTD.LABELS[key]}'.")
        if cfg.ISTD.EVOLUTION.FIXED not in ("points", "ones"):
            raise ValueError(f"ISTD.EVOLUTION.FIXED must be points or ones, not '{cfg.ISTD.EVOLUTION.FIXED}'.")
        self._cfg = cfg
        self._train = list(train)
        self._records = [*train, *validation]
        self.folder = Path(cfg.OUTPUT_DIR, FOLDER)
        self.masks = PseudoMasks()
        for record in self._records:
            if record.get("points") is None:
                raise ValueError(
                    f"{record['file_name']} has no points: ISTD.LABELS.SOURCE 'points' needs them in every image."
                )

    def start(self) -> None:
        """Make the first masks, on process 0 for all."""
        first = self._first_masks() if comm.is_main_process() else PseudoMasks()
        self.masks.load_state_dict(comm.all_gather(first.state_dict())[0])
        self._save()

    def pool(self) -> list[int]:
        """Indices of the training images that train, in order."""
        return [i for i, record in enumerate(self._train) if record["image_id"] in self.masks.pool]

    def load_state_dict(self, state: Mapping) -> None:
        """Take the masks and the pool of a checkpoint; ValueError when they are not those of this run's images."""
        if "ids" not in state:
            raise ValueError(
                "the checkpoint was written before checkpoints held the pseudo-masks: training cannot resume from it, "
                "but MODEL.WEIGHTS can name it."
            )
        self.masks.load_state_dict(state)
        for record in self._records:
            if record["image_id"] not in self.masks:
                raise ValueError(
                    f"{record['file_name']} has no pseudo-mask in the checkpoint: resume with that run's data sets."
                )

    def update(self, probability: Callable[[dict], np.ndarray], epoch: int, epochs: float) -> dict[str, float]:
        """Evolve the pool's masks and mine the waiting images; every process predicts its share.

        Args:
            probability: dataset dict -> (H, W) of the teacher.
            epoch: that ended.
            epochs: length of the training.

        Returns:
            the figures of `PseudoMasks.advance`.
        """
        share = self._records[comm.get_rank() :: comm.get_world_size()]
        changes = self._changes(share, probability, self._ratio(epoch, epochs))
        figures = self.masks.advance(comm.all_gather(changes), epoch)
        self._save()
        return figures

    def quality(self) -> dict[str, float]:
        """IoU (%) of the pool's masks with the true ones, over all pixels, where every image of the pool has a mask
        file; {} otherwise. For the log: nothing is decided by it."""
        records = [self._train[i] for i in self.pool()]
        if not records or any("mask_file" not in record for record in records):
            return {}
        both = either = 0
        for record in records:
            mask, truth = self.masks[record["image_id"]] > 0.5, read_mask(record["mask_file"]) > 0
            both += int((mask & truth).sum())
            either += int((mask | truth).sum())
        return {"labels/iou_true": 100.0 * both / either if either else float("nan")}

    def _changes(self, records: Sequence[dict], probability: Callable, ratio: float | None) -> PseudoMasks:
        """The masks of these images that change; its pool is of the images that enter."""
        changes = PseudoMasks()
        for record in records:
            image_id = record["image_id"]
            inside = image_id in self.masks.pool
            if inside and not self._cfg.ISTD.EVOLUTION.ENABLED or not inside and ratio is None:
                continue
            mask = propose(self._cfg, record, self.masks[image_id], inside, probability(record), ratio)
            if mask is not None:
                changes.put(image_id, mask)
                if not inside:
                    changes.pool.add(image_id)
        return changes

    def _ratio(self, epoch: int, epochs: float) -> float | None:
        """Share of missed points that mining allows; None: no mining."""
        end = MINING_END * epochs
        if not self._cfg.ISTD.MINING.ENABLED or epoch > end:
            return None
        return ratio_at(epoch, self._cfg.ISTD.EVOLUTION.START * epochs, end)

    def _first_masks(self) -> PseudoMasks:
        node, masks, easy = self._cfg.ISTD.LABELS, PseudoMasks(), 0
        for number, record in enumerate(self._records):
            grey = read_infrared(record["file_name"], self._cfg.ISTD.INPUT.DEPTH)
            if record["image_id"] in masks:
                raise ValueError(f"{record['file_name']}: image id '{record['image_id']}' occurs twice.")
            try:
                mask, found = first_mask(grey, record["points"], node.START)
            except ValueError as error:
                raise ValueError(f"{record['file_name']}: {error}") from error
            masks.put(record["image_id"], mask)
            trains = number < len(self._train)
            if not trains or node.POOL == "all" or is_easy(found, node.EASY_SHARE):
                masks.pool.add(record["image_id"])
                easy += trains
        if not easy:
            raise ValueError(
                f"none of the {len(self._train)} training images is easy enough to begin with: lower "
                "ISTD.LABELS.EASY_SHARE or set ISTD.LABELS.POOL to all."
            )
        logger.info("%d of %d training images are in the pool from the start.", easy, len(self._train))
        return masks

    def _save(self) -> None:
        if comm.is_main_process():
            self.masks.save(self.folder)
