"""Faults of data, collected instead of raised, so that all of them are told at once."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

LEVELS = ("error", "repaired", "warning")  # An error is refused; the others do not stop a training.
SHOWN = 3  # examples of one cause
_logged: set[tuple[str, str]] = set()  # loggers and lines, because a training reads its data several times


@dataclass
class Cause:
    """All faults of one kind.

    Attributes:
        level: one of LEVELS.
        name: what the faults have in common, without a verb.
        count: number of faults.
        examples: the first sentences, each of which names a file.
        error: the first exception, for errors.
    """

    level: str
    name: str
    count: int = 0
    examples: list[str] = field(default_factory=list)
    error: Exception | None = None

    def __str__(self) -> str:
        more = f" (and {self.count - len(self.examples)} more)" if self.count > len(self.examples) else ""
        return f"{self.name}, {self.count}: {' '.join(self.examples)}{more}"


class Findings:
    """Faults by level and cause, in the order in which they were found."""

    def __init__(self):
        self._causes: dict[tuple[str, str], Cause] = {}

    def __iter__(self) -> Iterator[Cause]:
        """Iterate over the causes: errors first, then repairs, then warnings."""
        return iter(sorted(self._causes.values(), key=lambda cause: LEVELS.index(cause.level)))

    def __bool__(self) -> bool:
        return bool(self._causes)

    def add(self, level: str, name: str, sentence: str | Exception, count: int = 1) -> None:
        """Add `count` faults of one cause; an error may be given as the exception that it would raise."""
        cause = self._causes.setdefault((level, name), Cause(level, name))
        cause.count += count
        if len(cause.examples) < SHOWN:
            cause.examples.append(str(sentence))
        if cause.error is None and level == "error":
            cause.error = sentence if isinstance(sentence, Exception) else ValueError(sentence)

    def take(self, other: "Findings", prefix: str = "") -> None:
        """Add the faults of another collection, with a prefix before the names of the causes."""
        for cause in other:
            name = f"{prefix}{cause.name}"
            mine = self._causes.setdefault((cause.level, name), Cause(cause.level, name, error=cause.error))
            mine.count += cause.count
            mine.examples = [*mine.examples, *cause.examples][:SHOWN]

    @property
    def errors(self) -> list[Cause]:
        """The causes whose level is error."""
        return [cause for cause in self if cause.level == "error"]

    def raise_first(self) -> None:
        """Raise the first error, if there is one."""
        for cause in self.errors:
            raise cause.error

    def log(self, name: str) -> None:
        """Write repairs and warnings to the log, one line a cause; a line that the process wrote is left out."""
        for cause in self:
            line = str(cause)
            if cause.level != "error" and (name, line) not in _logged:
                _logged.add((name, line))
                logging.getLogger(name).warning("%s", line)

    def lines(self) -> list[str]:
        """Return one line a cause, which begins with its level."""
        return [f"{cause.level + ':':10}{cause}" for cause in self]
