"""Clusters of images for dynamic collaborative learning, which learns one weight per cluster."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.feature_selection import mutual_info_classif
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from d2kit.files import atomic_write
from istd.data.image_statistics import image_statistics

FORMAT = 1
PUBLISHED_CLUSTERS = 256
IMAGES_PER_CLUSTER = 8
MIN_VARIANCE = 1e-10
MAX_CORRELATION = 0.95
MAX_FEATURES = 32
EXPLAINED_VARIANCE = 0.9
MIN_COMPONENTS = 2
MAX_COMPONENTS = 20


class ClusterTable(dict):
    """A dictionary from image id to cluster, 0 to num_clusters - 1.

    Args:
        clusters: cluster of each image id.
        source: file of the table, for messages.
        features: names of the statistics that the clustering used, most informative first.
    """

    def __init__(self, clusters: Mapping[str, int], source: str | os.PathLike = "", features: Sequence[str] = ()):
        super().__init__(clusters)
        self.source = str(source)
        self.features = list(features)

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return max(self.values(), default=-1) + 1

    def __missing__(self, image_id: str) -> int:
        raise KeyError(
            f"image '{image_id}' is not in the cluster file {self.source}: make it again from the images that are "
            "trained on (istd clusters)."
        )

    def require(self, image_ids: Iterable[str]) -> None:
        """Raise a KeyError that names the first of `image_ids` without a cluster."""
        for image_id in image_ids:
            self[image_id]

    def save(self, path: str | os.PathLike) -> None:
        """Write the table as json, atomically."""
        counts = {"format": FORMAT, "num_clusters": self.num_clusters}
        with atomic_write(path, "w") as file:
            json.dump({**counts, "features": self.features, "clusters": self}, file, indent=1)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ClusterTable":
        """Read a file of `save`; a FileNotFoundError or ValueError names the file."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"the cluster file {path} does not exist: make it with istd clusters.")
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise ValueError(f"its format is {content['format']}, not {FORMAT}")
            clusters = {str(name): int(cluster) for name, cluster in content["clusters"].items()}
            if min(clusters.values(), default=0) < 0:
                raise ValueError("it holds a negative cluster")
            return cls(clusters, path, content.get("features", ()))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{path} is not a cluster file ({type(error).__name__}: {error}).") from error


