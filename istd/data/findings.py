"""Faults of data, collected instead of raised, so that all of them are told at once."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

LEVELS = ("error", "repaired", "warning")  # An error is refused; the others do not stop a training.
SHOWN = 3  # examples of one cause
_logged: set[str] = set()  # first examples of logged causes, because a training reads its data several times


@dataclass
class Cause:
    """All faults of one kind.

    Attributes:
        level: one of LEVELS.
        name: what is affected, in the plural.
        count: number of faults.
        sentences: number of sentences about them, each of which may be about several.
        examples: the first sentences, each of which names a file.
        error: the first exception, for errors.
    """

    level: str
    name: str
    count: int = 0
    sentences: int = 0
    examples: list[str] = field(default_factory=list)
    error: Exception | None = None

    def __str__(self) -> str:
        more = f" ({self.count} {self.name})" if self.sentences > 1 else ""
        return f"{self.examples[0]}{more}"


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
        cause.sentences += 1
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
            mine.sentences += cause.sentences
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
        """Write repairs and warnings to the log, one line a cause; a cause that the process told is left out."""
        for cause in self:
            if cause.level != "error" and cause.examples[0] not in _logged:
                _logged.add(cause.examples[0])
                logging.getLogger(name).warning("%s", cause)

    def lines(self) -> list[str]:
        """Return a line for each cause, which says its level and count, and below it the examples."""
        lines = []
        for cause in self:
            lines.append(f"{cause.level}: {cause.name} ({cause.count})")
            lines += [f"    {example}" for example in cause.examples]
            if cause.sentences > len(cause.examples):
                lines.append(f"    and {cause.sentences - len(cause.examples)} more")
        return lines
