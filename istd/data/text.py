"""Text files in the encodings that annotation tools write."""

import codecs
import os
from pathlib import Path

_MARKS = (  # The mark of UTF-32 begins with that of UTF-16, so it is looked for first.
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PROBED_BYTES = 1000


def read_text(path: str | os.PathLike) -> str:
    """Read a text file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark, or else in Windows-1252.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is binary; the message names it.
    """
    data = Path(path).read_bytes()
    try:
        text = data.decode(_encoding(data))
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")
    if "\0" in text:
        raise ValueError(f"{os.fspath(path)} is not a text file.")
    return text


def _encoding(data: bytes) -> str:
    """Return the encoding by the byte order mark, or by the zero bytes that UTF-16 has in Latin text."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    probe = data[: _PROBED_BYTES // 2 * 2]
    even_zeros = probe[::2].count(0)
    odd_zeros = probe[1::2].count(0)
    if max(even_zeros, odd_zeros) > len(probe) / 4:
        return "utf-16-le" if odd_zeros > even_zeros else "utf-16-be"
    return "utf-8"
