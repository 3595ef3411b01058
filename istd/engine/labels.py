"""The pseudo-masks of a run: made once, evolved and mined by the teacher, the same on every process."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm

from istd.data.images import read_infrared, read_mask
from istd.data.polarity import orient
from istd.data.spots import spots_at, why_none_is_easy
from istd.engine.region_options import region_options
from istd.pseudo_masks.evolve import constants_for, evolve_mask
from istd.pseudo_masks.initialize import check_points, initialize_mask, is_easy, target_scale
from istd.pseudo_masks.mine import ratio_at, select
from istd.pseudo_masks.regions import grow_mask
from istd.pseudo_masks.state import PseudoMasks

logger = logging.getLogger(__name__)

FOLDER = "pseudo_masks"
MINING_END = 0.8  # share of the training after which no image enters the pool


def first_mask(image: np.ndarray, points: Sequence, start: str, **options) -> tuple[np.ndarray, np.ndarray]:
    """Return the first pseudo-mask, (H, W) float32, and whether each point got a region in it, (N,) bool.

    `start` is "contours" (see `initialize_mask`) or "regions" (see `grow_mask`), which take the options, or "points":
    the points alone, as LESPS begins.
    """
    if start == "contours":
        return initialize_mask(image, points, **options)
    if start == "regions":
        return grow_mask(image, points, **options)
    array = check_points(points, *image.shape)
    mask = np.zeros(image.shape, np.float32)
    mask[array[:, 1], array[:, 0]] = 1
    return mask, np.ones(len(array), bool)


class PseudoLabels:
    """The pseudo-masks of a run and their changes.

    Every process holds all masks, and every checkpoint keeps them. The files in `folder` are for pictures alone.

    Attributes:
        masks: masks of training and validation images; empty before `start` or `load_state_dict`.
        folder: folder with one file for each version of the masks.
    """

    def __init__(self, cfg: CfgNode, train: Sequence[dict], validation: Sequence[dict] = ()):
        """
        Args:
            cfg: configuration with OUTPUT_DIR, ISTD.LABELS, EVOLUTION and MINING.
            train: dataset dicts with points.
            validation: dataset dicts with points, whose masks evolve too and which are all in the pool.
        """
        if cfg.ISTD.LABELS.CALIBRATE and cfg.ISTD.LABELS.START != "regions":
            raise ValueError("ISTD.LABELS.CALIBRATE needs ISTD.LABELS.START regions.")
        self._cfg = cfg
        self._scale = target_scale(cfg.ISTD.LABELS.TARGET_SIZE)
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
        """Make the first masks on process 0 and share them."""
        first = self._first_masks() if comm.is_main_process() else PseudoMasks()
        self.masks.load_state_dict(comm.all_gather(first.state_dict())[0])
        self._save()

    def pool(self) -> list[int]:
        """Return the indices of the training images that are in the pool, in order."""
        return [i for i, record in enumerate(self._train) if record["image_id"] in self.masks.pool]

    def load_state_dict(self, state: Mapping) -> None:
        """Restore the masks and the pool of a checkpoint; ValueError when an image of this run has no mask there."""
        if "ids" not in state:
            raise ValueError(
                "the checkpoint holds no pseudo-masks: name it in MODEL.WEIGHTS and train without --resume."
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
            probability: function from a dataset dict to the teacher's probability, (H, W).
            epoch: number of the epoch that ended.
            epochs: length of the training in epochs.

        Returns:
            the figures of `PseudoMasks.advance`.
        """
        mining_end = MINING_END * epochs
        ratio = None
        if self._cfg.ISTD.MINING.ENABLED and epoch <= mining_end:
            ratio = ratio_at(epoch, self._cfg.ISTD.EVOLUTION.START * epochs, mining_end)
        share = self._records[comm.get_rank() :: comm.get_world_size()]
        figures = self.masks.advance(comm.all_gather(self._changes(share, probability, ratio)), epoch)
        self._save()
        return figures

    def quality(self) -> dict[str, float]:
        """Return the IoU (%) of the pool's masks with the true masks, over all pixels, for the log alone.

        The result is empty unless every image of the pool has a mask file.
        """
        records = [self._train[i] for i in self.pool()]
        if not records or any("mask_file" not in record for record in records):
            return {}
        intersection = 0
        union = 0
        for record in records:
            mask = self.masks[record["image_id"]] > 0.5
            truth = read_mask(record["mask_file"]) > 0
            intersection += int((mask & truth).sum())
            union += int((mask | truth).sum())
        return {"labels/iou_true": 100.0 * intersection / union if union else float("nan")}

    def _changes(self, records: Sequence[dict], probability: Callable, ratio: float | None) -> PseudoMasks:
        """Return the masks of these images that change, with the images that enter as pool; None mines nothing."""
        node = self._cfg.ISTD.EVOLUTION
        changes = PseudoMasks()
        for record in records:
            image_id, points = record["image_id"], record["points"]
            if image_id not in self.masks.pool:
                if ratio is None:
                    continue
                accepted, mask = select(probability(record), points, ratio=ratio)
                if accepted:
                    changes.put(image_id, mask)
                    changes.pool.add(image_id)
            elif node.ENABLED:
                fixed = points if node.FIXED == "points" else None
                options = {"points": fixed, "decay": node.DECAY, **constants_for(self._scale)}
                mask = evolve_mask(self.masks[image_id], probability(record), **options)
                changes.put(image_id, mask)
        return changes

    def _first_masks(self) -> PseudoMasks:
        node = self._cfg.ISTD.LABELS
        polarity = self._cfg.ISTD.INPUT.POLARITY
        options = {"scale": self._scale, "both": polarity == "both"}
        if node.START == "regions":
            options = region_options(self._cfg, self._train)
        masks = PseudoMasks()
        easy = 0
        for number, record in enumerate(self._records):
            gray = orient(read_infrared(record["file_name"], self._cfg.ISTD.INPUT.RANGE), polarity)
            if record["image_id"] in masks:
                raise ValueError(f"{record['file_name']}: image id '{record['image_id']}' occurs twice.")
            try:
                mask, has_region = first_mask(gray, record["points"], node.START, **options)
            except ValueError as error:
                raise ValueError(f"{record['file_name']}: {error}") from error
            masks.put(record["image_id"], mask)
            trains = number < len(self._train)
            if not trains or node.POOL == "all" or is_easy(has_region, node.EASY_SHARE):
                masks.pool.add(record["image_id"])
                easy += trains
        if not easy:
            raise ValueError(self._why_none_is_easy())
        logger.info("%d of %d training images are in the pool from the start.", easy, len(self._train))
        return masks

    def _why_none_is_easy(self) -> str:
        node = self._cfg.ISTD
        spots = []
        for record in self._train:
            gray = orient(read_infrared(record["file_name"], node.INPUT.RANGE), node.INPUT.POLARITY)
            spots += [(record["file_name"], spot) for spot in spots_at(gray, record["points"])]
        size = node.LABELS.TARGET_SIZE if node.LABELS.START == "contours" else math.inf
        return why_none_is_easy(len(self._train), spots, node.INPUT.POLARITY, size)

    def _save(self) -> None:
        if comm.is_main_process():
            self.masks.save(self.folder)
