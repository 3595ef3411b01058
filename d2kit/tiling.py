"""Places of overlapping tiles."""

import numpy as np


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return the first pixels of the tiles along one side, evenly spread over the whole side.

    Args:
        length: length of the side, 1 or more.
        tile: length of a tile; a side that is not longer has one tile of the side's length.
        overlap: smallest overlap of neighboring tiles, below `tile`.
    """
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return np.linspace(0, length - tile, count).round().astype(int).tolist()
