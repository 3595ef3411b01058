"""8-connected regions of a mask, found in one labeling pass, and their greedy matching by centroid."""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.spatial import cKDTree

DENSE_PAIRS = 10_000  # a full distance table is faster than a k-d tree up to this number of pairs


@dataclass(frozen=True)
class Regions:
    """8-connected regions of an (H, W) mask, numbered from 0 in the order of their first pixel, row by row.

    Attributes:
        areas: (N,) int64 number of pixels.
        centroids: (N, 2) float64 mean row and mean column.
        pixels: (P,) int64 flat indices of all region pixels, ascending.
        owners: (P,) int64 region of each pixel.
        shape: (H, W) of the mask.
    """

    areas: np.ndarray
    centroids: np.ndarray
    pixels: np.ndarray
    owners: np.ndarray
    shape: tuple[int, int]

    def __len__(self) -> int:
        return len(self.areas)

    def at(self, points: np.ndarray) -> np.ndarray:
        """Return the region that holds each pixel: (M, 2) integer row, column inside the mask -> (M,) region or -1."""
        flat = np.ravel_multi_index(np.asarray(points, np.int64).reshape(-1, 2).T, self.shape)
        if not len(self.pixels):
            return np.full(len(flat), -1)
        index = np.searchsorted(self.pixels, flat).clip(max=len(self.pixels) - 1)
        return np.where(self.pixels[index] == flat, self.owners[index], -1)

    def boxes(self) -> np.ndarray:
        """Return (N, 4) int64 x0, y0, x1, y1 in pixels; the right and lower edges are exclusive."""
        rows, columns = np.divmod(self.pixels, self.shape[1])
        corners = np.stack([columns, rows])
        return np.concatenate([self._reduce(np.minimum, corners), self._reduce(np.maximum, corners) + 1]).T

    def peaks(self, values: np.ndarray) -> np.ndarray:
        """Return the (N,) largest of `values` (H, W) in each region, for example its score."""
        return self._reduce(np.maximum, np.asarray(values).ravel()[self.pixels])

    def _reduce(self, function: np.ufunc, values: np.ndarray) -> np.ndarray:
        """Reduce (..., P) values of the region pixels to (..., N)."""
        if not len(self):
            return values[..., :0]
        order = np.argsort(self.owners, kind="stable")
        return function.reduceat(values[..., order], np.searchsorted(self.owners[order], range(len(self))), axis=-1)


def find_regions(mask: np.ndarray) -> Regions:
    """Label an (H, W) bool mask.

    OpenCV numbers regions by blocks of pixels, while the metrics need the order of first pixels. Example:
        labels of the mask's pixels, in raster order    2 2 1 2 1
        first pixel of each label (0 is background)     label 1: 2, label 2: 0
        new region of each label                        label 1: 1, label 2: 0
        owners of the pixels                            0 0 1 0 1
    """
    mask = np.ascontiguousarray(mask, dtype=bool)  # np.flatnonzero is many times faster on bool than on uint8
    pixels = np.flatnonzero(mask)
    if not len(pixels):
        empty = np.zeros(0, np.int64)
        return Regions(empty, np.zeros((0, 2)), empty, empty, mask.shape)
    count, labels = cv2.connectedComponents(mask.view(np.uint8), connectivity=8, ltype=cv2.CV_32S)
    pixel_labels = labels.ravel()[pixels]
    first = np.empty(count, np.int64)  # Pixels are written backwards, so that the first one of each label remains.
    first[pixel_labels[::-1]] = np.arange(len(pixels) - 1, -1, -1)
    rank = np.empty(count, np.int64)
    rank[np.argsort(first[1:]) + 1] = np.arange(count - 1)
    owners = rank[pixel_labels]
    areas = np.bincount(owners, minlength=count - 1)
    rows, columns = np.divmod(pixels, mask.shape[1])
    sums = np.stack([np.bincount(owners, axis, minlength=count - 1) for axis in (rows, columns)], axis=1)
    return Regions(areas, sums / areas[:, None], pixels, owners, mask.shape)


def match_centroids(targets: np.ndarray, predictions: np.ndarray, distance: float) -> np.ndarray:
    """Match greedily, as published: each target, in order, takes the first unused prediction nearer than `distance`.

    Args:
        targets: (N, 2) centroids.
        predictions: (M, 2) centroids.
        distance: limit of the distance in pixels, exclusive.

    Returns:
        (N,) int64 index of each target's prediction, -1 for an unmatched target.
    """
    matches = np.full(len(targets), -1)
    if not len(targets) or not len(predictions):
        return matches
    used = np.zeros(len(predictions), bool)
    for target, prediction in zip(*_near_pairs(targets, predictions, distance), strict=True):
        if matches[target] < 0 and not used[prediction]:
            matches[target] = prediction
            used[prediction] = True
    return matches


def _near_pairs(targets: np.ndarray, predictions: np.ndarray, distance: float) -> tuple[list[int], list[int]]:
    """Return the pairs nearer than `distance`, in the order of targets, then of predictions."""
    if len(targets) * len(predictions) <= DENSE_PAIRS:
        rows, columns = np.indices((len(targets), len(predictions))).reshape(2, -1)
    else:
        # The radius is slightly larger, so that the tree's rounding drops no pair that the exact test below accepts.
        pairs = cKDTree(targets).sparse_distance_matrix(cKDTree(predictions), distance * 1.001, output_type="ndarray")
        order = np.lexsort((pairs["j"], pairs["i"]))
        rows, columns = pairs["i"][order], pairs["j"][order]
    near = np.sqrt(((targets[rows] - predictions[columns]) ** 2).sum(1)) < distance
    return rows[near].tolist(), columns[near].tolist()
