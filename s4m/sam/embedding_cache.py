"""Embeddings of un-augmented images on disk."""

import io
import os
from collections.abc import Callable, Sequence

import torch
from detectron2.utils import comm

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
            entry = self._read(self._key(name))
            if entry is not None:
                entries[name] = entry
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
