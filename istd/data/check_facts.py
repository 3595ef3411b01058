"""What the files of an image hold, for the check of data sets; facts of large sets are kept between checks."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np

from d2kit.files import atomic_write
from istd.data.frames import split_frame
from istd.data.images import read_infrared, read_mask
from istd.data.polarity import orient
from istd.data.sensor import RANGES
from istd.data.spots import Spot, spots_at
from istd.pseudo_masks.initialize import initialize_mask, is_easy

FORMAT = 1
LARGE = 500  # Sets of so many images are read in seconds once their facts are kept.
NEAR = 3  # A point belongs to a mask that is at most this many pixels away.


@dataclass(frozen=True)
class Reading:
    """How a check reads images.

    Attributes:
        value_range: range of raw values, see `read_infrared`.
        polarity: ISTD.INPUT.POLARITY.
        scale: size of the targets in multiples of the published one.
        easy_share: ISTD.LABELS.EASY_SHARE.
    """

    value_range: str = RANGES[0]
    polarity: str = "bright"
    scale: float = 1.0
    easy_share: float = 0.8


@dataclass(frozen=True)
class Facts:
    """What the files of one image hold.

    Attributes:
        image_error, mask_error: sentence of the fault, or "".
        notes: repairs and warnings of reading, as (level, name, sentence, count).
        digest: hash of the gray values; "" for an image of one value.
        mask_share: share of target pixels in the mask, or -1 without a mask.
        points_off: points that lie further than NEAR from the mask.
        spots: spot at each point.
        easy: whether the image has first masks.
    """

    image_error: str = ""
    mask_error: str = ""
    notes: list[tuple[str, str, str, int]] = field(default_factory=list)
    digest: str = ""
    mask_share: float = -1.0
    points_off: int = 0
    spots: list[Spot] = field(default_factory=list)
    easy: bool = True

    @classmethod
    def from_fields(cls, fields: dict) -> "Facts":
        """Return the facts whose fields a json kept."""
        spots = [Spot(**spot) for spot in fields["spots"]]
        notes = [tuple(note) for note in fields["notes"]]
        return cls(**{**fields, "spots": spots, "notes": notes})


def read_facts(records: Sequence[dict], reading: Reading, name: str) -> list[Facts]:
    """Return the facts of each dataset dict of the data set `name`.

    Sets of at least LARGE images keep their facts under XDG_CACHE_HOME (default ~/.cache). They are read again where
    the size or the time of a file, the points or `reading` changed.
    """
    path = _cache_file(name, reading)
    kept = _load(path) if len(records) >= LARGE else {}
    facts = {}
    for record in records:
        stamp = _stamp(record)
        old = kept.get(record["file_name"])
        facts[record["file_name"]] = (stamp, old[1] if old and old[0] == stamp else _read(record, reading))
    if len(records) >= LARGE and facts != kept:
        content = {file: [stamp, asdict(item)] for file, (stamp, item) in facts.items()}
        with contextlib.suppress(OSError), atomic_write(path, "w") as file:  # A check does not need the cache.
            json.dump({"format": FORMAT, "facts": content}, file)
    return [facts[record["file_name"]][1] for record in records]


def _cache_file(name: str, reading: Reading) -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "istd")
    text = f"{os.getcwd()} {name} {reading}"
    return folder / f"check-{hashlib.blake2b(text.encode(), digest_size=8).hexdigest()}.json"


def _load(path: Path) -> dict[str, tuple[str, Facts]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            return {}
        return {file: (stamp, Facts.from_fields(item)) for file, (stamp, item) in content["facts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _stamp(record: dict) -> str:
    """Return what the facts of an image depend on: sizes and times of its files, and its points."""
    parts = [str(record.get("points"))]
    for key in ("file_name", "mask_file"):
        file, _ = split_frame(record.get(key, ""))
        if file.is_file():
            stat = os.stat(file)
            parts.append(f"{record[key]} {stat.st_size} {stat.st_mtime_ns}")
    return "; ".join(parts)


def _read(record: dict, reading: Reading) -> Facts:
    points = record.get("points") or []
    facts = {"notes": []}

    def report(*note) -> None:
        facts["notes"].append(note)

    try:
        gray = read_infrared(record["file_name"], reading.value_range, report)
    except (ValueError, OSError) as error:
        facts["image_error"] = str(error)
    else:
        if gray.min() < gray.max():
            facts["digest"] = hashlib.blake2b(repr(gray.shape).encode() + gray.tobytes(), digest_size=16).hexdigest()
        gray = orient(gray, reading.polarity)
        facts["spots"] = spots_at(gray, points)
        both = reading.polarity == "both"
        facts["easy"] = is_easy(initialize_mask(gray, points, scale=reading.scale, both=both)[1], reading.easy_share)
    if "mask_file" in record:
        try:
            mask = read_mask(record["mask_file"], report)
        except (ValueError, OSError) as error:
            facts["mask_error"] = str(error)
        else:
            facts["mask_share"] = float(mask.mean())
            facts["points_off"] = _points_off(mask, points)
    return Facts(**facts)


def _points_off(mask: np.ndarray, points: Sequence[Sequence[int]]) -> int:
    if not points:
        return 0
    near = cv2.dilate(mask, np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8))
    return sum(not near[y, x] for x, y in points)
