"""The state of label evolution: the soft mask of every image and the pool of the images that train.

Masks of small targets are nearly all zero, so only the indices and exact float32 values of the other pixels are kept:
some kilobytes in all, which fit into every checkpoint.
"""

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from d2kit.files import atomic_write, first_line


class PseudoMasks(Mapping):
    """A mapping from image id to (H, W) float32 soft mask, in the order of insertion.

    Attributes:
        pool: ids of the images to train on.
        version: number of updates so far.
        epoch: epoch of the last update.
    """

    def __init__(self):
        self._parts: dict[str, tuple[tuple[int, int], np.ndarray, np.ndarray]] = {}
        self.pool: set[str] = set()
        self.version = 0
        self.epoch = 0

    def __getitem__(self, image_id: str) -> np.ndarray:
        shape, indices, values = self._parts[image_id]
        mask = np.zeros(shape, np.float32)
        mask.ravel()[indices] = values
        return mask

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)

    def put(self, image_id: str, mask: np.ndarray) -> None:
        """Add an image or replace its mask; ValueError unless that is a finite (H, W) array of the image's size."""
        mask = np.asarray(mask, np.float32)
        shape = self._parts[image_id][0] if image_id in self._parts else mask.shape
        if mask.ndim != 2 or mask.shape != shape or not np.isfinite(mask).all():
            raise ValueError(f"the mask of image '{image_id}' is not a finite array of size {shape} ({mask.shape}).")
        indices = np.flatnonzero(mask)
        self._parts[image_id] = (mask.shape, indices.astype(np.int32), mask.ravel()[indices])

    def advance(self, changes: Iterable["PseudoMasks"], epoch: int) -> dict[str, float]:
        """Make the next version: take over changed masks, and add the images of their pools to the pool.

        Returns:
            "entered", the number of images that joined the pool; "area_change", the relative growth of the area above
            0.5 of all changed masks; "iou_mean", the mean IoU of old and new masks above 0.5 (1 when both are empty).
        """
        areas = np.zeros(2, np.int64)
        ious = []
        size = len(self.pool)
        for part in changes:
            for image_id, mask in part.items():
                before, after = self[image_id] > 0.5, mask > 0.5
                union = (before | after).sum()
                ious.append(round(float((before & after).sum() / union), 6) if union else 1.0)
                areas += before.sum(), after.sum()
                self.put(image_id, mask)
            self.pool |= part.pool
        self.version += 1
        self.epoch = epoch
        return {
            "entered": len(self.pool) - size,
            "area_change": round(float((areas[1] - areas[0]) / areas[0]), 6) if areas[0] else 0.0,
            "iou_mean": round(float(np.mean(ious or [1.0])), 6),
        }

    def state_dict(self) -> dict:
        """Return everything as ints, strings and tensors, for a checkpoint that loads with `weights_only=True`."""
        shapes, indices, values = zip(*self._parts.values(), strict=True) if self._parts else ((), (), ())
        return {
            "version": self.version,
            "epoch": self.epoch,
            "ids": list(self._parts),
            "inside": torch.tensor([image_id in self.pool for image_id in self._parts], dtype=torch.bool),
            "sizes": torch.tensor(shapes, dtype=torch.int64).reshape(-1, 2),
            "counts": torch.tensor([len(part) for part in values], dtype=torch.int64),
            "indices": torch.from_numpy(np.concatenate([np.zeros(0, np.int32), *indices])),
            "values": torch.from_numpy(np.concatenate([np.zeros(0, np.float32), *values])),
        }

    def load_state_dict(self, state: Mapping) -> None:
        """Restore `state_dict` from its tensors or from the arrays that `save` wrote."""
        ids = [str(image_id) for image_id in state["ids"]]
        shapes = map(tuple, np.asarray(state["sizes"]).tolist())
        ends = np.cumsum(np.asarray(state["counts"])).tolist()
        indices, values = np.asarray(state["indices"]), np.asarray(state["values"])
        self._parts = {
            image_id: (shape, indices[start:end], values[start:end])
            for image_id, shape, start, end in zip(ids, shapes, [0, *ends], ends, strict=False)
        }
        self.pool = {image_id for image_id, inside in zip(ids, state["inside"], strict=True) if inside}
        self.version = int(state["version"])
        self.epoch = int(state["epoch"])

    def save(self, folder: str | os.PathLike) -> None:
        """Write FOLDER/masks-VERSION.npz atomically, for pictures, and delete later versions."""
        content = io.BytesIO()
        np.savez_compressed(content, **self.state_dict())
        name = f"masks-{self.version:06d}.npz"
        for path in saved_versions(folder):
            if path.name > name:
                path.unlink()
        with atomic_write(Path(folder, name)) as file:
            file.write(content.getbuffer())

    @classmethod
    def read(cls, path: str | os.PathLike) -> "PseudoMasks":
        """Read a file that `save` wrote; a ValueError names a file that is damaged."""
        masks = cls()
        try:
            with np.load(path, allow_pickle=False) as file:
                masks.load_state_dict(file)
        except FileNotFoundError:
            raise
        except Exception as error:  # Damaged bytes raise many types: BadZipFile, zlib.error, KeyError, struct.error.
            raise ValueError(f"'{path}' holds no pseudo-masks that can be read ({first_line(error)}).") from error
        return masks


def saved_versions(folder: str | os.PathLike) -> list[Path]:
    """Return the files that `PseudoMasks.save` wrote in a folder, in the order of their versions."""
    return sorted(Path(folder).glob("masks-*.npz"))
