"""A DetectionCheckpointer that writes files completely or not at all and never runs code from a file."""

import os
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer

from d2kit.array_pickle import load_array_pickle
from d2kit.files import atomic_write, load_weights, require_tensors
from d2kit.finite import non_finite
from d2kit.run_folder import can_resume, checkpoint_to_resume

# Parts of a model that files of the deployed network alone lack.
HELPERS = ("teacher.", "scam.")
KEY = "MODEL.WEIGHTS"


class AtomicCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer with atomic writes and safe reads.

    `missing` has the names of the parameters that the last loaded file did not hold, apart from `HELPERS`.

    A process that is killed while it saves leaves the former file whole. `model_best.pth` never becomes the file from
    which `--resume` continues.
    """

    def save(self, name: str, **kwargs: Any) -> None:
        """Write `<save_dir>/<name>.pth` completely or not at all.

        Raises:
            OSError: the file cannot be written, for example because the disk is full; older files do not change.
            FloatingPointError: a weight is not finite; older files do not change.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict()}
        names = non_finite(data["model"])
        if names:
            raise FloatingPointError(
                f"{len(names)} weights are not finite, for example '{names[0]}', so {name} is not saved; "
                "the last checkpoint stays."
            )
        data.update({key: item.state_dict() for key, item in self.checkpointables.items()}, **kwargs)
        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("Saving checkpoint to %s", path)
        try:
            with atomic_write(path) as file:
                torch.save(data, file)
        except RuntimeError as error:  # torch turns a full disk into a RuntimeError.
            raise OSError(f"'{path}' cannot be written: {str(error).splitlines()[0]}") from error
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write atomically the name of the file that `--resume` reads, unless it is the best model."""
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
            ValueError: the file is damaged or holds more than weights.
            OSError: the file of an address cannot be downloaded.
        """
        if path and "://" not in path and not Path(path).is_file():
            raise FileNotFoundError(
                f"MODEL.WEIGHTS or {self.save_dir}/last_checkpoint names '{path}', which is missing."
            )
        try:
            return super().load(path, *args, **kwargs)
        except URLError as error:
            raise OSError(
                f"MODEL.WEIGHTS names '{path}', which cannot be downloaded ({error.reason}): download it elsewhere and "
                "name the file."
            ) from error
        finally:
            self._parsed_url_during_load = None

    def _load_model(self, checkpoint: dict[str, Any]):
        incompatible = super()._load_model(checkpoint)
        parameters = {name for name, _ in self.model.named_parameters()}
        self.missing = [
            name for name in incompatible.missing_keys if name in parameters and not name.startswith(HELPERS)
        ]
        return incompatible

    def _torch_load(self, f: str) -> dict[str, Any]:
        return load_weights(f, KEY)

    def _load_file(self, filename: str) -> dict[str, Any]:
        if filename.endswith(".pkl"):
            content = _from_zoo(load_array_pickle(filename, KEY))
        elif filename.endswith(".pyth"):
            content = _from_pycls(load_weights(filename, KEY), filename)
        else:
            content = super()._load_file(filename)
        content["model"] = {
            name: np.asarray(value) if isinstance(value, np.ndarray) else value
            for name, value in require_tensors(content["model"], filename).items()
        }
        return content


def _from_zoo(content: dict) -> dict[str, Any]:
    """The checkpoint of a file of Detectron2's model zoo, or of Caffe2's, whose blobs also hold a solver's state."""
    if "model" in content and "__author__" in content:
        return content
    blobs = content.get("blobs", content)
    if isinstance(blobs, dict):
        blobs = {key: value for key, value in blobs.items() if not str(key).endswith("_momentum")}
    return {"model": blobs, "__author__": "Caffe2", "matching_heuristics": True}


def _from_pycls(content: dict, path: str) -> dict[str, Any]:
    """The checkpoint of a file of pycls."""
    if "model_state" not in content:
        raise ValueError(f"{KEY}: '{path}' holds no 'model_state', which the files .pyth of pycls have.")
    state = require_tensors(content["model_state"], path)
    weights = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    return {"model": weights, "__author__": "pycls", "matching_heuristics": True}
