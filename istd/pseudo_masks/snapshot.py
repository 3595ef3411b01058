"""One version of the pseudo-mask store: its content, its file, and the pointer that names it."""

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from d2kit.files import atomic_write
from istd.pseudo_masks.sparse import SparseMasks

FORMAT = 1
POINTER = "store.json"


@dataclass(frozen=True)
class Snapshot:
    """Everything of one version.

    version: counts the updates from 0. epoch: what it was written for. masks: image id -> (H, W) float32.
    pool: ids of the images that are trained on.
    """

    version: int
    epoch: int
    masks: SparseMasks
    pool: frozenset[str]

    def digest(self) -> str:
        """Hash of masks and pool: the same for the same state, whenever and wherever it was written."""
        return hashlib.blake2b(
            (self.masks.digest() + "\n".join(sorted(self.pool))).encode(), digest_size=16
        ).hexdigest()

    def check(self) -> None:
        """ValueError when the pool names an image without a mask."""
        unknown = self.pool - set(self.masks)
        if unknown:
            raise ValueError(f"image '{min(unknown)}' is to be in the pool but has no mask in the store.")

    def write(self, folder: Path) -> None:
        """Write the version's file, atomically; OSError naming it when that fails."""
        arrays = {**self.masks.arrays, "version": self.version, "epoch": self.epoch}
        arrays["pool"] = np.array([name in self.pool for name in self.masks], bool)
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        with atomic_write(version_path(folder, self.version)) as file:
            file.write(content.getbuffer())


def version_path(folder: Path, version: int) -> Path:
    """File of a version's masks."""
    return folder / f"masks-{version:06d}.npz"


def read_snapshot(folder: Path, version: int, kept: Mapping[int, str]) -> Snapshot:
    """Read a version; `kept` maps versions to their digests. ValueError naming the file when it is gone or damaged."""
    path = version_path(folder, version)
    if version not in kept or not path.is_file():
        raise ValueError(f"{path} is missing: {folder / POINTER} keeps the versions {sorted(kept)}.")
    try:
        with np.load(path, allow_pickle=False) as file:
            masks = SparseMasks(*(file[field] for field in SparseMasks.FIELDS))
            pool = frozenset(name for name, inside in zip(masks, file["pool"], strict=True) if inside)
            snapshot = Snapshot(int(file["version"]), int(file["epoch"]), masks, pool)
    except (ValueError, KeyError, EOFError, IndexError, TypeError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}).") from error
    if snapshot.version != version or snapshot.digest() != kept[version]:
        raise ValueError(f"{path} is damaged: its content is not what {folder / POINTER} expects.")
    return snapshot


def read_pointer(folder: Path) -> tuple[int, int, dict[int, str]]:
    """Current version, number of versions to keep, and the kept versions with their digests."""
    path = folder / POINTER
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: there is no pseudo-mask store in that folder.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"its format is {content['format']}, not {FORMAT}")
        kept = {int(version): str(digest) for version, digest in content["versions"].items()}
        return int(content["version"]), int(content["keep"]), kept
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}).") from error


def write_pointer(folder: Path, version: int, keep: int, kept: Mapping[int, str]) -> None:
    """Make `version` the current one: the one atomic step of every transaction."""
    content = {"format": FORMAT, "version": version, "keep": keep, "versions": kept}
    with atomic_write(folder / POINTER, "w") as file:
        json.dump(content, file, indent=1)
