"""labels.json in COCO format: it grows as lines, is finished at once, and is merged from shards.

`labels.jsonl` has a line for each image while a labeling runs, and a first line that tells what it is of. A killed
labeling goes on behind the last whole line. Shards have names such as `labels.2-of-4.json`.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from d2kit.files import append_text, atomic_write, whole_lines
from s4m.data.coco import read_json

# These parts of `info` are results, and no settings.
RESULTS = ("calibration", "left_out")


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def label_file(output: str | os.PathLike, shard: tuple[int, int] = (1, 1)) -> Path:
    """Return the path of the labels of a shard (number from 1, count); of one shard in all it is labels.json."""
    number, count = shard
    return Path(output, "labels.json" if count == 1 else f"labels.{number}-of-{count}.json")


def require_same_labeling(before: Mapping[str, Any], info: Mapping[str, Any], path: Path) -> None:
    """Raise ValueError if a file has labels of another labeling; the sentence names what differs."""
    names = (before.keys() | info.keys()) - set(RESULTS)
    changed = sorted(name for name in names if before.get(name) != info.get(name))
    if "settings" in changed:
        old, new = before.get("settings", {}), info["settings"]
        changed.remove("settings")
        changed += sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
    if changed:
        raise ValueError(
            f"'{path}' has labels of another labeling, which differs in {', '.join(changed)}: choose another --output."
        )


def read_info(path: Path) -> dict[str, Any]:
    """Return the `info` of a file of `write_labels`, which is its first line, without reading the rest.

    Raises:
        ValueError: another program wrote the file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.loads(file.readline().rstrip(",\n") + "}")["info"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{path}' is no file of `s4m label`: choose another --output.") from error


def write_labels(path: Path, head: Mapping[str, Any], images: Iterable[dict], annotations: Iterable[dict]) -> None:
    """Write a COCO json with a line for each record, without holding the records; annotations are numbered from 1.

    Args:
        path: the file, written as a whole or not at all.
        head: `info` and `categories`.
        images: records of the images, ordered by id.
        annotations: annotations in the order of their images.
    """
    numbered = ({"id": number, **annotation} for number, annotation in enumerate(annotations, 1))
    with atomic_write(path, "w") as file:
        file.write(f'{{"info":{_text(head["info"])},\n"categories":{_text(head["categories"])}')
        for name, records in (("images", images), ("annotations", numbered)):
            file.write(f',\n"{name}":[')
            for number, record in enumerate(records):
                file.write((",\n" if number else "\n") + _text(record))
            file.write("]")
        file.write("}\n")


class LabelLines:
    """The lines of a labeling that is not finished.

    Args:
        path: the file of the labels; the lines are beside it, with the suffix .jsonl.
    """

    def __init__(self, path: Path):
        self.labels = path
        self.path = path.with_suffix(".jsonl")

    def head(self) -> dict[str, Any] | None:
        """Return the first line, None where there is none.

        Raises:
            ValueError: another program wrote the file.
        """
        try:
            first = next(whole_lines(self.path)) if self.path.is_file() else None
            return None if first is None else dict(json.loads(first))
        except StopIteration:
            return None
        except (ValueError, TypeError) as error:
            raise ValueError(f"'{self.path}' is no file of `s4m label`: choose another --output.") from error

    def begin(self, head: Mapping[str, Any]) -> None:
        """Write the first line into a new file."""
        self.path.unlink(missing_ok=True)
        self.append(head)

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record: of the head, or of an image."""
        append_text(self.path, _text(record) + "\n")

    def mend(self) -> int:
        """Cut off a last line that a kill left unfinished, and return the number of images that are done."""
        lines, size = 0, 0
        for line in whole_lines(self.path):
            lines += 1
            size += len(line.encode()) + 1
        os.truncate(self.path, size)
        return lines - 1

    def _images(self) -> Iterator[dict]:
        lines = whole_lines(self.path)
        next(lines)
        yield from map(json.loads, lines)

    def finish(self) -> dict[str, str]:
        """Write the labels in the place of the lines; returns the reason for each image that was left out."""
        head = self.head()
        failed = {line["failed"]: line["reason"] for line in self._images() if "failed" in line}
        head["info"]["left_out"] = list(failed)
        images = (line["image"] for line in self._images() if "image" in line)
        annotations = (annotation for line in self._images() for annotation in line.get("annotations", ()))
        write_labels(self.labels, head, images, annotations)
        self.path.unlink()
        return failed


def merge_shards(output: str | os.PathLike, count: int) -> Path | None:
    """Merge the shards in a folder into labels.json, which is that of one labeling of all images, once all are there.

    Returns:
        the path of labels.json; None where a shard is missing.

    Raises:
        ValueError: the shards, or a labels.json that is there, are of different labelings.
    """
    paths = [label_file(output, (number, count)) for number in range(1, count + 1)]
    if not all(path.is_file() for path in paths):
        return None
    merged = label_file(output)
    contents = [read_json(path) for path in paths]
    info = contents[0]["info"]
    for path, content in zip(paths, contents, strict=True):
        require_same_labeling(content["info"], info, path)
    if merged.is_file():
        require_same_labeling(read_info(merged), info, merged)
    left_out = sorted(name for content in contents for name in content["info"]["left_out"])
    head = {"info": info | {"left_out": left_out}, "categories": contents[0]["categories"]}
    images = sorted((image for content in contents for image in content["images"]), key=lambda image: image["id"])
    annotations = [annotation for content in contents for annotation in content["annotations"]]
    annotations.sort(key=lambda annotation: (annotation["image_id"], annotation.pop("id")))
    write_labels(merged, head, images, annotations)
    return merged
