"""Embeddings of un-augmented images are kept on disk."""

import io
import os
from collections.abc import Callable, Sequence

import torch
from detectron2.utils.file_io import PathManager

from d2kit.bounded_folder import BoundedFolder
from s4m.sam.segmenter import PromptableSegmenter
from s4m.sam.structures import Embedding, Frame


class EmbeddingCache:
    """Embeds image files, and keeps the features as fp16 in a folder that is bounded in bytes.

    A full folder loses nothing and gets nothing new: other images are embedded each time, after one warning. So the
    folder is for one segmenter and one set of images. Damaged files count as absent, and a folder that cannot be
    written is one warning; see `BoundedFolder`.

    A warm and a cold cache give the same bits: each image is embedded in an encoder call of its own, because its last
    bits depend on the batch, and features are rounded to fp16 even if they do not come from the disk.

    Args:
        folder: folder that is made when missing; processes may share it.
        segmenter: segmenter that embeds absent images. Its fingerprint and the image file's path, size and time of
            change are the key of an entry.
        max_gib: bound of the folder in GiB.
        images: number of images in all, for the warning; 0 if it is unknown.
    """

    def __init__(self, folder: str | os.PathLike, segmenter: PromptableSegmenter, max_gib: float, images: int = 0):
        self.files = BoundedFolder(folder, max_gib, ".embedding", key="S4M.SAM.CACHE", expected=images)
        self.segmenter = segmenter
        self.hits = self.misses = 0

    def encode_files(self, file_names: Sequence[str], load: Callable[[str], torch.Tensor]) -> Embedding:
        """Return the joint embedding of image files, in their order.

        Args:
            file_names: at least one file; a file that is named twice is embedded once.
            load: function that reads a file as (3, H, W) uint8 RGB, called only for files that are not in the folder.

        Raises:
            FileNotFoundError: a file does not exist.
        """
        keys = {name: self._key(name) for name in file_names}
        entries = {name: entry for name, key in keys.items() if (entry := self._read(key)) is not None}
        missing = [name for name in keys if name not in entries]
        self.hits += len(entries)
        self.misses += len(missing)
        for name in missing:
            fresh = self.segmenter.encode([load(name)])
            entries[name] = Embedding(fresh.features.half(), fresh.frames)
            self._write(keys[name], entries[name])
        features = [entries[name].features.to(self.segmenter.device) for name in file_names]
        return Embedding(torch.cat(features).float(), [entries[name].frames[0] for name in file_names])

    def _key(self, file_name: str) -> str:
        """Return the key of a file, which tells the versions of the file and of the segmenter apart."""
        path = os.path.abspath(PathManager.get_local_path(file_name))
        state = os.stat(path)
        return repr((path, state.st_size, state.st_mtime_ns, self.segmenter.fingerprint))

    def _read(self, key: str) -> Embedding | None:
        content = self.files.read(key)
        if content is None:
            return None
        entry = torch.load(io.BytesIO(content), weights_only=True)
        return Embedding(entry["features"], [Frame(*entry["frame"])])

    def _write(self, key: str, embedding: Embedding) -> None:
        frame = embedding.frames[0]
        payload = io.BytesIO()
        state = {"features": embedding.features.cpu(), "frame": (frame.image_size, frame.input_size, frame.side)}
        torch.save(state, payload)
        self.files.write(key, payload.getvalue())
