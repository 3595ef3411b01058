"""A DetectionCheckpointer whose files are complete or absent, and which never runs code found in a file."""

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer

from d2kit.files import atomic_write, load_weights
from d2kit.finite import non_finite
from d2kit.run_folder import can_resume, checkpoint_to_resume

_NUMPY_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("collections", "OrderedDict"),
    ("_codecs", "encode"),
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of dictionaries of NumPy arrays, the format of Detectron2's model zoo, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return an allowed class or raise `pickle.UnpicklingError`."""
        if (module, name) not in _NUMPY_NAMES:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a file of weights does not need")
        if name in ("_reconstruct", "scalar"):
            return getattr(np._core.multiarray, name)
        return super().find_class(module, name)


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes and safe reads.

    A process killed while it saves leaves the former file whole. `model_best.pth` never becomes the file that
    `--resume` continues from.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` completely or not at all.

        Raises:
            OSError: the file cannot be written, for example because the disk is full; older files are untouched.
            FloatingPointError: a weight is not finite; older files are untouched.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        bad = non_finite(data["model"])
        if bad:
            raise FloatingPointError(
                f"{len(bad)} weights are not finite, the first '{bad[0]}': {name} is not saved, "
                "the last checkpoint stays."
            )
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()})
        data.update(kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            with atomic_write(path) as file:
                torch.save(data, file)
        except RuntimeError as error:  # torch turns a full disk into a RuntimeError
            raise OSError(f"cannot write {path}: {str(error).splitlines()[0]}") from error
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Name atomically the file that `--resume` reads, unless it is the best model."""
        if last_filename_basename.startswith("model_best"):
            return
        with atomic_write(os.path.join(self.save_dir, "last_checkpoint"), "w") as file:
            file.write(last_filename_basename)

    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint to resume from, see `d2kit.run_folder.can_resume`."""
        return can_resume(self.save_dir)

    def get_checkpoint_file(self) -> str:
        """The file to resume from, see `d2kit.run_folder.checkpoint_to_resume`; "" if there is none."""
        return str(checkpoint_to_resume(self.save_dir)) if can_resume(self.save_dir) else ""

    def load(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Load a checkpoint as Detectron2 does.

        Raises:
            FileNotFoundError: `path` is a local file that does not exist.
            ValueError: the file is truncated or holds more than weights.
        """
        if path and "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(
                f"MODEL.WEIGHTS or {self.save_dir}/last_checkpoint names '{path}', which is missing."
            )
        try:
            return super().load(path, *args, **kwargs)
        finally:
            self._parsed_url_during_load = None

    def _torch_load(self, f: str) -> dict[str, Any]:
        return load_weights(f, "MODEL.WEIGHTS")

    def _load_file(self, filename: str) -> dict[str, Any]:
        if not filename.endswith(".pkl"):
            return super()._load_file(filename)
        try:
            with self.path_manager.open(filename, "rb") as file:
                data = ArrayUnpickler(file, encoding="latin1").load()
        except (pickle.UnpicklingError, EOFError) as error:
            raise ValueError(f"MODEL.WEIGHTS: '{filename}' is not a safe pickle of arrays ({error}).") from error
        if "model" in data and "__author__" in data:
            return data
        weights = {key: value for key, value in data.get("blobs", data).items() if not key.endswith("_momentum")}
        return {"model": weights, "__author__": "Caffe2", "matching_heuristics": True}
