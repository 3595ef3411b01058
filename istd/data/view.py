"""The view of an image that a training sample shows: a square crop, flipped and turned."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from d2kit.rng import derive_seed, seeded


@dataclass(frozen=True)
class View:
    """A square crop of an image, followed by a horizontal flip and quarter turns counterclockwise.

    Attributes:
        box: x0, y0, x1, y1 in the image's pixels (x1, y1 exclusive), inside the image. It is smaller than the crop only
            if the image is, and then the crop is filled at its right and bottom.
        side: side of the crop in pixels.
        flip, turns: whether the crop is flipped, and number of quarter turns.
        recurs: the view belongs to a finite set, so that results for it can be cached.
    """

    box: tuple[int, int, int, int]
    side: int
    flip: bool = False
    turns: int = 0
    recurs: bool = False

    @classmethod
    def of_set(cls, image_id: str, size: int, seed: int, *args, **options) -> "View":
        """Draw one of the `size` views that an image has under a seed; they are the same in every epoch and run.

        np.random's global generator selects the view. Further arguments are those of `draw`, which makes the view.
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
    ) -> "View":
        """Draw a view of an image with np.random's global generator.

        With probability `target_share` the crop holds one of `targets` ([x, y]), drawn uniformly, at any place of the
        crop; otherwise the crop is uniform over the image. The number of draws does not depend on the image.

        Example: a crop of 96 pixels in an image that is 256 wide may begin at x0 = 0..160. To hold a target at x = 40,
        it may begin at x0 = max(0, 40 - 95)..min(40, 160) = 0..40.
        """
        chance, target_draw, u, v = np.random.random_sample(4)
        flip = bool(np.random.randint(2))
        turns = int(np.random.randint(4))
        limits = [(0, max(0, width - side)), (0, max(0, height - side))]
        if len(targets) and chance < target_share:
            target = targets[int(target_draw * len(targets))]
            limits = [
                (max(0, int(position) - side + 1), min(int(position), high))
                for position, (_, high) in zip(target, limits, strict=True)
            ]
        x0, y0 = (low + int(draw * (high - low + 1)) for draw, (low, high) in zip((u, v), limits, strict=True))
        box = (x0, y0, min(width, x0 + side), min(height, y0 + side))
        return cls(box, side, flip, turns)

    def apply(self, image: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """Cut the contiguous (side, side) view from an (H, W) map; `fill` is the value beyond the image."""
        x0, y0, x1, y1 = self.box
        crop = np.full((self.side, self.side), fill, image.dtype)
        crop[: y1 - y0, : x1 - x0] = image[y0:y1, x0:x1]
        if self.flip:
            crop = crop[:, ::-1]
        return np.ascontiguousarray(np.rot90(crop, self.turns))

    def apply_points(self, points: Sequence[Sequence[int]]) -> list[list[int]]:
        """Map [x, y] of the image to [x, y] of the view; points outside the crop are omitted."""
        x0, y0, x1, y1 = self.box
        result = []
        for x, y in points:
            if not (x0 <= x < x1 and y0 <= y < y1):
                continue
            x = x - x0
            y = y - y0
            if self.flip:
                x = self.side - 1 - x
            for _ in range(self.turns % 4):
                x, y = y, self.side - 1 - x
            result.append([int(x), int(y)])
        return result
