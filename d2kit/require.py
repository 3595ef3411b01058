"""Checks that raise a clear error when Detectron2, OpenCV or an optional library is missing or too old."""

import importlib
import importlib.util
import re
from types import ModuleType

MINIMUM_VERSION = (0, 6)
MINIMUM_TORCH = (2, 6)


def require_detectron2(package: str) -> None:
    """Raise an ImportError that names `package`, which needs Detectron2, if it is missing or older than 0.6."""
    minimum = ".".join(map(str, MINIMUM_VERSION))
    try:
        import detectron2
    except ImportError as error:
        raise ImportError(
            f"{package} needs Detectron2 {minimum} or newer, which is not installed: see 'Install' in the README."
        ) from error
    version = getattr(detectron2, "__version__", "0")
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if numbers < MINIMUM_VERSION:
        raise ImportError(f"{package} needs Detectron2 {minimum} or newer, but {version} is installed.")


def require_torch() -> None:
    """Raise an ImportError if PyTorch is older than 2.6, whose `weights_only=True` runs code (CVE-2025-32434)."""
    import torch

    if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < MINIMUM_TORCH:
        minimum = ".".join(map(str, MINIMUM_TORCH))
        raise ImportError(
            f"PyTorch {minimum} or newer is needed, as older versions run code from checkpoints that are loaded with "
            f"weights_only=True, but {torch.__version__} is installed."
        )


def require_opencv() -> None:
    """Raise an ImportError if no build of OpenCV provides the module cv2."""
    if importlib.util.find_spec("cv2") is None:
        raise ImportError(
            "OpenCV is not installed: `pip install opencv-python`, or opencv-python-headless on a machine without a "
            "display."
        )


def require_extra(module: str, extra: str) -> ModuleType:
    """Import an optional library, or raise an ImportError that names the extra of this project that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is not installed: `pip install {module}`, or install this project with the extra [{extra}]."
        ) from error
