"""Training reads a labeled and an unlabeled stream side by side."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, print_instances_class_histogram
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

from d2kit.loader import StreamLoader
from d2kit.rng import derive_seed
from s4m.data.datasets_by_path import resolve_config_datasets
from s4m.data.duplicates import find_copies
from s4m.data.images import first_missing
from s4m.data.mappers import LabeledMapper, UnlabeledMapper, without_labels

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TwoStreamLoader:
    """Endless batches {"labeled": [...], "unlabeled": [...]}; the second list is empty without an unlabeled set."""

    labeled: StreamLoader
    unlabeled: StreamLoader | None = None

    def set_start(self, iteration: int) -> None:
        """Let later iterators begin with batch number `iteration`, as if the batches before it had been taken."""
        self.labeled.set_start(iteration)
        if self.unlabeled is not None:
            self.unlabeled.set_start(iteration)

    def __iter__(self) -> Iterator[dict[str, list[dict]]]:
        unlabeled = itertools.repeat([]) if self.unlabeled is None else self.unlabeled
        for labeled, images in zip(self.labeled, unlabeled, strict=False):
            yield {"labeled": labeled, "unlabeled": list(images)}


def _require_files(dicts: Sequence[dict], key: str) -> None:
    missing = first_missing(d["file_name"] for d in dicts)
    if missing:
        raise FileNotFoundError(f"{key}: the image '{missing}' does not exist.")


def load_labeled(names: Sequence[str], filter_empty: bool = True) -> list[dict]:
    """Load the dataset dicts of the labeled sets.

    Args:
        names: registered names.
        filter_empty: whether to leave out images that have no object, or only crowds.

    Raises:
        FileNotFoundError: an image is absent.
        ValueError: no set is named, a set has no annotations, their classes differ, or no object is labeled at all.
    """
    if not names:
        raise ValueError("DATASETS.TRAIN names no data set.")
    dicts = []
    for name in names:
        records = DatasetCatalog.get(name)
        if not records or "annotations" not in records[0]:
            raise ValueError(f"DATASETS.TRAIN: '{name}' has no {'annotations' if records else 'image'}.")
        dicts += records
    classes = {tuple(MetadataCatalog.get(name).get("thing_classes", ())) for name in names}
    if len(classes) > 1:
        raise ValueError(f"DATASETS.TRAIN: {', '.join(names)} differ in their classes.")
    has_object = [any(not a.get("iscrowd", 0) for a in d["annotations"]) for d in dicts]
    if not any(has_object):
        raise ValueError(f"DATASETS.TRAIN: no image of {', '.join(names)} has a labeled object.")
    if filter_empty and not all(has_object):
        logger.info("%d of %d labeled images have no object and are left out.", has_object.count(False), len(dicts))
        dicts = list(itertools.compress(dicts, has_object))
    _require_files(dicts, "DATASETS.TRAIN")
    if any(classes):
        print_instances_class_histogram(dicts, classes.pop())
    return dicts


def load_unlabeled(names: Sequence[str]) -> list[dict]:
    """Load the dataset dicts of the unlabeled sets, without the annotations that the sets may have.

    Raises:
        FileNotFoundError: an image is absent.
        ValueError: a set has no image.
    """
    dicts = []
    for name in names:
        records = DatasetCatalog.get(name)
        if not records:
            raise ValueError(f"DATASETS.UNLABELED: '{name}' has no image.")
        dicts += map(without_labels, records)
    _require_files(dicts, "DATASETS.UNLABELED")
    return dicts


def warn_of_copies(labeled: Sequence[dict], unlabeled: Sequence[dict]) -> None:
    """Warn once if unlabeled files hold labeled images under another name.

    The same path in both sets is fine, because the unlabeled set may be the whole training set.
    """
    names = {d["file_name"] for d in labeled}
    copies = find_copies(names, {d["file_name"] for d in unlabeled} - names)
    if copies:
        message = "%d unlabeled image(s) are labeled images under another name; for example, '%s' is '%s'."
        logger.warning(message, len(copies), copies[0][1], copies[0][0])


def build_labeled_sampler(cfg: CfgNode, dicts: Sequence[dict], seed: int):
    """Build the infinite TrainingSampler or RepeatFactorTrainingSampler that DATALOADER.SAMPLER_TRAIN names.

    Raises:
        ValueError: DATALOADER.SAMPLER_TRAIN names neither.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(dicts), shuffle=True, seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.get("REPEAT_SQRT", True)
        )
        return RepeatFactorTrainingSampler(factors, shuffle=True, seed=seed)
    raise ValueError(f"DATALOADER.SAMPLER_TRAIN must be TrainingSampler or RepeatFactorTrainingSampler, not '{name}'.")


def build_two_stream_loader(cfg: CfgNode) -> TwoStreamLoader:
    """Build the loader of the sets that DATASETS.TRAIN and DATASETS.UNLABELED name (see `resolve_datasets`).

    SOLVER.IMS_PER_BATCH and S4M.UNLABELED_BATCH are the images of a batch over all processes. DATALOADER.SAMPLER_TRAIN
    samples labeled images; unlabeled images are sampled uniformly. Order and augmentation depend only on SEED and the
    position in the stream; a random seed, which is logged, replaces a negative SEED. DATALOADER.ASPECT_RATIO_GROUPING
    has no effect.

    Raises:
        FileNotFoundError: a data set or an image is absent.
        ValueError: a data set is empty or unknown, or the processes cannot share a batch evenly.
    """
    resolve_config_datasets(cfg)
    seed = cfg.SEED
    if seed < 0:
        seed = comm.shared_random_seed()
        logger.info("SEED is %d, so the data follow the random seed %d, drawn for this run.", cfg.SEED, seed)
    labeled = load_labeled(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    unlabeled = load_unlabeled(cfg.DATASETS.UNLABELED)
    workers = cfg.DATALOADER.NUM_WORKERS
    labeled_workers = max(workers // 2, min(workers, 1)) if unlabeled else workers
    sampler = build_labeled_sampler(cfg, labeled, derive_seed(seed, "labeled", "order"))
    mapper = LabeledMapper(cfg)
    first = StreamLoader(labeled, mapper, sampler, cfg.SOLVER.IMS_PER_BATCH, labeled_workers, seed, "labeled")
    if not unlabeled:
        return TwoStreamLoader(labeled=first)
    if comm.is_main_process():
        warn_of_copies(labeled, unlabeled)
    second = StreamLoader(
        unlabeled,
        UnlabeledMapper(cfg),
        TrainingSampler(len(unlabeled), shuffle=True, seed=derive_seed(seed, "unlabeled", "order")),
        cfg.S4M.UNLABELED_BATCH,
        (workers + 1) // 2,
        seed,
        "unlabeled",
        key="S4M.UNLABELED_BATCH",
    )
    return TwoStreamLoader(labeled=first, unlabeled=second)
