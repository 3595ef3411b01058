"""A training stops with one sentence when a loss is not finite."""

import pytest
import torch

from d2kit.finite import non_finite, require_finite_losses

NAN = torch.tensor(float("nan"))


def never():
    raise AssertionError("images are named in errors only")


def test_finite_losses_pass_and_name_no_image():
    require_finite_losses({}, never)
    require_finite_losses({"a": torch.tensor(1.0), "b": torch.tensor(-2.0, requires_grad=True)}, never)


def test_the_error_names_the_term_and_the_images():
    with pytest.raises(FloatingPointError, match=r"b, c is not finite for the images x\.png, y\.png; the last"):
        require_finite_losses({"a": torch.tensor(1.0), "b": NAN, "c": NAN}, lambda: ["x.png", "y.png"])


def test_a_sum_that_overflows_is_not_finite():
    with pytest.raises(FloatingPointError, match="the sum of a, b is not finite"):
        require_finite_losses({"a": torch.tensor(3e38), "b": torch.tensor(3e38)}, list)


def test_tensors_with_infinite_entries_are_named():
    values = {"good": torch.ones(2), "bad": torch.tensor([1.0, float("inf")]), "count": torch.tensor([1])}
    assert non_finite(values) == ["bad"]
