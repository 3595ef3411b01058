"""The pseudo-masks of a run: made once, evolved and mined by the teacher, written by one process and read by all."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils import comm

from istd.data.images import read_infrared, read_mask
from istd.pseudo_masks.evolve import evolve_mask
from istd.pseudo_masks.initialize import check_points, initialize_mask, is_easy
from istd.pseudo_masks.mine import ratio_at, select
from istd.pseudo_masks.sparse import SparseMasks
from istd.pseudo_masks.store import MaskReader, PseudoMaskStore

logger = logging.getLogger(__name__)

FOLDER = "pseudo_masks"
MINING_END = 0.8  # share of the training after which no image enters the pool
_CHOICES = {"START": ("contours", "points"), "POOL": ("easy", "all")}


@dataclass(frozen=True)
class Proposal:
    """What the teacher's probabilities of one image change: its new mask, and whether the image joins the pool."""

    image_id: str
    mask: np.ndarray
    enters: bool


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
    cfg: CfgNode, record: dict, mask: np.ndarray, inside: bool, probability: np.ndarray, ratio: float | None
) -> Proposal | None:
    """One image's step of label evolution (in the pool) or of mining (outside it).

    Args:
        cfg: ISTD.EVOLUTION is read.
        record: dataset dict with image_id and points.
        mask: (H, W) current soft mask.
        inside: whether the image is in the pool.
        probability: (H, W) of the teacher.
        ratio: share of missed points with which a waiting image may enter; None: no mining.

    Returns:
        None where nothing changes.
    """
    node, points = cfg.ISTD.EVOLUTION, record.get("points", ())
    if inside:
        evolved = evolve_mask(
            mask,
            probability,
            points=points if node.FIXED == "points" else None,
            decay=node.DECAY,
        )
        return Proposal(record["image_id"], evolved, False)
    if ratio is None:
        return None
    accepted, mined = select(probability, points, ratio=ratio)
    return Proposal(record["image_id"], mined, True) if accepted else None


