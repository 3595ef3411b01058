"""Where readers of images and masks tell what they repaired: a function (level, name, sentence, count)."""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

Report = Callable[[str, str, str, int], None]
_logged: set[tuple[str, str]] = set()  # levels and names, because a training reads each file many times


def log_once(level: str, name: str, sentence: str, count: int = 1) -> None:
    """Log the first sentence of a kind in this process, and none of the same kind that follow.

    Args:
        level: "repaired" or "warning".
        name: what such sentences have in common.
        sentence: sentence that names the file.
        count: number of pixels or files that it is about, which collections add up.
    """
    if (level, name) not in _logged:
        _logged.add((level, name))
        logger.warning("%s Others with %s are not named.", sentence, name)
