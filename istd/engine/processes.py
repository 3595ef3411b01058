"""Synchronization of processes that train together, beyond what DistributedDataParallel does."""

import torch
import torch.distributed as dist
from detectron2.utils import comm
from torch import Tensor, nn


def average_over_processes(tensors: list[Tensor]) -> list[Tensor]:
    """Return the mean of each tensor over all processes; a single process gets its list back."""
    if comm.get_world_size() == 1:
        return tensors
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = (flat / comm.get_world_size()).split([tensor.numel() for tensor in tensors])
    return [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Give every process the buffers of process 0, because running statistics follow each process's own images."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)
