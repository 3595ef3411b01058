"""The metrics of a network in whatever form it runs."""

from collections.abc import Callable, Iterable

import numpy as np

from istd.data.images import read_infrared, read_mask
from istd.deploy.runners import Runner
from istd.evaluation import IRMetrics

FIGURES = ("IoU", "nIoU", "Pd", "Fa", "AUC")


def score_images(
    predict: Callable[[np.ndarray], np.ndarray], records: Iterable[dict], depth: str = "range", threshold: float = 0.5
) -> dict:
    """`IRMetrics` over whole images.

    Args:
        predict: (H, W) grey values 0..255 -> (H, W) probability.
        records: dataset dicts with `mask_file`.
        depth: of 16-bit files, see `read_infrared`.
        threshold: of a target.

    Raises:
        ValueError: names the image that cannot be scored.
    """
    metrics = IRMetrics(threshold)
    for record in records:
        if "mask_file" not in record:
            raise ValueError(f"{record['file_name']} has no mask to score by.")
        probability = predict(read_infrared(record["file_name"], depth))
        try:
            metrics.update(probability, read_mask(record["mask_file"]))
        except ValueError as error:
            raise ValueError(f"{record['file_name']}: {error}") from error
    return metrics.compute()


def compare_runners(runners: dict[str, Runner], records: list[dict]) -> dict[str, dict[str, float]]:
    """Figures of several forms of a network on the same images; `IoU_loss` is against the first of them."""
    result: dict[str, dict[str, float]] = {}
    for name, runner in runners.items():
        found = score_images(runner, records, runner.recipe.depth, runner.recipe.threshold)
        result[name] = {figure: found[figure] for figure in FIGURES}
        result[name]["IoU_loss"] = result[next(iter(result))]["IoU"] - found["IoU"]
    return result
