"""Many soft masks in a few flat arrays: masks of small targets are nearly all zero, and float32 is kept exactly."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import numpy as np


class SparseMasks(Mapping):
    """Read-only mapping image id -> (H, W) float32 mask, held as the indices and values of what is not zero.

    Args:
        ids: image ids, each once.
        sizes: (N, 2) int64 height, width.
        ends: (N,) int64, where each image's entries end in `indices` and `values`.
        indices: int32 flat pixel indices.
        values: float32.

    Raises:
        ValueError: the arrays do not belong together.
    """

    FIELDS = ("ids", "sizes", "ends", "indices", "values")

    def __init__(self, ids: np.ndarray, sizes: np.ndarray, ends: np.ndarray, indices: np.ndarray, values: np.ndarray):
        self.arrays = dict(zip(self.FIELDS, (ids, sizes, ends, indices, values), strict=True))
        self._row = {str(name): row for row, name in enumerate(ids)}
        total = int(ends[-1]) if len(ends) else 0
        if len(self._row) != len(ids) or not len(ids) == len(sizes) == len(ends):
            raise ValueError("its images do not agree with each other")
        if not len(indices) == len(values) == total:
            raise ValueError("its entries do not agree with each other")

    @classmethod
    def pack(cls, masks: Iterable[tuple[str, np.ndarray]]) -> "SparseMasks":
        """Pack (image id, (H, W) mask in [0, 1]) pairs, in their order; ValueError for an id twice or a bad mask."""
        ids, sizes, indices, values = [], [], [], []
        seen = set()
        for name, mask in masks:
            mask = np.asarray(mask, np.float32)
            if name in seen:
                raise ValueError(f"image id '{name}' occurs twice: the images of one store need different ids.")
            if mask.ndim != 2 or not np.isfinite(mask).all():
                raise ValueError(f"the mask of image '{name}' is not a finite (H, W) array (shape {mask.shape}).")
            seen.add(name)
            flat = np.flatnonzero(mask)
            ids.append(name)
            sizes.append(mask.shape)
            indices.append(flat.astype(np.int32))
            values.append(mask.ravel()[flat])
        return cls(
            np.array(ids, dtype=np.str_),
            np.array(sizes, np.int64).reshape(-1, 2),
            np.cumsum([len(part) for part in indices], dtype=np.int64),
            np.concatenate([np.zeros(0, np.int32), *indices]),
            np.concatenate([np.zeros(0, np.float32), *values]),
        )

    def __getitem__(self, name: str) -> np.ndarray:
        row = self._row[name]
        start = int(self.arrays["ends"][row - 1]) if row else 0
        end = int(self.arrays["ends"][row])
        mask = np.zeros(tuple(self.arrays["sizes"][row]), np.float32)
        mask.ravel()[self.arrays["indices"][start:end]] = self.arrays["values"][start:end]
        return mask

    def __iter__(self) -> Iterator[str]:
        return iter(self._row)

    def __len__(self) -> int:
        return len(self._row)

    def digest(self) -> str:
        """Hash of the content, the same in every process and on every machine."""
        state = hashlib.blake2b(digest_size=16)
        for key, array in self.arrays.items():
            state.update("\n".join(self).encode() if key == "ids" else np.ascontiguousarray(array).tobytes())
        return state.hexdigest()
