"""Training crops, stacked to one batch."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from istd.modeling.feature_cache import view_key


@dataclass(frozen=True)
class Batch:
    """A training batch on the model's device.

    Attributes:
        images: (B, C, S, S) normalized images.
        gray: (B, C, S, S) the same images in gray values 0..255.
        targets: (B, 1, S, S) pseudo-masks in [0, 1].
        clusters: (B,) int64 cluster of each sample; 0 without clusters.
        all_clusters: clusters of the batches of all processes.
        keys: keys in the feature cache; None for a view that does not recur.
        names: file names.
    """

    images: Tensor
    gray: Tensor
    targets: Tensor
    clusters: Tensor
    all_clusters: Tensor
    keys: list[str | None]
    names: list[str]


def gather_processes(values: Tensor) -> Tensor:
    """Concatenate (B,) of every process to (B * processes,) in the order of ranks; B is the same in all processes."""
    if comm.get_world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(comm.get_world_size())]
    dist.all_gather(parts, values)
    return torch.cat(parts)


def batch_key(image: dict) -> str | None:
    """Return a sample's key in the feature cache; only a crop that recurs or holds the whole image has one."""
    view = image.get("view")
    if view is None or "file_name" not in image:
        return None
    variant = f"{view.side}|{view.flip}|{view.turns}"
    crop, variant = (None, f"{view.box}|{variant}") if view.recurs else (view.box, variant)
    return view_key(str(image["file_name"]), (image["height"], image["width"]), crop, variant)
