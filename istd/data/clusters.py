"""Clusters of images for dynamic collaborative learning: one learned weight per cluster, not per image."""

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
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from d2kit.files import atomic_write
from istd.data.image_statistics import image_statistics

FORMAT = 1
PUBLISHED_CLUSTERS = 256
IMAGES_PER_CLUSTER = 8
LEAST_VARIANCE = 1e-10
CORRELATED = 0.95
KEPT_FEATURES = 32
EXPLAINED = 0.9
COMPONENTS = (2, 20)


class ClusterTable(dict):
    """A dictionary from image id to cluster, 0 to num_clusters - 1.

    Args:
        clusters: the mapping.
        source: the file it comes from, for messages.
        features: names of the statistics that the last fit used, most informative first.
    """

    def __init__(self, clusters: Mapping[str, int], source: str | os.PathLike = "", features: Sequence[str] = ()):
        super().__init__(clusters)
        self.source = str(source)
        self.features = list(features)

    @property
    def num_clusters(self) -> int:
        """The number of clusters."""
        return max(self.values(), default=-1) + 1

    def __missing__(self, image_id: str) -> int:
        raise KeyError(
            f"image '{image_id}' is not in the cluster file {self.source}: make it again from the images that are "
            "trained on (istd clusters)."
        )

    def require(self, image_ids: Iterable[str]) -> None:
        """KeyError with one sentence for the first of `image_ids` that has no cluster."""
        for image_id in image_ids:
            self[image_id]

    def save(self, path: str | os.PathLike) -> None:
        """Write the table as json, atomically."""
        counts = {"format": FORMAT, "num_clusters": self.num_clusters}
        with atomic_write(path, "w") as file:
            json.dump({**counts, "features": self.features, "clusters": self}, file, indent=1)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "ClusterTable":
        """Read what `save` wrote; FileNotFoundError or ValueError with one sentence that names the file."""
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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a cluster file ({type(error).__name__}: {error}).") from error


def default_num_clusters(images: int) -> int:
    """Clusters for so many images: 256 as published where there are 8 images for each, else images // 8, at least 2.

    Never more than there are images.
    """
    return min(images, PUBLISHED_CLUSTERS, max(2, images // IMAGES_PER_CLUSTER))


def describe_images(
    dataset_dicts: Sequence[dict], read: Callable[[str], np.ndarray]
) -> tuple[list[str], np.ndarray, list[str]]:
    """Statistics of every image.

    Args:
        dataset_dicts: with file_name and image_id (see istd.data.datasets).
        read: file_name -> (H, W) gray values 0..255.

    Returns:
        ids (N), features (N, F) float64, names (F). F is 0 when there is no image.

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
        columns: the features that are used, most informative first.
        project: the standardization and the PCA of these features, from (N, C) to (N, D).
        centers: (K, D), numbered in the order of their first image.
    """

    columns: list[int]
    project: Callable[[np.ndarray], np.ndarray]
    centers: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """The nearest center of each image: (N, F) -> (N,) int64."""
        return cdist(self.project(features[:, self.columns]), self.centers, "sqeuclidean").argmin(axis=1)


def fit_clusters(features: np.ndarray, *, num_clusters: int = 0, seed: int = 0) -> ClusterModel:
    """Cluster images by their statistics.

    Drop features of variance < 1e-10 and the later of each pair with |correlation| >= 0.95; standardize; PCA to 90 %
    of the variance (2 to 20 components); k-means. Then rank the features by their mutual information with the
    clusters and fit again on the first 32. Images that cannot be told apart share one cluster.

    Args:
        features: (N, F), N >= 1.
        num_clusters: 0 for `default_num_clusters`; never more than N are made.
        seed: of k-means and of the mutual information.

    Returns:
        The model; its clusters are numbered in the order of their first image.
    """
    count = len(features)
    k = min(num_clusters or default_num_clusters(count), count)
    kept = informative_columns(features)
    if k <= 1 or not kept:
        return ClusterModel([], lambda values: np.zeros((len(values), 1)), np.zeros((1, 1)))
    first = _fit(features, kept, k, seed)
    order = _rank(features[:, kept], first.predict(features), seed)[:KEPT_FEATURES]
    return _fit(features, [kept[i] for i in order], k, seed)


def informative_columns(features: np.ndarray) -> list[int]:
    """Columns that vary and are not nearly the same as an earlier one."""
    varying = [i for i in range(features.shape[1]) if features[:, i].var() >= LEAST_VARIANCE]
    if len(varying) < 2:
        return varying
    correlation = np.abs(np.corrcoef(features[:, varying], rowvar=False))
    kept: list[int] = []
    for i in range(len(varying)):
        if all(correlation[i, j] < CORRELATED for j in kept):
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

    `assigned`: further images, such as those of the validation split, that take the nearest cluster and have no part
    in the fit.
    """
    ids, features, names = describe_images([*dataset_dicts, *assigned], read)
    if not dataset_dicts:
        raise ValueError("there is no image to make clusters of.")
    model = fit_clusters(features[: len(dataset_dicts)], num_clusters=num_clusters, seed=seed)
    clusters = model.predict(features).tolist()
    return ClusterTable(dict(zip(ids, clusters, strict=True)), features=[names[column] for column in model.columns])


def _fit(features: np.ndarray, columns: list[int], k: int, seed: int) -> ClusterModel:
    scaler = StandardScaler().fit(features[:, columns])
    values = scaler.transform(features[:, columns])
    pca = PCA(n_components=min(COMPONENTS[1], *values.shape), svd_solver="full").fit(values)
    enough = int(np.searchsorted(np.cumsum(pca.explained_variance_ratio_), EXPLAINED)) + 1
    dimensions = max(enough, COMPONENTS[0])

    def project(chosen: np.ndarray) -> np.ndarray:
        return pca.transform(scaler.transform(chosen))[:, :dimensions]

    with warnings.catch_warnings(), threadpool_limits(1):  # One thread gives the same sums on every machine.
        warnings.simplefilter("ignore")  # With fewer distinct images than clusters, unused centers are dropped below.
        kmeans = KMeans(k, random_state=seed, n_init=10).fit(project(features[:, columns]))
    model = ClusterModel(columns, project, kmeans.cluster_centers_)
    used, first = np.unique(model.predict(features), return_index=True)
    return replace(model, centers=model.centers[used[np.argsort(first)]])


def _rank(features: np.ndarray, clusters: np.ndarray, seed: int) -> list[int]:
    """Columns by their mutual information with the clusters, highest first; ties keep their order."""
    if np.bincount(clusters).max() < 2:  # every image a cluster of its own: nothing to rank by
        return list(range(features.shape[1]))
    scores = mutual_info_classif(features, clusters, discrete_features=False, random_state=seed)
    return np.argsort(-scores, kind="stable").tolist()
