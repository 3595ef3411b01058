"""Embeddings of un-augmented images on disk, and the way of points and masks between image and augmented view."""

import hashlib
import io
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data.transforms import Transform, TransformList
from torch.nn import functional as F

from d2kit.files import atomic_write
from s4m.sam.segmenter import PromptableSegmenter
from s4m.sam.structures import Embedding, Frame

logger = logging.getLogger(__name__)

_SUFFIX = ".embedding"
_DIGEST = 16  # bytes of the checksum before the payload
_STALE_SECONDS = 3600.0  # age at which a temporary file is one that a killed process left


class EmbeddingCache:
    """Embeds each image file once; a folder keeps the features as fp16, bounded in bytes, the longest unused leave.

    A file is replaced as a whole or not at all, carries a checksum, and counts as absent when it is damaged. Where the
    folder cannot be written (disk full) there is one warning, and images are embedded anew. Features are rounded to
    fp16 whether they come from the disk or not, so that a warm cache and a cold one give the same numbers.

    Args:
        folder: made when missing; processes may share it.
        segmenter: embeds what is not there. Its fingerprint, and path, size and time of change of the image file, are
            the key of an entry.
        max_gib: bound of the folder in GiB.
    """

    def __init__(self, folder: str | os.PathLike, segmenter: PromptableSegmenter, max_gib: float):
        if max_gib <= 0:
            raise ValueError(f"S4M.SAM.CACHE_GIB must be positive, but is {max_gib}.")
        self.folder = Path(folder)
        self.segmenter = segmenter
        self.max_bytes = int(max_gib * 2**30)
        self.hits = self.misses = 0
        self._writable = True
        self._bytes = self._evict()

    def encode_files(self, file_names: Sequence[str], load: Callable[[str], torch.Tensor]) -> Embedding:
        """The embedding of the images of some files, in their order.

        Args:
            file_names: at least one; one that is named twice is embedded once.
            load: reads a file as (3, H, W) uint8 RGB; called only for what is not in the folder, and free to fail.
        """
        entries: dict[str, Embedding] = {}
        for name in dict.fromkeys(file_names):
            found = self._read(self._path(name))
            if found is not None:
                entries[name] = found
        missing = [name for name in dict.fromkeys(file_names) if name not in entries]
        self.hits, self.misses = self.hits + len(entries), self.misses + len(missing)
        if missing:
            fresh = self.segmenter.encode([load(name) for name in missing])
            fresh = Embedding(fresh.features.half(), fresh.frames)
            for index, name in enumerate(missing):
                entries[name] = fresh[index]
                self._write(self._path(name), entries[name])
        device = self.segmenter.device
        joint = Embedding.cat([entries[name].to(device) for name in file_names])
        return Embedding(joint.features.float(), joint.frames)

    def _path(self, file_name: str) -> Path | None:
        """The entry of a file; None where the file has no size and time to tell its versions apart."""
        try:
            state = os.stat(file_name)
        except OSError:
            return None
        parts = (os.path.abspath(file_name), state.st_size, state.st_mtime_ns, self.segmenter.fingerprint)
        key = hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
        return self.folder / key[:2] / f"{key}{_SUFFIX}"

    def _read(self, path: Path | None) -> Embedding | None:
        if path is None:
            return None
        try:
            content = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        if hashlib.blake2b(content[_DIGEST:], digest_size=_DIGEST).digest() != content[:_DIGEST]:
            return None
        entry = torch.load(io.BytesIO(content[_DIGEST:]), weights_only=True)
        return Embedding(entry["features"], [Frame(*entry["frame"])])

    def _write(self, path: Path | None, embedding: Embedding) -> None:
        if path is None or not self._writable:
            return
        frame = embedding.frames[0]
        payload = io.BytesIO()
        # A clone: a slice would be saved with the storage of its whole batch.
        entry = {
            "features": embedding.features.cpu().clone(),
            "frame": (frame.image_size, frame.input_size, frame.side),
        }
        torch.save(entry, payload)
        content = payload.getvalue()
        try:
            with atomic_write(path) as file:
                file.write(hashlib.blake2b(content, digest_size=_DIGEST).digest() + content)
        except OSError as error:
            self._writable = False
            logger.warning("S4M.SAM.CACHE: %s; going on without writing to it.", error)
            return
        self._bytes += len(content) + _DIGEST
        if self._bytes > self.max_bytes:
            self._bytes = self._evict()

    def _evict(self) -> int:
        """Delete the longest unused entries above the bound, and what killed processes left; returns the bytes left."""
        entries = []
        for path in self.folder.glob("??/*"):
            try:
                state = path.stat()
                if path.name.startswith(".") and path.name.endswith(".tmp"):
                    if time.time() - state.st_mtime > _STALE_SECONDS:
                        path.unlink()
                elif path.suffix == _SUFFIX:
                    entries.append((state.st_mtime_ns, state.st_size, path))
            except OSError:
                continue  # another process was faster
        total = sum(size for _, size, _ in entries)
        goal = self.max_bytes * 0.9 if total > self.max_bytes else total
        for _, size, path in sorted(entries):
            if total <= goal:
                break
            path.unlink(missing_ok=True)
            total -= size
        return total


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
