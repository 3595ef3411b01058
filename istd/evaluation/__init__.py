"""Metrics of infrared small target detection; `istd.evaluation.evaluator` is their Detectron2 evaluator."""

from istd.evaluation.ir_metrics import IRMetrics, score_image
from istd.evaluation.point_metrics import PointMetrics
from istd.evaluation.regions import Regions, find_regions, match_centroids

__all__ = [
    "IRMetrics",
    "PointMetrics",
    "Regions",
    "find_regions",
    "match_centroids",
    "score_image",
]
