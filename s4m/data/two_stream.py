"""Training reads a labeled and an unlabeled stream side by side."""

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from detectron2.config import CfgNode
from detectron2.data import print_instances_class_histogram
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

from d2kit.datasets import errors_name
from d2kit.faults import Faults
from d2kit.loader import StreamLoader
from d2kit.rng import derive_seed
from s4m.data.check import ON_BAD_IMAGE, check_set, tell_classes, tell_copies
from s4m.data.classes import classes_of, training_classes, with_classes
from s4m.data.datasets_by_path import resolve_config_datasets
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


def _load(name: str, key: str, **options) -> list[dict]:
    """Return the dataset dicts of a set that passes `check_set`; errors name the configuration key."""
    with errors_name(key):
        records, faults = check_set(name, **options)
        faults.refuse()
    if comm.is_main_process():
        faults.log()
    return records


def load_labeled(
    names: Sequence[str], filter_empty: bool = True, *, objects_of_crowds: bool = False, key: str = "DATASETS.TRAIN"
) -> list[dict]:
    """Load the dataset dicts of the labeled sets, with the class indices of the first.

    Args:
        names: registered names.
        filter_empty: whether to leave out images that have no object, or only crowds.
        objects_of_crowds: whether annotations with iscrowd 1 are objects.
        key: configuration key that names the sets, for messages.

    Raises:
        FileNotFoundError: an image is absent.
        ValueError: no set is named, one has no annotations or is refused by `check_set`, their classes differ, or no
            object is labeled at all.
    """
    if not names:
        raise ValueError(f"{key} names no data set.")
    dicts = []
    for name in names:
        records = _load(name, key, labeled=True, objects_of_crowds=objects_of_crowds, first=names[0])
        dicts += with_classes(records, classes_of(name), classes_of(names[0]))
    has_object = [any(not a.get("iscrowd", 0) for a in d["annotations"]) for d in dicts]
    if not any(has_object):
        raise ValueError(f"{key}: no image of {', '.join(names)} has a labeled object.")
    if filter_empty and not all(has_object):
        logger.info("%d of %d labeled images have no object and are left out.", has_object.count(False), len(dicts))
        dicts = list(itertools.compress(dicts, has_object))
    if classes_of(names[0]):
        print_instances_class_histogram(dicts, classes_of(names[0]))
    return dicts


def load_unlabeled(names: Sequence[str], on_bad_image: str = "skip") -> list[dict]:
    """Load the dataset dicts of the unlabeled sets, without the annotations that the sets may have.

    Args:
        names: registered names.
        on_bad_image: "skip" leaves images that cannot be read out; "stop" refuses them.

    Raises:
        FileNotFoundError: an image is absent.
        ValueError: a set has no image, or `on_bad_image` is neither.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        raise ValueError(f"INPUT.ON_BAD_IMAGE must be {' or '.join(ON_BAD_IMAGE)}, not '{on_bad_image}'")
    dicts = []
    for name in names:
        skips = on_bad_image == "skip"
        dicts += map(without_labels, _load(name, "DATASETS.UNLABELED", labeled=False, skip_bad=skips))
    return dicts


def check_tests(cfg: CfgNode, labeled: Sequence[dict], unlabeled: Sequence[dict]) -> None:
    """Check the sets of DATASETS.TEST before training, and warn of images that are in two of the three sets.

    Args:
        cfg: complete configuration.
        labeled: dataset dicts of DATASETS.TRAIN.
        unlabeled: dataset dicts of DATASETS.UNLABELED.

    Raises:
        FileNotFoundError, ValueError: `check_set` refuses a set.
    """
    tested = []
    for name in cfg.DATASETS.TEST:
        options = {"labeled": True, "objects_of_crowds": cfg.INPUT.CROWDS_AS_OBJECTS, "evaluated": True}
        tested += map(without_labels, _load(name, "DATASETS.TEST", **options))
        if comm.is_main_process():
            faults = Faults(f"DATASETS.TEST '{name}'")
            tell_classes(name, training_classes(cfg), faults)
            faults.log()
    if comm.is_main_process():
        for sentence in tell_copies(labeled, unlabeled, tested):
            logger.warning(sentence)


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
        ValueError: a data set is empty, unknown or refused by `check_set`, or the processes cannot share a batch.
    """
    resolve_config_datasets(cfg)
    seed = cfg.SEED
    if seed < 0:
        seed = comm.shared_random_seed()
        logger.info("SEED is %d, so the data follow the random seed %d, drawn for this run.", cfg.SEED, seed)
    filter_empty = cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    # The unlabeled set comes first, because its json may be the labeled one: both would be in memory at once.
    unlabeled = load_unlabeled(cfg.DATASETS.UNLABELED, cfg.INPUT.ON_BAD_IMAGE)
    labeled = load_labeled(cfg.DATASETS.TRAIN, filter_empty, objects_of_crowds=cfg.INPUT.CROWDS_AS_OBJECTS)
    weighted = sum("confidence" in annotation for record in labeled for annotation in record["annotations"])
    if weighted and cfg.INPUT.CONFIDENCE_WEIGHTS:
        logger.info("%d labeled objects weigh as their confidence says (INPUT.CONFIDENCE_WEIGHTS).", weighted)
    check_tests(cfg, labeled, unlabeled)
    workers = cfg.DATALOADER.NUM_WORKERS
    labeled_workers = max(workers // 2, min(workers, 1)) if unlabeled else workers
    sampler = build_labeled_sampler(cfg, labeled, derive_seed(seed, "labeled", "order"))
    mapper = LabeledMapper(cfg)
    first = StreamLoader(labeled, mapper, sampler, cfg.SOLVER.IMS_PER_BATCH, labeled_workers, seed, "labeled")
    if not unlabeled:
        return TwoStreamLoader(labeled=first)
    second = StreamLoader(
        unlabeled,
        UnlabeledMapper(cfg),
        TrainingSampler(len(unlabeled), shuffle=True, seed=derive_seed(seed, "unlabeled", "order")),
        cfg.S4M.UNLABELED_BATCH,
        (workers + 1) // 2,
        seed,
        "unlabeled",
        key="S4M.UNLABELED_BATCH",
        skip_bad=cfg.INPUT.ON_BAD_IMAGE == "skip",
    )
    return TwoStreamLoader(labeled=first, unlabeled=second)
