"""SAM embeds each un-augmented image once, instead of each augmented view."""

from dataclasses import dataclass
from functools import partial

import torch
from detectron2.config import CfgNode

from s4m.data.images import read_image
from s4m.data.two_stream import TwoStreamLoader
from s4m.modeling.teacher_student import TeacherStudent
from s4m.pseudo_labels.refinement import Source
from s4m.pseudo_labels.view_transform import ViewTransform
from s4m.sam.embedding_cache import EmbeddingCache


def load_rgb(file_name: str, value_range: str = "extremes") -> torch.Tensor:
    """Read an image file as (3, H, W) uint8 RGB; `value_range` is INPUT.RANGE."""
    return torch.from_numpy(read_image(file_name, "RGB", value_range).copy()).permute(2, 0, 1)


@dataclass(frozen=True)
class CachedSource:
    """Gives pseudo-label refinement the cached embeddings of a batch's files and the transforms to their views.

    SAM then sees the whole image at its own size, not the flipped, rescaled or cropped view.
    """

    cache: EmbeddingCache
    value_range: str = "extremes"

    def __call__(self, weak: list[dict]) -> Source:
        """Return the source of a batch of dictionaries, which the labeled or the unlabeled mapper made."""
        names = [entry["file_name"] for entry in weak]
        views = [ViewTransform(x["transforms"], x["source_size"], tuple(x["image"].shape[1:])) for x in weak]
        load = partial(load_rgb, value_range=self.value_range)
        return Source(lambda indices: self.cache.encode_files([names[i] for i in indices], load), views)


def refined_images(cfg: CfgNode, loader: TwoStreamLoader) -> int:
    """Return of how many images a training refines labels."""
    streams = [loader.unlabeled, loader.labeled] if cfg.S4M.CALIBRATION.ENABLED else [loader.unlabeled]
    return sum(len(stream.dataset) for stream in streams)


def use_cache(cfg: CfgNode, model: TeacherStudent, images: int) -> None:
    """Let a model take SAM's embeddings from the folder S4M.SAM.CACHE, if it is set and something is refined.

    Args:
        cfg: complete configuration.
        model: the model with a teacher.
        images: number of images in all, for the cache's warning.
    """
    if cfg.S4M.SAM.CACHE and cfg.S4M.PR.ENABLED:
        cache = EmbeddingCache(cfg.S4M.SAM.CACHE, model.segmenter, cfg.S4M.SAM.CACHE_GIB, images)
        model.sam_source = CachedSource(cache, cfg.INPUT.RANGE)
