"""Functions that write files and images atomically, keep them in their folder and read weights safely."""

import contextlib
import itertools
import os
import secrets
import shutil
import zipfile
from collections.abc import Container, Iterator
from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np

from d2kit.require import require_extra, require_torch

_SMALL = 2**24  # bytes that may be compressed, such as the code of a TorchScript file, which torch refuses itself
_FOLDER = 0x10  # The attribute by which a zip archive marks an entry as a folder, as DOS did.


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path` that replaces it when the block ends without an error.

    A reader sees the old file or the new file and never a part, even if the process is killed. On an error the
    temporary file is removed and the old file stays.

    Args:
        path: the file to write; a missing folder is made.
        mode: "wb" for bytes or "w" for text in UTF-8.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
        ValueError: a text holds a name that is not UTF-8.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, f"'{path}' cannot be written: {error.strerror or error}") from error
        if isinstance(error, UnicodeEncodeError):
            raise ValueError(f"'{path}' cannot be written: {ascii(error.object.strip())} is not UTF-8") from error
        raise


def append_text(path: str | os.PathLike, text: str) -> None:
    """Append to a file in UTF-8; what UTF-8 cannot hold of a file's name is written as in json, such as \\udcff.

    A process that is killed meanwhile leaves at most one cut line at the end; see `whole_lines`.

    Raises:
        OSError: the file cannot be written, for example because the disk is full.
    """
    try:
        with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text)
    except OSError as error:
        raise OSError(error.errno, f"'{path}' cannot be written: {error.strerror}") from error


def whole_lines(path: str | os.PathLike) -> Iterator[str]:
    """Iterate over the lines of a file of `append_text`, without a last one that a kill cut off.

    Raises:
        ValueError: the file is not UTF-8.
    """
    with open(path, encoding="utf-8", newline="\n") as file:
        yield from (line[:-1] for line in file if line.endswith("\n"))


@contextlib.contextmanager
def whole_folder(output: Path) -> Iterator[Path]:
    """Give a hidden folder beside `output` that takes its place when the block ends without an error.

    A folder that exists is replaced as a whole, or stays as it is.

    Raises:
        OSError: the folder cannot be written, for example because the disk is full.
    """
    folder, old = (output.with_name(f".{output.name}.{secrets.token_hex(4)}.tmp") for _ in range(2))
    try:
        folder.mkdir(parents=True)
        yield folder
        if output.exists():
            output.rename(old)
        folder.rename(output)
    finally:
        for path in (folder, old):
            shutil.rmtree(path, ignore_errors=True)


def inside(folder: str | os.PathLike, name: str | os.PathLike) -> Path:
    """Return the path of a file of an output folder whose name comes from data.

    Args:
        folder: the output folder, which need not exist.
        name: path below the folder; it may hold subfolders.

    Raises:
        ValueError: the name, or a symbolic link in the folder, leads out of the folder; or no file can have the name.
    """
    path = Path(folder, name)
    try:
        leads_out = Path(folder).resolve() not in path.resolve().parents
    except (ValueError, OSError, RuntimeError) as error:  # A zero byte, a half of a character, or a ring of links.
        raise ValueError(f"{ascii(os.fspath(name))} cannot be the name of a file: {error}") from error
    if leads_out:
        raise ValueError(f"'{os.fspath(name)}' leads out of the folder '{os.fspath(folder)}', so it is not written.")
    return path


def require_apart(output: str | os.PathLike, source: str | os.PathLike) -> None:
    """Raise ValueError if an output folder is, holds or lies in a folder of inputs, which it could replace."""
    output_path = Path(output).resolve()
    source_path = Path(source).resolve()
    if output_path.is_relative_to(source_path) or source_path.is_relative_to(output_path):
        raise ValueError(f"'{output}' would mix with the inputs in '{source}': choose another output.")


def unused_name(name: str, used: Container[str]) -> str:
    """Return the name, or the first of NAME_2, NAME_3, ... if it is used already."""
    names = itertools.chain([name], (f"{name}_{number}" for number in itertools.count(2)))
    return next(candidate for candidate in names if candidate not in used)


def read_picture(path: str | os.PathLike, flags: int) -> np.ndarray | None:
    """Read an image file by `cv2.imdecode` with the given flags; None if OpenCV cannot read it.

    `cv2.imread` ends the whole process where a name is not UTF-8.

    Raises:
        OSError: the file cannot be opened.
    """
    content = np.fromfile(path, np.uint8)
    return cv2.imdecode(content, flags) if content.size else None


def require_utf8(path: str | os.PathLike) -> str:
    """Return the path for OpenCV's readers and writers of videos, which end the whole process if it is not UTF-8.

    Raises:
        ValueError: the path is not UTF-8; the message names it.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{ascii(os.fspath(path))} is not UTF-8, as OpenCV needs it for videos: rename it.") from error
    return os.fspath(path)


def write_png(path: str | os.PathLike, picture: np.ndarray) -> None:
    """Write pixels (H, W) gray or (H, W, 3) BGR, uint8 or uint16, as a PNG file by `atomic_write`.

    Raises:
        ValueError: the shape or the type does not fit an image.
        OSError: the file cannot be written.
    """
    try:
        content = cv2.imencode(".png", picture)[1].tobytes()
    except cv2.error as error:
        raise ValueError(f"{path}: {picture.dtype} pixels of shape {picture.shape} are no image.") from error
    with atomic_write(path) as file:
        file.write(content)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def damage(path: str | os.PathLike) -> str:
    """What is wrong with a checkpoint file, "" for nothing: the check sum of every part of its archive is compared.

    Files in torch's format before 1.6 and safetensors, which have no check sums, are taken as they are.
    """
    try:
        if not zipfile.is_zipfile(path):
            with open(path, "rb") as file:
                return "it is cut off" if file.read(2) in (b"", b"PK") else ""
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
            # torch compresses no weights, so parts that grow are no checkpoint and could fill the memory.
            if sum(part.file_size for part in parts) > os.path.getsize(path) + _SMALL:
                return "its parts are larger than the file"
            # torch would read nothing of a part that is marked as a folder, and take what is in memory for weights.
            if any(part.is_dir() or part.external_attr & _FOLDER for part in parts):
                return "one of its parts is a folder"
            wrong = archive.testzip()
        return f"the check sum of its part '{wrong}' is wrong" if wrong else ""
    except Exception as error:  # zipfile raises many types on damaged bytes: struct.error, zlib.error, RuntimeError.
        return f"it cannot be read: {first_line(error)}"


def load_weights(path: str | os.PathLike, key: str, published_at: str = "") -> dict:
    """Load a checkpoint of torch with `weights_only=True`, or a file `.safetensors`, onto the CPU.

    Args:
        path: the file to read.
        key: the configuration key or option that names the file, for the message.
        published_at: the address where such a file is published, for the message.

    Raises:
        FileNotFoundError: the file is absent, or `path` is empty.
        ValueError: the file is not a dictionary that loads safely. A TorchScript file, which is a program, is none.
    """
    require_torch()
    import torch  # Files are written where there is no PyTorch, too.

    hint = f" It is published at {published_at}." if published_at else ""
    if not str(path) or not Path(path).is_file():
        raise FileNotFoundError(f"{key} names the checkpoint '{path}', which does not exist.{hint}")
    reason = damage(path)
    if reason:
        raise ValueError(f"{key}: '{path}' is damaged: {reason}.{hint}")
    try:
        if Path(path).suffix == ".safetensors":
            content = require_extra("safetensors.torch", "transformers").load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a value of the type {type(content).__name__} and no dictionary")
    except Exception as error:  # Damaged bytes raise many types: struct.error, IndexError, AssertionError, MemoryError.
        raise ValueError(
            f"{key}: '{path}' is not a checkpoint that loads safely ({first_line(error)}).{hint}"
        ) from error
    return content


def require_tensors(state: Any, path: str | os.PathLike) -> dict:
    """Return a state dict, which maps names to tensors or arrays.

    Raises:
        ValueError: `state` is empty or something else; the message names `path`.
    """
    import torch

    if not isinstance(state, dict):
        raise ValueError(
            f"'{path}' holds a value of the type {type(state).__name__} where the weights of a network are expected."
        )
    if not state:
        raise ValueError(f"'{path}' holds no weights.")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, (torch.Tensor, np.ndarray)):
            wrong = f"a value of the type {type(value).__name__} as '{name}'"
            raise ValueError(f"'{path}' holds {wrong} where a tensor is expected.")
    return state
