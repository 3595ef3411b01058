"""A bounded cache of foundation-model features for views that come again unchanged."""

import hashlib
import io
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.utils import comm
from torch import Tensor

from d2kit.bounded_folder import BoundedFolder
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
    """Contents by key in memory; what does not fit into `max_bytes` is not kept, as in `BoundedFolder`."""

    def __init__(self, max_bytes: int):
        self.max_bytes = max_bytes
        self._contents: dict[str, bytes] = {}
        self._bytes = 0

    def read(self, key: str) -> bytes | None:
        """The content of a key, or None."""
        return self._contents.get(key)

    def write(self, key: str, content: bytes) -> None:
        """Keep a content, where there is room for it."""
        if key not in self._contents and self._bytes + len(content) <= self.max_bytes:
            self._contents[key] = content
            self._bytes += len(content)


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
        max_gib: bound in GiB; 13 layers of a 252x252 view of ViT-S/14 take 3.2 MB. When it is reached nothing leaves:
            the other views run through the model each time.
        folder: keep the features there (under OUTPUT_DIR, say), for a resumed run too; empty: in memory.

    Raises:
        ValueError: a bound of a folder that is not positive.
    """

    def __init__(self, vfm: FrozenVFM, max_gib: float = 1.0, folder: str = ""):
        self.vfm = vfm
        names = ("ISTD.VFM.CACHE", "ISTD.VFM.CACHE_GIB")
        self.store = (
            BoundedFolder(folder, max_gib, ".npy", names=names, processes=comm.get_world_size())
            if folder
            else MemoryStore(int(max_gib * GIB))
        )
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
        pixels = hashlib.blake2b(image.contiguous().view(torch.uint8).cpu().numpy().tobytes(), digest_size=16)
        seen = f"{image.dtype}|{tuple(image.shape)}|{pixels.hexdigest()}"
        key = f"{self.vfm.fingerprint}|{self.vfm.layers}|{key}|{seen}"
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
