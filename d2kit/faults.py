"""Faults of input data are collected with their counts and first examples, and told as sentences."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

ERROR = "error"  # the data are refused
REPAIRED = "repaired"  # the data are read as they were meant
WARNING = "warning"  # the data are read, and their user should know
LEVELS = (ERROR, REPAIRED, WARNING)
_EXAMPLES = 3  # of each fault
_VERBS = ("lists ", "holds ")  # at the beginning of sentences whose subject is the file

logger = logging.getLogger(__name__)

Report = Callable[[str, str, str, int], None]  # `Faults.add` or `log_once`
_logged: set[tuple[str, str]] = set()  # levels and headlines, because a training reads each file many times


@dataclass
class Fault:
    """All faults of one kind.

    Attributes:
        level: one of LEVELS.
        headline: what is wrong, without the record that shows it; it says all if there is no example.
        count: number of the records that show it.
        examples: sentences about the first of these records.
    """

    level: str
    headline: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.examples:
            return self.headline
        return f"{self.headline}: {self.count}, for example {'; '.join(self.examples)}"


class Faults:
    """The faults of one file, folder or configuration key.

    Attributes:
        where: name of the file, folder or key, for messages; may be empty if the examples name it.
    """

    def __init__(self, where: str = "") -> None:
        self.where = where
        self._faults: dict[tuple[str, str], Fault] = {}
        self._error_type: type[Exception] = ValueError

    def __iter__(self) -> Iterator[Fault]:
        """Iterate over errors, then repairs, then warnings, each in the order in which they were seen."""
        return iter(sorted(self._faults.values(), key=lambda fault: LEVELS.index(fault.level)))

    def add(self, level: str, headline: str, example: str | Exception = "", count: int = 1) -> None:
        """Count a fault; faults of one level and headline are told together."""
        fault = self._faults.setdefault((level, headline), Fault(level, headline))
        fault.count += count
        if str(example) and len(fault.examples) < _EXAMPLES:
            fault.examples.append(str(example))

    def error(self, headline: str, example: str | Exception) -> None:
        """Add a fault for which the data are refused; the example may be the exception that it would raise."""
        if not self.of(ERROR) and isinstance(example, FileNotFoundError):
            self._error_type = FileNotFoundError
        self.add(ERROR, headline, example)

    def repaired(self, headline: str, example: str = "", count: int = 1) -> None:
        """Add a fault that was repaired."""
        self.add(REPAIRED, headline, example, count)

    def warning(self, headline: str, example: str = "", count: int = 1) -> None:
        """Add a fault that stays."""
        self.add(WARNING, headline, example, count)

    def of(self, level: str) -> list[Fault]:
        """Return the faults of a level in the order in which they were seen."""
        return [fault for fault in self._faults.values() if fault.level == level]

    def refuse(self) -> None:
        """Raise the first error, if there is one, as a sentence that counts the others.

        Raises:
            FileNotFoundError, ValueError: there is an error; the first if a file is absent.
        """
        errors = self.of(ERROR)
        if not errors:
            return
        others = sum(fault.count for fault in errors) - 1
        more = f" ({others} more: the command check lists all)" if others else ""
        sentence = errors[0].examples[0]
        colon = "" if sentence.startswith(_VERBS) else ":"
        raise self._error_type(f"{self.where}{colon} {sentence}{more}" if self.where else f"{sentence}{more}")

    def log(self) -> None:
        """Log a line for each fault that was repaired or stays."""
        for fault in self:
            if fault.level != ERROR:
                logger.warning("%s%s", f"{self.where}: " if self.where else "", fault)

    def lines(self) -> list[str]:
        """Return what `check` prints: where, a line with level and count for each fault, and its examples below it."""
        lines = [f"{self.where}:"]
        for fault in self:
            lines.append(f"  {fault.level}: {fault.headline}" + f" ({fault.count})" * bool(fault.examples))
            lines += [f"    {example}" for example in fault.examples]
        return lines if len(lines) > 1 else [*lines, "  no fault"]


def log_once(level: str, headline: str, sentence: str, count: int = 1) -> None:
    """Log the first sentence of a headline in this process, and none of the same headline that follow.

    Args:
        level: REPAIRED or WARNING.
        headline: what such sentences have in common.
        sentence: sentence that names the file.
        count: number of pixels or files that it is about, which collections add up.
    """
    if (level, headline) not in _logged:
        _logged.add((level, headline))
        logger.warning("%s Others with %s are not named.", sentence, headline)
