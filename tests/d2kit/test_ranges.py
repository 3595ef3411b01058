"""Every numeric key of the packages has a range, and what lies outside is refused by the key's name."""

import math

import pytest
from detectron2.config import CfgNode, get_cfg

from d2kit.ranges import DETECTRON2_VALUES, check_values, is_allowed
from istd import add_istd_config
from istd.ranges import ISTD_VALUES
from s4m import add_s4m_config
from s4m.ranges import S4M_VALUES

PACKAGES = {"s4m": (add_s4m_config, S4M_VALUES), "istd": (add_istd_config, ISTD_VALUES)}
INTERVALS = [
    (package, key, allowed)
    for package, (_, table) in PACKAGES.items()
    for key, allowed in {**DETECTRON2_VALUES, **table}.items()
    if isinstance(allowed, str)
]


def config(package: str) -> CfgNode:
    cfg = get_cfg()
    PACKAGES[package][0](cfg)
    return cfg


def leaves(node: CfgNode, prefix: str = ""):
    for key, value in node.items():
        if isinstance(value, CfgNode):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def numeric(value) -> bool:
    items = value if isinstance(value, (list, tuple)) and value else [value]
    return all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in items)


def test_the_notation():
    assert is_allowed(0, "[0, 1)") and not is_allowed(1, "[0, 1)") and not is_allowed(-1e-9, "[0, 1)")
    assert is_allowed(1, "(0, 1]") and not is_allowed(0, "(0, 1]")
    assert is_allowed(math.inf, "(0, inf]") and not is_allowed(math.inf, "(0, inf)")
    assert not is_allowed(math.nan, "(-inf, inf)") and not is_allowed(-math.inf, "(-inf, inf)")
    assert is_allowed((0.2, 1), "[0, 1]") and not is_allowed([0.2, 1.1], "[0, 1]") and is_allowed((), "[0, 1]")
    assert is_allowed("a", ("a", "b")) and not is_allowed("c", ("a", "b"))
    assert is_allowed(None, "[0, 1]") and not is_allowed((None,), "[0, 1]")
    assert not is_allowed("a", "[0, 1]") and not is_allowed(("a", 1), "[0, 1]") and not is_allowed((True,), "[0, 1]")


@pytest.mark.parametrize("package", PACKAGES)
def test_every_numeric_key_has_a_range_and_defaults_lie_in_it(package):
    cfg = config(package)
    table = {**DETECTRON2_VALUES, **PACKAGES[package][1]}
    known = {key for key, _ in leaves(get_cfg())}
    added = {key: value for key, value in leaves(cfg) if key not in known}
    assert [key for key, value in added.items() if numeric(value) and key not in table] == []
    check_values(cfg, PACKAGES[package][1])
    assert table.keys() <= dict(leaves(cfg)).keys()


@pytest.mark.parametrize(("package", "key", "allowed"), INTERVALS)
def test_values_outside_of_an_interval_are_refused_by_name(package, key, allowed):
    low, high = (float(end) for end in allowed[1:-1].split(", "))
    outside = [math.nan]
    outside += [low - 1 if allowed[0] == "[" else low] if math.isfinite(low) else []
    outside += [high + 1 if allowed[-1] == "]" else high] if math.isfinite(high) else []
    *groups, name = key.split(".")
    for value in outside:
        cfg = config(package)
        node = cfg
        for group in groups:
            node = node[group]
        node[name] = (value,) if isinstance(node[name], (list, tuple)) else value
        with pytest.raises(ValueError, match=rf"^{key.replace('.', chr(92) + '.')} must be in .*{value}"):
            check_values(cfg, PACKAGES[package][1])


def test_all_wrong_keys_are_in_one_sentence():
    cfg = config("istd")
    cfg.ISTD.SCHEDULE.EPOCHS = -3
    cfg.ISTD.LABELS.POOL = "hard"
    with pytest.raises(ValueError) as error:
        check_values(cfg, ISTD_VALUES)
    assert str(error.value) == (
        "ISTD.LABELS.POOL must be one of easy, all, not 'hard'; ISTD.SCHEDULE.EPOCHS must be in [0, inf), not -3."
    )
