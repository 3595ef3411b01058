"""Prediction of images of any size in overlapping tiles, whose results are blended."""

from collections.abc import Callable

import numpy as np

from d2kit.tiling import tile_starts


def tile_weights(starts: list[int], tile: int, length: int) -> list[tuple[slice, np.ndarray]]:
    """Return the pixels of each tile along one side and their weights, which sum to 1 at every pixel.

    A weight rises linearly over the overlap with the tile before, and falls over the overlap with the tile after.
    """
    size = min(tile, length)
    total = np.zeros(length)
    weights = []
    for number, start in enumerate(starts):
        pixel = np.arange(start, start + size)
        weight = np.ones(size)
        if number:
            overlap = starts[number - 1] + size - start
            weight = np.minimum(weight, (pixel - start + 1) / (overlap + 1))
        if number + 1 < len(starts):
            overlap = start + size - starts[number + 1]
            weight = np.minimum(weight, (start + size - pixel) / (overlap + 1))
        weights.append((slice(start, start + size), weight))
        total[start : start + size] += weight
    return [(place, weight / total[place]) for place, weight in weights]


def predict_tiled(
    predict: Callable[[np.ndarray], np.ndarray], image: np.ndarray, tile: int, overlap: int
) -> np.ndarray:
    """Predict an image of any size in overlapping tiles.

    Args:
        predict: function from (h, w) gray values, h and w at most `tile`, to (h, w) probabilities.
        image: (H, W) gray values.
        tile: side of a tile in pixels; 0 predicts the image in one piece.
        overlap: smallest overlap of neighboring tiles in pixels; 0 leaves seams.

    Returns:
        (H, W) float32 probabilities. An image that fits into one tile is predicted in one piece.

    Raises:
        ValueError: `overlap` does not suit `tile`.
    """
    if tile < 0 or (tile and not 0 <= overlap < tile):
        raise ValueError(f"tiles of {tile} pixels cannot overlap by {overlap}: 0 <= overlap < tile is needed.")
    height, width = image.shape
    if not tile or max(height, width) <= tile:
        return predict(image)
    blended = np.zeros((height, width), np.float64)
    columns = tile_weights(tile_starts(width, tile, overlap), tile, width)
    for rows, row_weight in tile_weights(tile_starts(height, tile, overlap), tile, height):
        for place, column_weight in columns:
            piece = predict(np.ascontiguousarray(image[rows, place]))
            blended[rows, place] += piece * row_weight[:, None] * column_weight
    return blended.clip(0, 1).astype(np.float32)
