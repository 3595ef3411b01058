import math

import pytest

from s4m.ranges import require_positive, require_range


def test_ends_lie_in_the_range():
    for value in (0, 0.5, 1):
        require_range("A.B", value, high=1)
    require_range("A.B", 7, 7)
    require_positive("A.B", 1e-9)


@pytest.mark.parametrize("value", [-1e-6, 1.001, math.nan, math.inf])
def test_outside_is_told_with_the_key(value):
    with pytest.raises(ValueError, match=r"^A\.B must be in \[0, 1\], not "):
        require_range("A.B", value, high=1)


@pytest.mark.parametrize("value", [0.9, math.nan, math.inf])
def test_open_above(value):
    with pytest.raises(ValueError, match=r"^A\.B must be at least 1, not "):
        require_range("A.B", value, 1)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_not_positive(value):
    with pytest.raises(ValueError, match=r"^A\.B must be positive, not "):
        require_positive("A.B", value)
