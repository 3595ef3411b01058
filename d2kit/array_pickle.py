"""A reader of pickles of numeric arrays, the format of Detectron2's model zoo, that builds nothing else."""

import io
import math
import os
import pickle
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np


class _NumberType:
    """Stands in for `numpy.dtype`: a type of plain numbers, whose byte order alone may be set."""

    def __init__(self, code: str, align: bool = False, copy: bool = False):
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"it holds values of the type {code!r}, which are no plain numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"it holds numbers of the byte order {state[1]!r}")
        if state[1] != "|":
            self.dtype = self.dtype.newbyteorder(state[1])


class _NumberArray(np.ndarray):
    """Stands in for `numpy.ndarray`: its state may only be as many plain numbers as its shape says."""

    def __setstate__(self, state: tuple) -> None:
        _, shape, number_type, is_fortran, content = state
        dtype = _checked_type(number_type)
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2 wrote bytes as text.
        if not isinstance(content, bytes) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise pickle.UnpicklingError("it holds an array of no plain numbers")
        if math.prod(shape) * dtype.itemsize != len(content):
            raise pickle.UnpicklingError(f"it holds {len(content)} bytes for an array of the shape {shape}")
        super().__setstate__((1, shape, dtype, bool(is_fortran), content))


def _checked_type(number_type: Any) -> np.dtype:
    if not isinstance(number_type, _NumberType):
        raise pickle.UnpicklingError("it holds an array without a type of numbers")
    return number_type.dtype


def _new_array(*_: Any) -> np.ndarray:
    return np.ndarray.__new__(_NumberArray, (0,), np.uint8)


def _new_scalar(number_type: _NumberType, content: bytes | str) -> np.generic:
    content = content.encode("latin1") if isinstance(content, str) else content
    return np.frombuffer(content, _checked_type(number_type), count=1)[0]


def _latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it names the encoding {encoding!r}")
    return text.encode(encoding)


_STAND_INS = {
    "numpy._core.multiarray._reconstruct": _new_array,
    "numpy._core.multiarray.scalar": _new_scalar,
    "numpy.ndarray": "numpy.ndarray",
    "numpy.dtype": _NumberType,
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _latin1,
    "__builtin__.bytes": lambda: b"",  # Older protocols write no bytes by a call.
}


# The unpickler in C reserves as much memory as an index in the file says; the one in Python has a dictionary.
class _ArrayUnpickler(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}".replace("numpy.core.", "numpy._core.")  # NumPy 1 wrote the former name.
        if full_name not in _STAND_INS:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which a file of weights does not need")
        return _STAND_INS[full_name]


def load_array_pickle(path: str | os.PathLike, key: str) -> dict:
    """Load a pickle of a dictionary of strings, numbers and arrays of plain numbers; nothing in it is run.

    Args:
        path: the file to read.
        key: the configuration key that names the file, for the message.

    Raises:
        ValueError: the file is damaged or holds something else, such as arrays of objects or structures.
    """
    try:
        # A file that is read whole is cut off where it ends, however long it says that its content is.
        content = _ArrayUnpickler(io.BytesIO(Path(path).read_bytes()), encoding="latin1").load()
        if not isinstance(content, dict):
            raise pickle.UnpicklingError(f"it holds a value of the type {type(content).__name__} and no dictionary")
    except Exception as error:  # Damaged bytes raise many types: IndexError, KeyError, struct.error, TypeError.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{key}: '{path}' is not a safe pickle of arrays ({reason}).") from error
    return content
