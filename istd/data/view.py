"""The part of an image that a training sample shows: a square crop, flipped and turned."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2kit.rng import derive_seed, seeded


@dataclass(frozen=True)
class View:
    """A square crop of an image, then a horizontal flip, then quarter turns counter-clockwise.

    box: x0, y0, x1, y1 in the image's pixels (x1, y1 exclusive), inside the image. It is smaller than the crop only
        where the image is; then the crop is filled up at its right and bottom.
    side: of the crop, pixels.
    recurs: one of a finite set of views, so that what was computed for it is worth keeping.
    """

    box: tuple[int, int, int, int]
    side: int
    flip: bool = False
    turns: int = 0
    recurs: bool = False

    @classmethod
    def of_set(cls, image_id: str, size: int, seed: int, *args, **options) -> "View":
        """Draw one of the `size` views that this image has under a seed, the same in every epoch and every run.

        Which of them comes follows np.random's global generator; the rest is as in `draw`, whose arguments follow.
        """
        with seeded(derive_seed("view", seed, image_id, int(np.random.randint(size)))):
            view = cls.draw(*args, **options)
        return dataclasses.replace(view, recurs=True)

    @classmethod
    def draw(
        cls,
        height: int,
        width: int,
        side: int,
        *,
        targets: Sequence[Sequence[int]] = (),
        target_share: float = 0.0,
        augment: bool = True,
    ) -> "View":
        """Draw a view of an image with np.random's global generator.

        With probability `target_share` the crop holds one of `targets` ([x, y]), drawn uniformly, at any place of the
        crop; otherwise the crop is uniform over the image. The number of draws does not depend on the image.
        """
        chance, which, u, v = np.random.random_sample(4)
        flip, turns = int(np.random.randint(2)), int(np.random.randint(4))
        limits = [(0, max(0, width - side)), (0, max(0, height - side))]
        if len(targets) and chance < target_share:
            target = targets[int(which * len(targets))]
            limits = [
                (max(0, int(at) - side + 1), min(int(at), top)) for at, (_, top) in zip(target, limits, strict=True)
            ]
        x0, y0 = (low + int(draw * (high - low + 1)) for draw, (low, high) in zip((u, v), limits, strict=True))
        box = (x0, y0, min(width, x0 + side), min(height, y0 + side))
        return cls(box, side, bool(flip) and augment, turns if augment else 0)

    def apply(self, image: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """(H, W) map of the image -> (side, side) map of the view, contiguous; `fill` where the image has no pixel."""
        x0, y0, x1, y1 = self.box
        out = np.full((self.side, self.side), fill, image.dtype)
        out[: y1 - y0, : x1 - x0] = image[y0:y1, x0:x1]
        if self.flip:
            out = out[:, ::-1]
        return np.ascontiguousarray(np.rot90(out, self.turns))

    def apply_points(self, points: Sequence[Sequence[int]]) -> list[list[int]]:
        """[x, y] of the image -> [x, y] of the view; points outside the crop are left out."""
        x0, y0, x1, y1 = self.box
        result = []
        for x, y in points:
            if not (x0 <= x < x1 and y0 <= y < y1):
                continue
            x, y = x - x0, y - y0
            if self.flip:
                x = self.side - 1 - x
            for _ in range(self.turns % 4):
                x, y = y, self.side - 1 - x
            result.append([int(x), int(y)])
        return result
