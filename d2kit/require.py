"""Clear errors when Detectron2, OpenCV or an optional library is missing or too old."""

import importlib
import importlib.util
import re
from types import ModuleType

MINIMUM = (0, 6)


def require_detectron2(package: str) -> None:
    """Raise ImportError, naming the package that needs it, if Detectron2 is missing or older than 0.6."""
    wanted = ".".join(map(str, MINIMUM))
    try:
        import detectron2
    except ImportError as error:
        raise ImportError(
            f"{package} needs Detectron2 {wanted} or newer, which is not installed: see 'Install' in the README."
        ) from error
    version = getattr(detectron2, "__version__", "0")
    numbers = tuple(int(n) for n in re.findall(r"\d+", version)[:2])
    if numbers < MINIMUM:
        raise ImportError(f"{package} needs Detectron2 {wanted} or newer, but {version} is installed.")


def require_opencv() -> None:
    """Raise ImportError if no build of OpenCV provides the module cv2."""
    if importlib.util.find_spec("cv2") is None:
        raise ImportError(
            "OpenCV is not installed: `pip install opencv-python`, or opencv-python-headless on a machine without a "
            "display."
        )


def require_extra(module: str, extra: str) -> ModuleType:
    """Import an optional library; if it is missing, an ImportError names this project's extra that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{module} is not installed: `pip install {module}`, or install this project with the extra [{extra}]."
        ) from error