class PseudoLabels:
    """The pseudo-mask store of a run, the same on every process.

    Process 0 writes; the others wait and read. The version is part of the checkpoint: `load_state_dict` rewinds the
    store to it.
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
        self._cfg, self._train, self._validation = cfg, list(train), list(validation)
        self.folder = Path(cfg.OUTPUT_DIR, FOLDER)
        self._store: PseudoMaskStore | None = None
        for record in [*self._train, *self._validation]:
            if record.get("points") is None:
                raise ValueError(
                    f"{record['file_name']} has no points: ISTD.LABELS.SOURCE 'points' needs them in every image."
                )

    @property
    def started(self) -> bool:
        """Whether the store is there."""
        return self._store is not None

    @property
    def store(self) -> PseudoMaskStore:
        """The store; `start` comes first."""
        if self._store is None:
            raise RuntimeError("PseudoLabels.start was not called.")
        return self._store

    def start(self, fresh: bool) -> None:
        """Make the first masks (in place of what an earlier run left), or continue the store that is there."""
        if comm.is_main_process():
            if fresh:
                self._store = self._create()
            else:
                self._store = PseudoMaskStore.open(self.folder)
        self._share()

    def reader(self) -> MaskReader:
        """Lookup of masks for a mapper, in any process."""
        return MaskReader(self.folder)

    def pool(self) -> list[int]:
        """Indices of the training images that train, in order."""
        inside = self.store.pool
        return [i for i, record in enumerate(self._train) if record["image_id"] in inside]

    def state_dict(self) -> dict:
        """Version and digest of the store."""
        return self.store.state_dict()

    def load_state_dict(self, state: Mapping) -> None:
        """Rewind to the version of a checkpoint."""
        if comm.is_main_process():
            self.store.load_state_dict(state)
        self._share()

    def update(self, probability: Callable[[dict], np.ndarray], epoch: int, epochs: float) -> dict:
        """Evolve the pool's masks and mine the waiting images as one transaction; every process predicts its share.

        Args:
            probability: dataset dict -> (H, W) of the teacher.
            epoch: that ended.
            epochs: length of the training.

        Returns:
            the drift report of the store; {} on the other processes.
        """
        mine = [*self._train, *self._validation][comm.get_rank() :: comm.get_world_size()]
        proposals = list(self._proposals(mine, probability, self._ratio(epoch, epochs)))
        packed = SparseMasks.pack((p.image_id, p.mask) for p in proposals)
        gathered = comm.gather((packed.arrays, [p.image_id for p in proposals if p.enters]))
        report = {}
        if comm.is_main_process():
            masks = {name: part[name] for arrays, _ in gathered for part in [SparseMasks(**arrays)] for name in part}
            report = self.store.update(masks, epoch=epoch, enter=[name for _, names in gathered for name in names])
        self._share()
        return report

    def quality(self) -> dict[str, float]:
        """IoU (%) of the pool's masks with the true ones, over all pixels, where every image of the pool has a mask
        file; {} otherwise. For the log: nothing is decided by it."""
        records = [self._train[i] for i in self.pool()]
        if not records or any("mask_file" not in record for record in records):
            return {}
        both = either = 0
        for record in records:
            mask, truth = self.store.mask(record["image_id"]) > 0.5, read_mask(record["mask_file"]) > 0
            both, either = both + int((mask & truth).sum()), either + int((mask | truth).sum())
        return {"labels/iou_true": 100.0 * both / either if either else float("nan")}

    def _proposals(self, records: Sequence[dict], probability: Callable, ratio: float | None) -> Iterator[Proposal]:
        for record in records:
            inside = record["image_id"] in self.store.pool
            if inside and not self._cfg.ISTD.EVOLUTION.ENABLED or not inside and ratio is None:
                continue
            mask = self.store.mask(record["image_id"])
            proposal = propose(self._cfg, record, mask, inside, probability(record), ratio)
            if proposal is not None:
                yield proposal

    def _ratio(self, epoch: int, epochs: float) -> float | None:
        end = MINING_END * epochs
        if not self._cfg.ISTD.MINING.ENABLED or epoch > end:
            return None
        return ratio_at(epoch, self._cfg.ISTD.EVOLUTION.START * epochs, end)

    def _create(self) -> PseudoMaskStore:
        node = self._cfg.ISTD.LABELS
        masks, pool, easy = [], [record["image_id"] for record in self._validation], 0
        for record in [*self._train, *self._validation]:
            grey = read_infrared(record["file_name"], self._cfg.ISTD.INPUT.DEPTH)
            try:
                mask, found = first_mask(grey, record["points"], node.START)
            except ValueError as error:
                raise ValueError(f"{record['file_name']}: {error}") from error
            masks.append((record["image_id"], mask))
            if len(masks) <= len(self._train) and (node.POOL == "all" or is_easy(found, node.EASY_SHARE)):
                pool.append(record["image_id"])
                easy += 1
        if not easy:
            raise ValueError(
                f"none of the {len(self._train)} training images is easy enough to begin with: lower "
                "ISTD.LABELS.EASY_SHARE or set ISTD.LABELS.POOL to all."
            )
        logger.info("%d of %d training images are in the pool from the start.", easy, len(self._train))
        return PseudoMaskStore.create(self.folder, masks, pool, keep=node.KEEP, overwrite=True)

    def _share(self) -> None:
        """Let the other processes follow what process 0 wrote."""
        comm.synchronize()
        if not comm.is_main_process():
            if self._store is None:
                self._store = PseudoMaskStore.open(self.folder, clean=False)
            else:
                self._store.refresh()
        comm.synchronize()


def remove(path: str | os.PathLike) -> None:
    """Remove what an earlier run left in the output folder, on process 0."""
    if comm.is_main_process():
        Path(path).unlink(missing_ok=True)
