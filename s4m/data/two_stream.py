"""The labeled and the unlabeled stream of a training, side by side."""

import itertools
import logging
from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog, print_instances_class_histogram
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm

from d2kit.loader import StreamLoader
from d2kit.rng import derive_seed
from s4m.data.datasets_by_path import resolve_config_datasets
from s4m.data.duplicates import find_copies
from s4m.data.images import first_missing
from s4m.data.mappers import LabeledMapper, UnlabeledMapper

logger = logging.getLogger(__name__)


class TwoStreamLoader:
    """Endless batches {"labeled": [...], "unlabeled": [...]}; the second list is empty without an unlabeled set."""

    def __init__(self, *, labeled: StreamLoader, unlabeled: StreamLoader | None = None) -> None:
        self.labeled = labeled
        self.unlabeled = unlabeled

    def set_start(self, iteration: int) -> None:
        """Let iterators made from now on begin with batch number `iteration`, as if those before had been taken."""
        self.labeled.set_start(iteration)
        if self.unlabeled is not None:
            self.unlabeled.set_start(iteration)

    def __iter__(self) -> Iterator[dict[str, list[dict]]]:
        unlabeled = iter(self.unlabeled) if self.unlabeled is not None else itertools.repeat([])
        for labeled, images in zip(self.labeled, unlabeled, strict=False):
            yield {"labeled": labeled, "unlabeled": list(images)}


def _require_files(dicts: Sequence[dict], key: str) -> None:
    missing = first_missing(d["file_name"] for d in dicts)
    if missing:
        raise FileNotFoundError(f"{key}: the image '{missing}' does not exist")


def load_labeled(names: Sequence[str], filter_empty: bool = True) -> list[dict]:
    """Dataset dicts of the labeled sets.

    Args:
        names: registered names.
        filter_empty: leave out images without an annotation that is not a crowd.

    Raises:
        FileNotFoundError: an image is absent.
        ValueError: no set is named, one has no annotations, their classes differ, or no object is labeled at all.
    """
    if not names:
        raise ValueError("DATASETS.TRAIN names no data set")
    dicts = []
    for name in names:
        own = DatasetCatalog.get(name)
        if not own or "annotations" not in own[0]:
            raise ValueError(f"DATASETS.TRAIN: '{name}' has no {'annotations' if own else 'image'}")
        dicts += own
    classes = {tuple(MetadataCatalog.get(name).get("thing_classes", ())) for name in names}
    if len(classes) > 1:
        raise ValueError(f"DATASETS.TRAIN: {', '.join(names)} differ in their classes")
    objects = [any(not a.get("iscrowd", 0) for a in d["annotations"]) for d in dicts]
    if not any(objects):
        raise ValueError(f"DATASETS.TRAIN: no image of {', '.join(names)} has a labeled object")
    if filter_empty and not all(objects):
        logger.info("%d of %d labeled images have no object and are left out", len(dicts) - sum(objects), len(dicts))
        dicts = list(itertools.compress(dicts, objects))
    _require_files(dicts, "DATASETS.TRAIN")
    if any(classes):
        print_instances_class_histogram(dicts, classes.pop())
    return dicts


def load_unlabeled(names: Sequence[str]) -> list[dict]:
    """Dataset dicts of the unlabeled sets, without the annotations that the sets may have.

    Raises:
        FileNotFoundError: an image is absent.
        ValueError: a set has no image.
    """
    result = []
    for name in names:
        dicts = DatasetCatalog.get(name)
        if not dicts:
            raise ValueError(f"DATASETS.UNLABELED: '{name}' has no image")
        keys = ("file_name", "image_id", "height", "width")
        result += [{key: d[key] for key in keys if key in d} for d in dicts]
    _require_files(result, "DATASETS.UNLABELED")
    return result


def warn_of_copies(labeled: Sequence[dict], unlabeled: Sequence[dict]) -> None:
    """Warn once if unlabeled files hold labeled images under another name.

    Labeled images in the unlabeled set by their own path are as intended: that set may be the whole training set.
    """
    ours = {d["file_name"] for d in labeled}
    copies = find_copies(ours, {d["file_name"] for d in unlabeled} - ours)
    if copies:
        logger.warning(
            "%d unlabeled image(s) are labeled images under another name, for example '%s' is '%s'",
            len(copies),
            copies[0][1],
            copies[0][0],
        )


def build_labeled_sampler(cfg: CfgNode, dicts: Sequence[dict], seed: int):
    """The infinite sampler that DATALOADER.SAMPLER_TRAIN names: TrainingSampler or RepeatFactorTrainingSampler.

    Raises:
        ValueError: another name.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(dicts), shuffle=True, seed=seed)
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            dicts, cfg.DATALOADER.REPEAT_THRESHOLD, sqrt=cfg.DATALOADER.get("REPEAT_SQRT", True)
        )
        return RepeatFactorTrainingSampler(factors, shuffle=True, seed=seed)
    raise ValueError(f"DATALOADER.SAMPLER_TRAIN is '{name}'; known are TrainingSampler and RepeatFactorTrainingSampler")


def _split_workers(total: int, streams: int) -> list[int]:
    """Workers of each stream: all together `total`, but one at least for each where there are any."""
    return [max(1, (total + i) // streams) if total else 0 for i in range(streams)]


def build_two_stream_loader(cfg: CfgNode) -> TwoStreamLoader:
    """Build the training data from cfg.

    DATASETS.TRAIN and DATASETS.UNLABELED name the sets (see `resolve_datasets`), SOLVER.IMS_PER_BATCH and
    S4M.UNLABELED_BATCH the images a batch over all processes, DATALOADER.SAMPLER_TRAIN the labeled sampler; the
    unlabeled images are drawn uniformly. Order and augmentation follow SEED and the position in the stream alone;
    with SEED < 0 a seed is drawn and logged. DATALOADER.ASPECT_RATIO_GROUPING takes no part.

    Raises:
        FileNotFoundError: a data set or an image is absent.
        ValueError: a data set is empty or unknown, or a batch that the processes cannot share evenly.
    """
    resolve_config_datasets(cfg)
    seed = cfg.SEED
    if seed < 0:
        seed = comm.shared_random_seed()
        logger.info("SEED is %d: the data follow the seed %d, drawn for this run", cfg.SEED, seed)
    labeled = load_labeled(cfg.DATASETS.TRAIN, cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    unlabeled = load_unlabeled(cfg.DATASETS.UNLABELED)
    workers = _split_workers(cfg.DATALOADER.NUM_WORKERS, 2 if unlabeled else 1)
    sampler = build_labeled_sampler(cfg, labeled, derive_seed(seed, "labeled", "order"))
    first = StreamLoader(labeled, LabeledMapper(cfg), sampler, cfg.SOLVER.IMS_PER_BATCH, workers[0], seed, "labeled")
    if not unlabeled:
        return TwoStreamLoader(labeled=first)
    if comm.is_main_process():
        warn_of_copies(labeled, unlabeled)
    second = StreamLoader(
        unlabeled,
        UnlabeledMapper(cfg),
        TrainingSampler(len(unlabeled), shuffle=True, seed=derive_seed(seed, "unlabeled", "order")),
        cfg.S4M.UNLABELED_BATCH,
        workers[1],
        seed,
        "unlabeled",
        key="S4M.UNLABELED_BATCH",
    )
    return TwoStreamLoader(labeled=first, unlabeled=second)
