"""The parts that `s4m` and `istd` share: checks of libraries, atomic files, seeded loading, resumable training."""

from d2kit.require import require_detectron2, require_opencv

__version__ = "0.2.0"
__all__ = ["__version__", "require_detectron2"]

require_opencv()
