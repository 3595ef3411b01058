"""The state of label evolution on disk: soft masks and pool membership, versioned, atomic, resumable.

A folder (under OUTPUT_DIR) holds
    store.json           the pointer: newest version, the versions kept and the digest of each
    masks-000007.npz     everything of version 7
    drift.jsonl          one line per update: how far the masks moved
A version is written in full before the pointer is replaced, so a process killed at any moment leaves the old version or
the new one. Nothing outside the folder is written.
"""

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from d2kit.files import atomic_write
from istd.pseudo_masks.drift import mask_drift, summarise
from istd.pseudo_masks.snapshot import POINTER, Snapshot, read_pointer, read_snapshot, version_path, write_pointer
from istd.pseudo_masks.sparse import SparseMasks

DRIFT = "drift.jsonl"
LEAST_KEPT = 2  # a reader may be at the version before the newest
Masks = Mapping[str, np.ndarray] | Iterable[tuple[str, np.ndarray]]


class PseudoMaskStore:
    """Pseudo-masks of a data set: `create` or `open` one, `update` it as a transaction, `rewind` it on a resume.

    One process writes; others read through `reader()` or `refresh()`.
    """

    def __init__(self, folder: str | os.PathLike, snapshot: Snapshot, kept: dict[int, str], keep: int):
        self.folder = Path(folder)
        self._snapshot, self._kept, self._keep = snapshot, kept, keep

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike,
        masks: Masks,
        pool: Collection[str],
        *,
        epoch: int = 0,
        keep: int = 8,
        overwrite: bool = False,
    ) -> "PseudoMaskStore":
        """Write version 0.

        Args:
            folder: made when missing.
            masks: image id -> (H, W) soft mask in [0, 1], or pairs of them.
            pool: ids of the images that are trained on from the start.
            keep: versions that stay on disk (at least 2), so that an older checkpoint can be resumed.
            overwrite: replace the store that `folder` holds (a new run in an old OUTPUT_DIR).

        Raises:
            FileExistsError: the folder holds a store.
            ValueError: an id occurs twice or in the pool only.
            OSError: it cannot be written.
        """
        if cls.exists(folder) and not overwrite:
            raise FileExistsError(f"{Path(folder, POINTER)} exists: open that store, or choose another folder.")
        snapshot = Snapshot(0, epoch, SparseMasks.pack(_pairs(masks)), frozenset(pool))
        snapshot.check()
        Path(folder, POINTER).unlink(missing_ok=True)
        store = cls(folder, snapshot, {}, max(keep, LEAST_KEPT))
        store._commit(snapshot, drift=[])
        return store

    @staticmethod
    def exists(folder: str | os.PathLike) -> bool:
        """Whether a folder holds a store."""
        return Path(folder, POINTER).is_file()

    @classmethod
    def open(cls, folder: str | os.PathLike, *, clean: bool = True) -> "PseudoMaskStore":
        """Continue the store of `folder` at its newest version.

        Args:
            clean: remove what a killed process left behind; False for processes that only read.

        Raises:
            FileNotFoundError: there is no store.
            ValueError: the store is damaged; the sentence names the file.
        """
        version, keep, kept = read_pointer(Path(folder))
        store = cls(folder, read_snapshot(Path(folder), version, kept), kept, keep)
        if clean:
            store._clean()
        return store

    @property
    def version(self) -> int:
        """Of the snapshot that is read, counted from 0."""
        return self._snapshot.version

    @property
    def epoch(self) -> int:
        """Epoch that the current version was written for."""
        return self._snapshot.epoch

    @property
    def image_ids(self) -> list[str]:
        """Of all images, in the order they were created in."""
        return list(self._snapshot.masks)

    @property
    def pool(self) -> frozenset[str]:
        """Ids of the images that are trained on."""
        return self._snapshot.pool

    @property
    def waiting(self) -> list[str]:
        """Ids of the images that are not in the pool yet, in the store's order."""
        return [name for name in self._snapshot.masks if name not in self._snapshot.pool]

    def mask(self, image_id: str) -> np.ndarray:
        """(H, W) float32 soft mask of the current version; KeyError with one sentence for an unknown image."""
        if image_id not in self._snapshot.masks:
            raise KeyError(f"image '{image_id}' is not in the pseudo-mask store {self.folder}.")
        return self._snapshot.masks[image_id]

    def update(self, masks: Masks, *, epoch: int, enter: Collection[str] = ()) -> dict:
        """Write the next version as a transaction.

        Args:
            masks: image id -> new mask, for those that change; the others stay.
            epoch: for the record.
            enter: ids that join the pool.

        Returns:
            The drift report: {"version", "epoch", "pool", "entered", "summary": {...}, "images": {id: {...}}}.

        Raises:
            KeyError: an id that the store does not know. ValueError: a mask of another size.
            OSError: it cannot be written; the old version stays, on disk and in this object.
        """
        old = self._snapshot
        changed = SparseMasks.pack(_pairs(masks))
        images = {name: mask_drift(self._same_size(name, changed[name]), changed[name]) for name in changed}
        packed = SparseMasks.pack((name, changed[name] if name in changed else old.masks[name]) for name in old.masks)
        new = replace(old, version=old.version + 1, epoch=epoch, masks=packed, pool=old.pool | frozenset(enter))
        new.check()
        report = {
            "version": new.version,
            "epoch": epoch,
            "pool": len(new.pool),
            "entered": sorted(new.pool - old.pool),
            "summary": summarise(images.values()),
            "images": images,
        }
        self._commit(new, [*self.drift(), report])
        return report

    def rewind(self, version: int) -> None:
        """Make an earlier version, still kept, the current one; later ones are forgotten.

        Raises:
            ValueError: that version is not there any more, or is damaged.
        """
        if version == self.version:
            return
        snapshot = read_snapshot(self.folder, version, self._kept)
        kept = {number: digest for number, digest in self._kept.items() if number <= version}
        write_pointer(self.folder, version, self._keep, kept)
        self._snapshot, self._kept = snapshot, kept
        self._clean()

    def refresh(self) -> None:
        """Follow the pointer when another process has written."""
        version, _, kept = read_pointer(self.folder)
        if version != self.version or kept.get(version) != self._kept.get(version):
            self._snapshot = read_snapshot(self.folder, version, kept)
        self._kept = kept

    def drift(self) -> list[dict]:
        """The drift reports of all updates up to the current version, oldest first."""
        path = self.folder / DRIFT
        if not path.is_file():
            return []
        try:
            reports = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            return [report for report in reports if report["version"] <= self.version]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error}): restore it or remove it.") from error

    def state_dict(self) -> dict:
        """What a checkpoint keeps: which version it was trained on, not the masks."""
        return {"version": self.version, "digest": self._kept[self.version]}

    def load_state_dict(self, state: Mapping) -> None:
        """Go to the version of a checkpoint; ValueError when this store no longer holds it or it is another one."""
        version = int(state["version"])
        if self._kept.get(version) != state["digest"]:
            raise ValueError(
                f"the checkpoint was trained on version {version} of a pseudo-mask store, which {self.folder} does not "
                f"hold (it has {sorted(self._kept)}): resume from a newer checkpoint or start in a new OUTPUT_DIR."
            )
        self.rewind(version)

    def reader(self) -> "MaskReader":
        """A picklable lookup for a mapper."""
        return MaskReader(self.folder)

    def _same_size(self, name: str, mask: np.ndarray) -> np.ndarray:
        old = self.mask(name)
        if old.shape != mask.shape:
            raise ValueError(f"the new mask of image '{name}' has shape {mask.shape}, the store's has {old.shape}.")
        return old

    def _commit(self, snapshot: Snapshot, drift: list[dict]) -> None:
        snapshot.write(self.folder)
        with atomic_write(self.folder / DRIFT, "w") as file:
            file.writelines(json.dumps(report) + "\n" for report in drift)
        kept = {**self._kept, snapshot.version: snapshot.digest()}
        kept = {number: kept[number] for number in sorted(kept)[-self._keep :]}
        write_pointer(self.folder, snapshot.version, self._keep, kept)
        self._snapshot, self._kept = snapshot, kept
        self._clean()

    def _clean(self) -> None:
        """Remove versions that are not kept and the temporary files of killed writers; best effort."""
        wanted = {version_path(self.folder, version).name for version in self._kept}
        ours = [*self.folder.glob("masks-*.npz"), *self.folder.glob(".masks-*.tmp")]
        ours += [*self.folder.glob(f".{POINTER}.*.tmp"), *self.folder.glob(f".{DRIFT}.*.tmp")]
        for path in ours:
            if path.name not in wanted:
                with contextlib.suppress(OSError):
                    path.unlink()


class MaskReader:
    """Lookup image id -> (H, W) float32 mask that follows the store's newest version, in any process."""

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self._store: PseudoMaskStore | None = None
        self._stamp: tuple[int, int] | None = None

    def __call__(self, image_id: str) -> np.ndarray:
        status = os.stat(self.folder / POINTER)
        stamp = (status.st_mtime_ns, status.st_ino)
        if self._store is None:
            self._store = PseudoMaskStore.open(self.folder, clean=False)
        elif stamp != self._stamp:
            self._store.refresh()
        self._stamp = stamp
        return self._store.mask(image_id)

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "_store": None, "_stamp": None}


def _pairs(masks: Masks) -> Iterable[tuple[str, np.ndarray]]:
    return masks.items() if isinstance(masks, Mapping) else masks
