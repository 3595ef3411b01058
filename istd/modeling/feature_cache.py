"""A bounded cache of foundation-model features for views that come again unchanged."""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from d2kit.files import atomic_write
from istd.modeling.vfm import FrozenVFM

GIB = 2**30


def view_key(
    file_name: str, image_size: tuple[int, int], crop: tuple[int, int, int, int] | None = None, variant: str = ""
) -> str | None:
    """Name of a view that shows the whole image; None for any other view, which is not worth keeping.

    It says which views the cache keeps; what it finds is decided by their pixels.

    Args:
        file_name: name of the image.
        image_size: (H, W) of it.
        crop: x0, y0, x1, y1 of the view in its pixels; None: the whole image.
        variant: names what else was done to the view: a flip, a resize.
    """
    height, width = image_size
    if crop is not None and tuple(crop) != (0, 0, width, height):
        return None
    return f"{file_name}|{height}x{width}|{variant}"


class MemoryStore:
    """float16 arrays in memory; the least recently used go when `max_bytes` are exceeded."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._arrays: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0

    def get(self, key: str) -> np.ndarray | None:
        if key in self._arrays:
            self._arrays.move_to_end(key)
        return self._arrays.get(key)

    def put(self, key: str, array: np.ndarray) -> None:
        if array.nbytes > self.max_bytes:
            return
        self._bytes += array.nbytes
        self._arrays[key] = array
        while self._bytes > self.max_bytes:
            self._bytes -= self._arrays.popitem(last=False)[1].nbytes


class DiskStore:
    """float16 arrays as files of one folder, which processes may share; the least recently used go, as above."""

    def __init__(self, folder: str, max_bytes: int):
        self.folder, self.max_bytes = Path(folder), max_bytes

    def _path(self, key: str) -> Path:
        return self.folder / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.npy"

    def get(self, key: str) -> np.ndarray | None:
        path = self._path(key)
        try:
            array = np.load(path, allow_pickle=False)
            path.touch()
        except (OSError, ValueError, EOFError):  # absent, removed by another process, or damaged: computed again
            return None
        return array

    def put(self, key: str, array: np.ndarray) -> None:
        if array.nbytes > self.max_bytes:
            return
        with atomic_write(self._path(key)) as file:
            np.save(file, array)
        files = []
        for path in self.folder.glob("*.npy"):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue
            files.append((stat.st_mtime_ns, stat.st_size, path))
        excess = sum(size for _, size, _ in files) - self.max_bytes
        for _, size, path in sorted(files):
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size


class FeatureCache:
    """Features of a frozen model, computed once a view.

    What it changes: kept features are rounded to float16 (relative error up to 2**-11), on a miss as on a hit, and
    each such view runs through the model alone, in float32 under autocast too; so results depend neither on what the
    cache holds nor on the batch. Entries are found by the pixels that the model sees: another file under an old name,
    depth or fill is another entry.
    It is exact only for views that come again pixel by pixel: the whole, un-augmented image, as in label updates and
    evaluation, crops that hold the whole image, and the finite sets of crops of ISTD.INPUT.VIEWS. Other random crops
    have no key, run as one batch and are not rounded: a crop of cached features would not be the features of the crop,
    because the model's attention spans the image.

    Args:
        vfm: the model.
        max_gib: bound in GiB; 13 layers of a 252x252 view of ViT-S/14 take 3.2 MB.
        folder: keep the features there (under OUTPUT_DIR, say), for a resumed run too; empty: in memory.
    """

    def __init__(self, vfm: FrozenVFM, max_gib: float = 1.0, folder: str = ""):
        self.vfm = vfm
        max_bytes = int(max_gib * GIB)
        self.store = DiskStore(folder, max_bytes) if folder else MemoryStore(max_bytes)
        self.hits = self.misses = 0

    def __call__(self, images: Tensor, keys: Sequence[str | None] | None = None) -> Tensor:
        """Token maps of a batch.

        Args:
            images: (B, C, H, W) as `FrozenVFM` takes them.
            keys: `view_key` of each; None for a view that is not kept.

        Returns:
            (K, B, feature_dim, h, w) float32 on the images' device.
        """
        keys = [None] * len(images) if keys is None else list(keys)
        passing = [i for i, key in enumerate(keys) if key is None]
        fresh = torch.stack(self.vfm(images[passing])) if passing else None
        maps = [
            fresh[:, passing.index(i)] if key is None else self._kept(images[i : i + 1], key)
            for i, key in enumerate(keys)
        ]
        return torch.stack(maps, dim=1)

    def _kept(self, image: Tensor, key: str) -> Tensor:
        content = image.contiguous().view(torch.uint8).cpu().numpy().tobytes()
        pixels = f"{image.dtype}|{tuple(image.shape)}|{hashlib.blake2b(content, digest_size=16).hexdigest()}"
        key = f"{self.vfm.fingerprint}|{self.vfm.layers}|{key}|{pixels}"
        array = self.store.get(key)
        self.hits += array is not None
        self.misses += array is None
        if array is None:
            with torch.autocast(image.device.type, enabled=False):
                array = torch.stack(self.vfm(image))[:, 0].half().cpu().numpy()
            self.store.put(key, array)
        return torch.from_numpy(array).to(image.device).float()

    def __deepcopy__(self, memo: dict) -> "FeatureCache":
        return self
