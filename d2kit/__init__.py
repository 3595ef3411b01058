"""What `s4m` and `istd` both need: Detectron2 check, atomic files, seeded loading, resumable training."""

from d2kit.require import require_detectron2

__all__ = ["require_detectron2"]
