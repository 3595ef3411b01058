"""The file review.json, in which a page saves what a person decided."""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

DECISIONS = ("accept", "reject", "other", "class")


class Decision(NamedTuple):
    """What a person decided on a row.

    Attributes:
        kind: "accept", "reject", "other" (the row's other mask takes the place of its mask) or "class".
        label: name of the new class for "class", else None.
    """

    kind: str
    label: str | None = None


def check_sum(files: Sequence[str | os.PathLike], text: str = "") -> str:
    """Return the SHA-256 of a text and the contents of files, in their order."""
    digest = hashlib.sha256(text.encode("utf-8", "backslashreplace"))
    for path in files:
        digest.update(hashlib.sha256(Path(path).read_bytes()).digest())
    return digest.hexdigest()


def read_review(path: str | os.PathLike, source: str) -> dict[str, Decision]:
    """Read the decisions by the names of their rows.

    Args:
        path: file that a page saved.
        source: check sum of the labels that the decisions are to be applied to.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a review, or one of other labels; the message names it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        decisions = {name: Decision(item["decision"], item.get("class")) for name, item in content["decisions"].items()}
        of_source = content["source"]
    except FileNotFoundError as error:
        raise FileNotFoundError(f"the review '{path}' does not exist.") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"'{path}' is not a review that an audit page saved.") from error
    for name, decision in decisions.items():
        if decision.kind not in DECISIONS or (decision.kind == "class") != isinstance(decision.label, str):
            raise ValueError(f"'{path}': the decision on row '{name}' is none of {', '.join(DECISIONS)}.")
    if of_source != source:
        raise ValueError(f"'{path}' is a review of other labels: their files have changed, or were named otherwise.")
    return decisions
