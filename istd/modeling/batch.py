"""Training crops, stacked."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor

from istd.modeling.feature_cache import view_key


@dataclass(frozen=True)
class Batch:
    """A training batch on the model's device.

    images: (B, C, S, S) normalised. grey: the same, grey values 0..255. targets: (B, 1, S, S) in [0, 1].
    clusters: (B,) int64, 0 where there are none. everyone: the clusters of all processes' batches.
    keys: of the feature cache, None for a view that does not come again. names: file names.
    """

    images: Tensor
    grey: Tensor
    targets: Tensor
    clusters: Tensor
    everyone: Tensor
    keys: list[str | None]
    names: list[str]


def of_all_processes(values: Tensor) -> Tensor:
    """(B,) of each process -> the values of all, (B * processes,), in the order of ranks; B is the same in each."""
    if comm.get_world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(comm.get_world_size())]
    dist.all_gather(parts, values)
    return torch.cat(parts)


def batch_key(image: dict) -> str | None:
    """Key of the feature cache for a dict of `ISTDMapper`: crops that recur or hold the whole image have one."""
    view = image.get("view")
    if view is None or "file_name" not in image:
        return None
    variant = f"{view.side}|{view.flip}|{view.turns}"
    if view.recurs:
        return view_key(str(image["file_name"]), (image["height"], image["width"]), None, f"{view.box}|{variant}")
    return view_key(str(image["file_name"]), (image["height"], image["width"]), view.box, variant)
