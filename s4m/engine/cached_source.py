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


def load_rgb(file_name: str, depth: str = "range") -> torch.Tensor:
    """Read an image file as (3, H, W) uint8 RGB; `depth` is INPUT.DEPTH."""
    return torch.from_numpy(read_image(file_name, "RGB", depth).copy()).permute(2, 0, 1)


@dataclass(frozen=True)
class CachedSource:
    """Gives pseudo-label refinement the cached embeddings of a batch's files and the transforms to their views.

    SAM then sees the whole image at its own size, not the flipped, rescaled or cropped view.
    """

    cache: EmbeddingCache
    depth: str = "range"

    def __call__(self, weak: list[dict]) -> Source:
        """Return the source of a batch of dictionaries, which the labeled or the unlabeled mapper made."""
        names = [entry["file_name"] for entry in weak]
        views = [ViewTransform(x["transforms"], x["source_size"], tuple(x["image"].shape[1:])) for x in weak]
        load = partial(load_rgb, depth=self.depth)
        return Source(lambda indices: self.cache.encode_files([names[i] for i in indices], load), views)


def use_cache(cfg: CfgNode, model: TeacherStudent, loader: TwoStreamLoader) -> None:
    """Let a model's refinement use the cache of S4M.SAM.CACHE, if there are one, a teacher and a refinement.

    The model's segmenter is built here in any case, so that a missing SAM is an error before training.
    """
    segmenter = model.segmenter
    if cfg.S4M.SAM.CACHE and cfg.S4M.PR.ENABLED and model.teacher is not None:
        streams = [loader.unlabeled, loader.labeled] if cfg.S4M.CALIBRATION.ENABLED else [loader.unlabeled]
        images = sum(len(stream.dataset) for stream in streams)
        cache = EmbeddingCache(cfg.S4M.SAM.CACHE, segmenter, cfg.S4M.SAM.CACHE_GIB, images)
        model.sam_source = CachedSource(cache, cfg.INPUT.DEPTH)
