"""SAM on un-augmented images, embedded once, in place of SAM on each augmented view."""

from functools import partial

import torch
from detectron2.config import CfgNode

from s4m.data.images import read_image
from s4m.pseudo_labels.refinement import Source
from s4m.pseudo_labels.view_transform import ViewTransform
from s4m.sam import PromptableSegmenter
from s4m.sam.embedding_cache import EmbeddingCache


def load_rgb(file_name: str, depth: str = "range") -> torch.Tensor:
    """An image file as (3, H, W) uint8 RGB; `depth` is INPUT.DEPTH."""
    return torch.from_numpy(read_image(file_name, "RGB", depth).copy()).permute(2, 0, 1)


class CachedSource:
    """Gives pseudo-label refinement the cached embeddings of a batch's files, and the way between file and view.

    What it changes: SAM sees the whole image at its own size, not the flipped, rescaled or cropped view.
    """

    def __init__(self, cfg: CfgNode, segmenter: PromptableSegmenter, images: int = 0):
        """
        Args:
            cfg: S4M.SAM.CACHE (a folder), CACHE_GIB and INPUT.DEPTH are read.
            segmenter: what embeds.
            images: that pseudo-labels are made of, in all; 0: unknown.
        """
        self._load = partial(load_rgb, depth=cfg.INPUT.DEPTH)
        self.cache = EmbeddingCache(cfg.S4M.SAM.CACHE, segmenter, cfg.S4M.SAM.CACHE_GIB, images)

    def __call__(self, weak: list[dict]) -> Source:
        """The source of a batch of either mapper's dictionaries."""
        names = [entry["file_name"] for entry in weak]
        views = [ViewTransform(x["transforms"], x["source_size"], tuple(x["image"].shape[1:])) for x in weak]
        return Source(lambda keep: self.cache.encode_files([names[i] for i in keep], self._load), views)
