"""Atomic writes of files and pictures, and safe reads of weights."""

import contextlib
import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
import torch


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that replaces it when the block ends without an error.

    A reader, or a process killed at any moment, sees the old file or the new one, never a part. On an error the
    temporary file is removed and the old file stays.

    Args:
        path: file to write; a missing folder is made.
        mode: "wb" or "w" (UTF-8).

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    path = Path(path)
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        with os.fdopen(handle, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        if isinstance(error, OSError):
            raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error
        raise


def write_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write (H, W) gray or (H, W, 3) BGR pixels, uint8 or uint16, as PNG by `atomic_write`.

    Raises:
        ValueError: shape or type do not fit a picture.
        OSError: the file cannot be written.
    """
    try:
        content = cv2.imencode(".png", picture)[1].tobytes()
    except cv2.error as error:
        raise ValueError(f"{path}: {picture.dtype} pixels of shape {picture.shape} are no picture.") from error
    with atomic_write(path) as file:
        file.write(content)


def damage(path: str | os.PathLike) -> str:
    """What is wrong with a checkpoint file, "" for nothing: the check sum of every part of its archive is compared.

    Files in torch's format before 1.6, which have no check sums, are taken as they are.
    """
    try:
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return "it is cut off" if file.read(2) in (b"", b"PK") else ""
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
        return f"the check sum of its part '{part}' is wrong" if part else ""
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        return f"it cannot be read: {error}"


def load_weights(path: str | os.PathLike, key: str, published_at: str = "") -> dict:
    """Load a torch checkpoint with `weights_only=True` onto the CPU.

    Args:
        path: file to read.
        key: configuration key or option that named it, for the message.
        published_at: where such a file is published, for the message.

    Raises:
        FileNotFoundError: the file is absent or `path` is empty.
        ValueError: the file is not a checkpoint that loads safely.
    """
    hint = f" It is published at {published_at}." if published_at else ""
    if not str(path) or not Path(path).is_file():
        raise FileNotFoundError(f"{key} names the checkpoint '{path}', which does not exist.{hint}")
    reason = damage(path)
    if reason:
        raise ValueError(f"{key}: '{path}' is damaged: {reason}.{hint}")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{key}: '{path}' is not a checkpoint that loads safely ({reason}).{hint}") from error
