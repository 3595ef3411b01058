"""Faults of input data are collected with their counts and first examples, and told as sentences."""

import logging
from typing import NamedTuple

_VERBS = ("lists ", "holds ")  # at the beginning of sentences whose subject is the file
_EXAMPLES = 3  # of each fault
ERROR = "error"  # the data are refused
REPAIRED = "repaired"  # the data are read as they were meant
WARNING = "warning"  # the data are read, and their user should know


class Fault(NamedTuple):
    """One fault.

    Attributes:
        level: ERROR, REPAIRED or WARNING.
        headline: what is wrong, without the record that shows it; empty if the example says all.
        count: number of the records that show it.
        examples: sentences about the first of these records.
    """

    level: str
    headline: str
    count: int
    examples: tuple[str, ...]


class Faults:
    """The faults of one file or folder.

    Attributes:
        where: name of the file or folder, for messages.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._counts: dict[tuple[str, str], int] = {}
        self._examples: dict[tuple[str, str], list[str]] = {}
        self._error_type: type[Exception] = ValueError

    def add(self, level: str, headline: str, example: str = "", count: int = 1) -> None:
        """Count a fault; faults of one level and headline are told together."""
        key = (level, headline)
        self._counts[key] = self._counts.get(key, 0) + count
        examples = self._examples.setdefault(key, [])
        if example and len(examples) < _EXAMPLES:
            examples.append(example)

    def error(self, headline: str, example: str, error_type: type[Exception] = ValueError) -> None:
        """Add a fault for which the data are refused; `error_type` of the first one is what `refuse` raises."""
        if not self.of(ERROR):
            self._error_type = error_type
        self.add(ERROR, headline, example)

    def repaired(self, headline: str, example: str = "", count: int = 1) -> None:
        """Add a fault that was repaired."""
        self.add(REPAIRED, headline, example, count)

    def warning(self, headline: str, example: str = "", count: int = 1) -> None:
        """Add a fault that stays."""
        self.add(WARNING, headline, example, count)

    def of(self, level: str) -> list[Fault]:
        """Return the faults of a level in the order in which they were seen."""
        return [
            Fault(level, headline, count, tuple(self._examples[level, headline]))
            for (this, headline), count in self._counts.items()
            if this == level
        ]

    def sentences(self, level: str) -> list[str]:
        """Return a sentence for each fault of a level: its headline, and its count and examples if there are any."""
        sentences = []
        for fault in self.of(level):
            examples = "; ".join(fault.examples)
            sentences.append(f"{fault.headline}: {fault.count}, for example {examples}" if examples else fault.headline)
        return sentences

    def refuse(self) -> None:
        """Raise the first error, if there is one, as a sentence that counts the others."""
        errors = self.of(ERROR)
        if not errors:
            return
        others = sum(fault.count for fault in errors) - 1
        more = f" ({others} more: the command check lists all)" if others else ""
        sentence = errors[0].examples[0]
        colon = "" if sentence.startswith(_VERBS) else ":"
        raise self._error_type(f"{self.where}{colon} {sentence}{more}")

    def log(self, logger: logging.Logger) -> None:
        """Log a line for each fault that was repaired or stays."""
        for level in (REPAIRED, WARNING):
            for sentence in self.sentences(level):
                logger.warning("%s: %s", self.where, sentence)
