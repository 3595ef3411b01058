"""Metrics of a network in any form that `istd.deploy.runners` runs."""

from collections.abc import Iterable

from istd.data.images import read_infrared, read_mask
from istd.deploy.runners import Runner
from istd.evaluation import IRMetrics

FIGURES = ("IoU", "nIoU", "Pd", "Fa", "AUC")


def score_images(runner: Runner, records: Iterable[dict]) -> dict:
    """Compute the figures of `IRMetrics` over whole images.

    Args:
        runner: network to score; its recipe gives the range of raw values and the threshold of a target.
        records: dataset dicts with `mask_file`.

    Raises:
        ValueError: an image cannot be scored; the message names the image.
    """
    metrics = IRMetrics(runner.recipe.threshold)
    for record in records:
        if "mask_file" not in record:
            raise ValueError(f"{record['file_name']} has no mask to be scored by.")
        probability = runner(read_infrared(record["file_name"], runner.recipe.value_range))
        try:
            metrics.update(probability, read_mask(record["mask_file"]))
        except ValueError as error:
            raise ValueError(f"{record['file_name']}: {error}") from error
    return metrics.compute()


def compare_runners(runners: dict[str, Runner], records: list[dict]) -> dict[str, dict[str, float]]:
    """Return FIGURES of several forms of a network on the same images; `IoU_loss` compares with the first form."""
    scores: dict[str, dict[str, float]] = {}
    for name, runner in runners.items():
        figures = score_images(runner, records)
        scores[name] = {figure: figures[figure] for figure in FIGURES}
        scores[name]["IoU_loss"] = next(iter(scores.values()))["IoU"] - figures["IoU"]
    return scores
