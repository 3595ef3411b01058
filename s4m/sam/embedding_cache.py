"""Embeddings of un-augmented images on disk, and the way of points and masks between image and augmented view."""

import io
import os
from collections.abc import Callable, Sequence

import numpy as np
import torch
from detectron2.data.transforms import Transform, TransformList
from detectron2.utils import comm
from torch.nn import functional as F

from d2kit.bounded_folder import BoundedFolder
from s4m.sam.segmenter import PromptableSegmenter
from s4m.sam.structures import Embedding, Frame

_SUFFIX = ".embedding"


class EmbeddingCache:
    """Embeds image files; a folder, bounded in bytes, keeps the features as fp16.

    When the folder is full nothing leaves and nothing more is written: images that it does not hold are embedded each
    time they come, after one warning. So it is for one segmenter and one set of images; the embeddings of others stay
    until the folder is deleted. Damaged files count as absent; where the folder cannot be written there is one warning,
    too. See `BoundedFolder`. Features are rounded to fp16 whether they come from the disk or not, so that a warm cache
    and a cold one give the same numbers.

    Args:
        folder: made when missing; processes may share it.
        segmenter: embeds what is not there. Its fingerprint, and path, size and time of change of the image file, are
            the key of an entry.
        max_gib: bound of the folder in GiB.
        images: how many there are in all, for the warning; 0: unknown.
    """

    def __init__(self, folder: str | os.PathLike, segmenter: PromptableSegmenter, max_gib: float, images: int = 0):
        keys = ("S4M.SAM.CACHE", "S4M.SAM.CACHE_GIB")
        self.files = BoundedFolder(
            folder, max_gib, _SUFFIX, names=keys, processes=comm.get_world_size(), expected=images
        )
        self.segmenter = segmenter
        self.hits = self.misses = 0

    def encode_files(self, file_names: Sequence[str], load: Callable[[str], torch.Tensor]) -> Embedding:
        """The embedding of the images of some files, in their order.

        Args:
            file_names: at least one; one that is named twice is embedded once.
            load: reads a file as (3, H, W) uint8 RGB; called only for what is not in the folder, and free to fail.
        """
        entries: dict[str, Embedding] = {}
        for name in dict.fromkeys(file_names):
            found = self._read(self._key(name))
            if found is not None:
                entries[name] = found
        missing = [name for name in dict.fromkeys(file_names) if name not in entries]
        self.hits, self.misses = self.hits + len(entries), self.misses + len(missing)
        if missing:
            fresh = self.segmenter.encode([load(name) for name in missing])
            fresh = Embedding(fresh.features.half(), fresh.frames)
            for index, name in enumerate(missing):
                entries[name] = fresh[index]
                self._write(self._key(name), entries[name])
        device = self.segmenter.device
        joint = Embedding.cat([entries[name].to(device) for name in file_names])
        return Embedding(joint.features.float(), joint.frames)

    def _key(self, file_name: str) -> str | None:
        """The key of a file; None where the file has no size and time to tell its versions apart."""
        try:
            state = os.stat(file_name)
        except OSError:
            return None
        return repr((os.path.abspath(file_name), state.st_size, state.st_mtime_ns, self.segmenter.fingerprint))

    def _read(self, key: str | None) -> Embedding | None:
        content = None if key is None else self.files.read(key)
        if content is None:
            return None
        entry = torch.load(io.BytesIO(content), weights_only=True)
        return Embedding(entry["features"], [Frame(*entry["frame"])])

    def _write(self, key: str | None, embedding: Embedding) -> None:
        if key is None:
            return
        frame = embedding.frames[0]
        payload = io.BytesIO()
        # A clone: a slice would be saved with the storage of its whole batch.
        entry = {
            "features": embedding.features.cpu().clone(),
            "frame": (frame.image_size, frame.input_size, frame.side),
        }
        torch.save(entry, payload)
        self.files.write(key, payload.getvalue())


class ViewTransform:
    """The way between an un-augmented image (source) and its augmented view, for points one way and masks the other.

    Any Detectron2 transforms that together move pixels by an affine map: resize, crop, pad, flip, rotate, extent; those
    of colour do nothing here. The map is read off the transforms' own `apply_coords`, so a crop that cannot tell the
    size it was cut from is inverted too.

    Args:
        transforms: from the source to the view, as an `AugmentationList` returns them.
        source_size, view_size: height, width in pixels.

    Raises:
        ValueError: the transforms are not affine, or squeeze the image to nothing.
    """

    def __init__(self, transforms: Transform | TransformList, source_size: tuple[int, int], view_size: tuple[int, int]):
        self.source_size, self.view_size = tuple(source_size), tuple(view_size)
        height, width = source_size
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], dtype=np.float64)
        moved = np.asarray(transforms.apply_coords(corners.copy()), dtype=np.float64)
        forward = np.eye(3)
        forward[:2, 0] = (moved[1] - moved[0]) / width
        forward[:2, 1] = (moved[2] - moved[0]) / height
        forward[:2, 2] = moved[0]
        if np.abs(moved[1] + moved[2] - moved[0] - moved[3]).max() > 1e-3 * max(*source_size, *view_size):
            raise ValueError(f"ViewTransform needs transforms that are affine together, which {transforms} are not.")
        if abs(np.linalg.det(forward)) < 1e-12:
            raise ValueError(f"ViewTransform cannot invert {transforms}.")
        self._to_source = torch.from_numpy(np.linalg.inv(forward)[:2]).float()

    def points_to_source(self, points: torch.Tensor) -> torch.Tensor:
        """Points (..., 2) x, y of the view, pixels by their index -> of the source; clamped to it."""
        # Detectron2's coordinates have pixel centres at halves.
        moved = self._moved(points.float() + 0.5) - 0.5
        height, width = self.source_size
        return torch.minimum(moved.clamp(min=0), moved.new_tensor([width - 1, height - 1]))

    def _moved(self, points: torch.Tensor) -> torch.Tensor:
        """Coordinates (..., 2) of the view -> of the source, in float32: half precision is coarser than a pixel."""
        matrix = self._to_source.to(points.device)
        with torch.autocast(points.device.type, enabled=False):
            return points @ matrix[:, :2].T + matrix[:, 2]

    def masks_to_view(self, masks: torch.Tensor, outside: float = -20.0) -> torch.Tensor:
        """Masks of the source, read bilinearly at the pixels of the view.

        Args:
            masks: (N, *source_size) float logits, or bool.
            outside: value where the view shows nothing of the source (padding); False for bool.

        Returns:
            (N, *view_size), of the same kind.
        """
        if masks.dtype == torch.bool:
            return self.masks_to_view(masks.float(), outside=0.0) > 0.5
        height, width = self.view_size
        x = torch.arange(width, device=masks.device) + 0.5
        y = torch.arange(height, device=masks.device) + 0.5
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)
        size = grid.new_tensor(self.source_size[::-1])
        source = self._moved(grid)
        inside = ((source >= 0) & (source < size)).all(-1)
        normal = (2 * source / size - 1)[None].to(masks.dtype)
        seen = F.grid_sample(masks[None], normal, "bilinear", padding_mode="border", align_corners=False)[0]
        return torch.where(inside, seen, seen.new_tensor(outside))
