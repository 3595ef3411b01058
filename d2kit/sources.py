"""The files that a detection run reads: images and sequences, also in folders, each with a unique name for results."""

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from d2kit.files import unused_name
from d2kit.videos import VIDEOS

DOCUMENT = "detections.json"
LINES = "detections.jsonl"  # It stands for the former until a run ends.


@dataclass(frozen=True)
class Source:
    """A file to read.

    Attributes:
        path: path of the file.
        name: unique name of the file's results: its path below the folder that was given, without extension.
        is_sequence: whether the file holds several frames: a video, or a TIFF file or an array of several images.
        file_name: its path below the folder that was given, or its name alone.
    """

    path: Path
    name: str
    is_sequence: bool
    file_name: str = ""


def find_sources(
    inputs: Iterable[str | os.PathLike],
    output: str | os.PathLike,
    results: Collection[str],
    suffixes: Collection[str],
    count_frames: Callable[[Path], int] = lambda path: 1,
) -> tuple[list[Source], dict[str, str]]:
    """List the images and videos among files and in folders and their subfolders, in order, without hidden files.

    Args:
        inputs: files and folders.
        output: folder of the run.
        results: folders in it, and in those of other runs, that hold results, which are not listed.
        suffixes: suffixes of images, in small letters.
        count_frames: function that counts the images in a file of such a suffix.

    Returns:
        the sources, and the reason for each input that has none.

    Raises:
        ValueError: an input lies in the results, which a run replaces.
    """
    written = {Path(output, name).resolve() for name in results}
    sources: dict[str, Source] = {}
    refused = {}
    for given in map(Path, inputs):
        if not written.isdisjoint([given.resolve(), *given.resolve().parents]):
            raise ValueError(f"{given} lies in the results of an earlier run: choose another --output.")
        files = _visible_files(given) if given.is_dir() else [given]
        runs = (path.parent for path in files if path.name in (DOCUMENT, LINES))
        others = {Path(run, name).resolve() for run in runs for name in results}
        known = [
            path
            for path in files
            if path.suffix.lower() in (*suffixes, *VIDEOS)
            and path.is_file()
            and (written | others).isdisjoint(path.resolve().parents)
        ]
        if not known and given.is_dir():
            refused[str(given)] = f"the folder {given} holds no image and no video."
        elif not known:
            problem = "is neither an image nor a video" if given.exists() else "does not exist"
            refused[str(given)] = f"{given} {problem}."
        for path in known:
            below = path.relative_to(given) if given.is_dir() else Path(path.name)
            name = unused_name(below.with_suffix("").as_posix(), sources)
            is_sequence = path.suffix.lower() in VIDEOS or count_frames(path) > 1
            sources[name] = Source(path, name, is_sequence, below.as_posix())
    return list(sources.values()), refused


def _visible_files(folder: Path) -> list[Path]:
    """Return the files below a folder in order, without hidden files and what is in hidden folders."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in paths if not any(part[0] == "." for part in path.relative_to(folder).parts))
