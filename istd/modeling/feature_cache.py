"""A bounded cache of foundation-model features for views that recur unchanged."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from d2kit.bounded_folder import BoundedFolder
from istd.modeling.vfm import FrozenVFM

GIB = 2**30


def view_key(
    file_name: str, image_size: tuple[int, int], crop: tuple[int, int, int, int] | None = None, variant: str = ""
) -> str | None:
    """Name a view that shows the whole image; any other view gets None and is not kept.

    The name decides whether the cache keeps a view; the view's pixels decide which entry it gets.

    Args:
        file_name: file name of the image.
        image_size, crop: (H, W) of the image, and x0, y0, x1, y1 of the view in it; None means the whole image.
        variant: name of any other change to the view, such as a flip or a resize.
    """
    height, width = image_size
    if crop is not None and tuple(crop) != (0, 0, width, height):
        return None
    return f"{file_name}|{height}x{width}|{variant}"


class MemoryStore:
    """Contents by key in memory; contents beyond `max_bytes` are not kept, as in `BoundedFolder`."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._contents: dict[str, bytes] = {}
        self._bytes = 0

    def read(self, key: str) -> bytes | None:
        """Return the content of a key, or None."""
        return self._contents.get(key)

    def write(self, key: str, content: bytes) -> None:
        """Keep a content if there is room for it."""
        if key not in self._contents and self._bytes + len(content) <= self.max_bytes:
            self._contents[key] = content
            self._bytes += len(content)


class FeatureCache:
    """Features of a frozen model, computed once for each view.

    Kept features are rounded to float16 (relative error up to 2**-11), on a miss as on a hit, and each kept view runs
    through the model alone and in float32, so results depend neither on the cache's content nor on the batch. Pixels
    identify an entry, so a changed file, range or fill gets a new entry.

    The cache is exact only for views that recur pixel by pixel: whole images (label updates and evaluation), crops that
    hold the whole image, and the finite sets of crops of ISTD.INPUT.VIEWS. Other random crops have no key; they run as
    one batch without rounding. A crop of cached features would differ from the features of the crop, because the
    model's attention spans the image.

    Args:
        vfm: frozen model.
        max_gib: limit in GiB; 13 layers of a 252x252 view of ViT-S/14 take 3.2 MB. A full cache drops nothing; further
            views run through the model each time, because an LRU cache never hits under cyclic access.
        folder: folder of the features, which a resumed run reads again; "" keeps them in memory.

    Raises:
        ValueError: the limit of a folder is not positive.
    """

    def __init__(self, vfm: FrozenVFM, max_gib: float = 1.0, folder: str = ""):
        self.vfm = vfm
        if folder:
            self.store = BoundedFolder(folder, max_gib, ".npy", key="ISTD.VFM.CACHE")
        else:
            self.store = MemoryStore(int(max_gib * GIB))
        self.hits = 0
        self.misses = 0

    def __call__(self, images: Tensor, keys: Sequence[str | None] | None = None) -> Tensor:
        """Return the token maps of a batch.

        Args:
            images: (B, C, H, W) as `FrozenVFM` takes them.
            keys: `view_key` of each image; None for a view that is not kept.

        Returns:
            (K, B, feature_dim, h, w) float32 on the images' device.
        """
        keys = [None] * len(images) if keys is None else list(keys)
        uncached = [i for i, key in enumerate(keys) if key is None]
        uncached_maps = torch.stack(self.vfm(images[uncached])) if uncached else None
        maps = [
            uncached_maps[:, uncached.index(i)] if key is None else self._cached(images[i : i + 1], key)
            for i, key in enumerate(keys)
        ]
        return torch.stack(maps, dim=1)

    def _cached(self, image: Tensor, key: str) -> Tensor:
        pixels = hashlib.blake2b(image.contiguous().view(torch.uint8).cpu().numpy().tobytes(), digest_size=16)
        content_key = f"{image.dtype}|{tuple(image.shape)}|{pixels.hexdigest()}"
        key = f"{self.vfm.fingerprint}|{self.vfm.layers}|{key}|{content_key}"
        content = self.store.read(key)
        self.hits += content is not None
        self.misses += content is None
        if content is not None:
            array = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            with torch.autocast(image.device.type, enabled=False):
                array = torch.stack(self.vfm(image))[:, 0].half().cpu().numpy()
            file = io.BytesIO()
            np.save(file, array)
            self.store.write(key, file.getvalue())
        return torch.from_numpy(array).to(image.device).float()

    def __deepcopy__(self, memo: dict) -> "FeatureCache":
        return self
