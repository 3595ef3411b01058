"""The data of a run: training and validation images, their pseudo-masks and clusters, and the loaders over them."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, build_detection_test_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader

from d2kit.datasets import errors_name
from d2kit.loader import StreamLoader
from d2kit.rng import derive_seed
from istd.data.clusters import ClusterTable, make_clusters
from istd.data.datasets import give_distinct_ids, resolve_datasets
from istd.data.images import read_infrared
from istd.data.mapper import ISTDMapper
from istd.engine.labels import PseudoLabels
from istd.engine.sampler import PoolSampler
from istd.engine.schedule import epoch_iterations

logger = logging.getLogger(__name__)


def load_datasets(names: Sequence[str], key: str) -> list[dict]:
    """Return the dataset dicts of several registered or path-named data sets; errors name the configuration key."""
    return load_groups({key: names})[0]


def load_groups(names: Mapping[str, Sequence[str]]) -> list[list[dict]]:
    """Return the dataset dicts of several keys, such as DATASETS.TRAIN, in which different images have different ids.

    Args:
        names: configuration key -> registered or path-named data sets. Errors name the key.
    """
    sets = []
    for key, group in names.items():
        with errors_name(key):
            resolve_datasets(group)
            sets.append([(name, DatasetCatalog.get(name)) for name in group])
    records = iter(give_distinct_ids([item for group in sets for item in group]))
    return [[record for _ in group for record in next(records)] for group in sets]


def build_test_loader(cfg: CfgNode, records: Sequence[dict]) -> DataLoader:
    """Return a loader of whole images, one a batch, sharded by process."""
    return build_detection_test_loader(
        list(records), mapper=ISTDMapper(cfg, is_train=False), num_workers=cfg.DATALOADER.NUM_WORKERS
    )


class TrainingData:
    """The images of one run and their labels.

    Attributes:
        train, validation: dataset dicts.
        labels: pseudo-masks, or None under full supervision.
        clusters: table from image id to cluster if the outer step is enabled, else None.
    """

    def __init__(self, cfg: CfgNode):
        """Load everything; ValueError or FileNotFoundError names the key or the file in one sentence."""
        self._cfg = cfg
        self._seed = max(cfg.SEED, 0)
        source = cfg.ISTD.LABELS.SOURCE
        outer = cfg.ISTD.OUTER.ENABLED
        train = {"DATASETS.TRAIN": cfg.DATASETS.TRAIN}
        validation = {"DATASETS.VALIDATION": cfg.DATASETS.VALIDATION}
        # Only the outer step has pseudo-masks and clusters of both, in which an image is found by its id.
        groups = load_groups(train | validation) if outer else [*load_groups(train), *load_groups(validation)]
        self.train, self.validation = groups
        if not self.train:
            raise ValueError("DATASETS.TRAIN has no image to train on.")
        if outer and not self.validation:
            raise ValueError("ISTD.OUTER.ENABLED needs validation images: set DATASETS.VALIDATION.")
        self.labels = None
        if source == "points":
            self.labels = PseudoLabels(cfg, self.train, self.validation if outer else ())
        self.clusters = self._load_clusters() if outer else None

    def train_loader(self) -> StreamLoader:
        """Return the loader of the inner loop: crops of the pool's images."""
        items = epoch_iterations(self._cfg, len(self.train)) * self._cfg.SOLVER.IMS_PER_BATCH
        return self._loader("train", self.train, items, self._cfg.DATALOADER.NUM_WORKERS)

    def outer_loaders(self) -> tuple[StreamLoader, StreamLoader]:
        """Return the loaders of the outer steps: crops of the pool's images and of the validation images."""
        return (
            self._loader("outer_train", self.train, len(self.train), 0),
            self._loader("outer_validation", self.validation, len(self.validation), 0),
        )

    def pool(self) -> list[int]:
        """Return the indices of the training images that are in the pool."""
        return list(range(len(self.train))) if self.labels is None else self.labels.pool()

    def _loader(self, stream: str, records: list[dict], items: int, workers: int) -> StreamLoader:
        pool = partial(range, len(records)) if records is self.validation else self.pool
        mapper = ISTDMapper(
            self._cfg,
            is_train=True,
            pseudo_masks=None if self.labels is None else self.labels.masks,
            use_masks=self.labels is None,
            clusters=self.clusters,
        )
        sampler = PoolSampler(pool, items, derive_seed(self._seed, stream))
        return StreamLoader(records, mapper, sampler, self._cfg.SOLVER.IMS_PER_BATCH, workers, self._seed, stream)

    def _load_clusters(self) -> ClusterTable:
        """Read ISTD.CLUSTERS.FILE, or a table in the output folder that is fitted to the training images alone."""
        records = [*self.train, *self.validation]
        value_range = self._cfg.ISTD.INPUT.RANGE
        ids = [record["image_id"] for record in records]
        path = self._cfg.ISTD.CLUSTERS.FILE
        if not path:
            files = [str(Path(record["file_name"]).resolve()) for record in records]
            # The name depends on everything that decides the content, so a run never reads another run's clusters.
            digest = derive_seed(self._seed, value_range, len(self.train), *ids, *files)
            path = Path(self._cfg.OUTPUT_DIR, f"clusters-{digest:08x}.json")
            if comm.is_main_process() and not path.is_file():
                read = partial(read_infrared, value_range=value_range)
                table = make_clusters(self.train, read, assigned=self.validation, seed=self._seed)
                table.save(path)
                logger.info("%d clusters of %d training images: %s.", table.num_clusters, len(self.train), path)
            comm.synchronize()
        table = ClusterTable.load(path)
        table.require(ids)
        return table