def default_num_clusters(images: int) -> int:
    """Return images // 8, but at least 2, and at most the published 256 and the number of images."""
    return min(images, PUBLISHED_CLUSTERS, max(2, images // IMAGES_PER_CLUSTER))


def describe_images(
    dataset_dicts: Sequence[dict], read: Callable[[str], np.ndarray]
) -> tuple[list[str], np.ndarray, list[str]]:
    """Compute the statistics of every image.

    Args:
        dataset_dicts: dicts with file_name and image_id (see istd.data.datasets).
        read: function from a file name to (H, W) gray values 0..255.

    Returns:
        N image ids, (N, F) float64 features, and the F names of the features; F is 0 without images.

    Raises:
        ValueError: an image id occurs twice.
    """
    rows = {}
    for record in dataset_dicts:
        if record["image_id"] in rows:
            raise ValueError(f"image id '{record['image_id']}' occurs twice ({record['file_name']}).")
        rows[record["image_id"]] = image_statistics(read(record["file_name"]))
    names = list(next(iter(rows.values()), {}))
    features = np.array([[row[name] for name in names] for row in rows.values()], np.float64)
    return list(rows), features.reshape(len(rows), len(names)), names


@dataclass(frozen=True)
class ClusterModel:
    """A fitted clustering of image statistics.

    Attributes:
        columns: indices of the features in use, most informative first.
        project: function from these features, (N, C), to their standardized principal components, (N, D).
        centers: (K, D) cluster centers in the order of their first image.
    """

    columns: list[int]
    project: Callable[[np.ndarray], np.ndarray]
    centers: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the cluster of the nearest center for each image: (N, F) -> (N,) int64."""
        return cdist(self.project(features[:, self.columns]), self.centers, "sqeuclidean").argmin(axis=1)


def fit_clusters(features: np.ndarray, *, num_clusters: int = 0, seed: int = 0) -> ClusterModel:
    """Cluster images by their statistics.

    Features with a variance below 1e-10, and the later of each pair with |correlation| >= 0.95, are dropped. The others
    are standardized and reduced by PCA to 90 % of the variance (2 to 20 components), and k-means clusters the result.
    The features are then ranked by their mutual information with the clusters, and the first 32 are clustered again in
    the same way. Images with equal features share one cluster.

    Args:
        features: (N, F) statistics of N >= 1 images.
        num_clusters: number of clusters, at most N; 0 means `default_num_clusters`.
        seed: seed of k-means and of the mutual information.
    """
    count = len(features)
    k = min(num_clusters or default_num_clusters(count), count)
    kept = informative_columns(features)
    if k <= 1 or not kept:
        return ClusterModel([], lambda values: np.zeros((len(values), 1)), np.zeros((1, 1)))
    first = _fit(features, kept, k, seed)
    order = _rank(features[:, kept], first.predict(features), seed)[:MAX_FEATURES]
    return _fit(features, [kept[i] for i in order], k, seed)


def informative_columns(features: np.ndarray) -> list[int]:
    """Return the columns that vary and do not nearly equal an earlier column up to scale."""
    varying = [i for i in range(features.shape[1]) if features[:, i].var() >= MIN_VARIANCE]
    correlation = np.atleast_2d(np.abs(np.corrcoef(features[:, varying], rowvar=False)))
    kept: list[int] = []
    for i in range(len(varying)):
        if all(correlation[i, j] < MAX_CORRELATION for j in kept):
            kept.append(i)
    return [varying[i] for i in kept]


def make_clusters(
    dataset_dicts: Sequence[dict],
    read: Callable[[str], np.ndarray],
    *,
    assigned: Sequence[dict] = (),
    num_clusters: int = 0,
    seed: int = 0,
) -> ClusterTable:
    """Cluster the images of a training split; see `describe_images` and `fit_clusters`.

    The images of `assigned`, such as those of the validation split, take the nearest cluster without influencing it.
    """
    ids, features, names = describe_images([*dataset_dicts, *assigned], read)
    if not dataset_dicts:
        raise ValueError("there is no image to make clusters of.")
    model = fit_clusters(features[: len(dataset_dicts)], num_clusters=num_clusters, seed=seed)
    clusters = model.predict(features).tolist()
    return ClusterTable(dict(zip(ids, clusters, strict=True)), features=[names[column] for column in model.columns])


def _fit(features: np.ndarray, columns: list[int], k: int, seed: int) -> ClusterModel:
    values = features[:, columns]
    pca = PCA(n_components=min(MAX_COMPONENTS, *values.shape), svd_solver="full")
    pipeline = make_pipeline(StandardScaler(), pca).fit(values)
    dimensions = int(np.searchsorted(np.cumsum(pca.explained_variance_ratio_), EXPLAINED_VARIANCE)) + 1

    def project(chosen: np.ndarray) -> np.ndarray:
        return pipeline.transform(chosen)[:, : max(dimensions, MIN_COMPONENTS)]

    with warnings.catch_warnings(), threadpool_limits(1):  # One thread gives the same sums on every machine.
        warnings.simplefilter("ignore")  # With fewer distinct images than clusters, unused centers are dropped below.
        kmeans = KMeans(k, random_state=seed, n_init=10).fit(project(values))
    model = ClusterModel(columns, project, kmeans.cluster_centers_)
    used, first = np.unique(model.predict(features), return_index=True)
    return replace(model, centers=model.centers[used[np.argsort(first)]])


def _rank(features: np.ndarray, clusters: np.ndarray, seed: int) -> list[int]:
    """Return the columns by their mutual information with the clusters, highest first; ties keep their order."""
    if np.bincount(clusters).max() < 2:  # Clusters of one image each give no mutual information.
        return list(range(features.shape[1]))
    scores = mutual_info_classif(features, clusters, discrete_features=False, random_state=seed)
    return np.argsort(-scores, kind="stable").tolist()
