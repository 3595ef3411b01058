"""The values that configuration keys may have: a table a package, checked before anything is built.

A table maps the full name of a key to an interval such as "[0, 1)", where a square bracket includes its end and "inf"
is an open end, or to a tuple of the strings that the key may be.
"""

import re
from collections.abc import Mapping
from functools import reduce
from typing import Any

from detectron2.config import CfgNode

Allowed = str | tuple[str, ...]

# Keys of Detectron2 that every training reads.
DETECTRON2_VALUES: dict[str, Allowed] = {
    "DATALOADER.NUM_WORKERS": "[0, inf)",
    "DATALOADER.REPEAT_THRESHOLD": "[0, inf)",
    "INPUT.MAX_PIXELS": "[1, inf)",
    "INPUT.RANDOM_FLIP": ("none", "horizontal", "vertical"),
    "MODEL.PIXEL_MEAN": "(-inf, inf)",
    "MODEL.PIXEL_STD": "[1e-6, inf)",
    "SEED": "[-1, 2147483647]",
    "SOLVER.ACCUMULATE": "[1, inf)",
    "SOLVER.BASE_LR": "[0, inf)",
    "SOLVER.BASE_LR_END": "[0, inf)",
    "SOLVER.BIAS_LR_FACTOR": "[0, inf)",
    "SOLVER.CHECKPOINT_PERIOD": "[1, inf)",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": "(0, inf)",
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": "(0, inf]",
    "SOLVER.GAMMA": "(0, inf)",
    "SOLVER.IMS_PER_BATCH": "[1, inf)",
    "SOLVER.MAX_ITER": "[1, inf)",
    "SOLVER.MOMENTUM": "[0, 1)",
    "SOLVER.NUM_DECAYS": "[0, inf)",
    "SOLVER.REFERENCE_WORLD_SIZE": "[0, inf)",
    "SOLVER.STEPS": "[0, inf)",
    "SOLVER.WARMUP_FACTOR": "[0, 1]",
    "SOLVER.WARMUP_ITERS": "[0, inf)",
    "SOLVER.WEIGHT_DECAY": "[0, inf)",
    "SOLVER.WEIGHT_DECAY_NORM": "[0, inf)",
    "TEST.AUG.MAX_SIZE": "[1, inf)",
    "TEST.AUG.MIN_SIZES": "[1, inf)",
    "TEST.DETECTIONS_PER_IMAGE": "[1, 10000]",
    "TEST.EVAL_PERIOD": "[0, inf)",
    "TEST.PRECISE_BN.NUM_ITER": "[1, inf)",
    "VIS_PERIOD": "[0, inf)",
}


def is_allowed(value: Any, allowed: Allowed) -> bool:
    """Whether a number, or each number of a list or tuple, lies in an interval, or a string is one of the choices.

    NaN, a word and a truth value lie in no interval. None, with which Detectron2 marks a key that is not set, is always
    allowed.
    """
    if value is None:
        return True
    if isinstance(allowed, tuple):
        return value in allowed
    if isinstance(value, (list, tuple)):
        return all(item is not None and is_allowed(item, allowed) for item in value)
    if isinstance(value, (bool, str)):
        return False
    opening, low, high, closing = re.fullmatch(r"([\[(])([^,]+), ([^,]+)([\])])", allowed).groups()
    above = value >= float(low) if opening == "[" else value > float(low)
    below = value <= float(high) if closing == "]" else value < float(high)
    return above and below


def check_values(cfg: CfgNode, table: Mapping[str, Allowed]) -> None:
    """Refuse a configuration with a value that its table does not allow.

    Args:
        cfg: any configuration; keys of the table that it lacks are passed over.
        table: the package's own keys; those of DETECTRON2_VALUES are checked as well.

    Raises:
        ValueError: a value is not allowed; the sentence names every such key and what it may be.
    """
    wrong = []
    for key, allowed in {**DETECTRON2_VALUES, **table}.items():
        value = reduce(lambda node, name: node.get(name) if node else None, key.split("."), cfg)
        if not is_allowed(value, allowed):
            wanted = f"one of {', '.join(allowed)}" if isinstance(allowed, tuple) else f"in {allowed}"
            wrong.append(f"{key} must be {wanted}, not {value!r}")
    if wrong:
        raise ValueError(f"{'; '.join(wrong)}.")
