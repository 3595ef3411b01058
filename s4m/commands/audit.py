r"""Review labels in a browser: write a folder of pages, then carry out what was decided on them.

    s4m audit labels.json --images images --output audit
    s4m audit given.json --images images --run output/stage1 --output audit
    s4m audit given.json --images images --predictions coco_instances_results.json --output audit
    s4m audit labels.json --apply review.json --output audited.json
    s4m audit given.json --predictions audit/predictions.json --apply review.json --output audited.json

Open audit/index.html by a double click; nothing is loaded from outside. The page sorts labels by doubt. With
--run or --predictions, which are COCO results of a trained network, it shows given labels that the network finds
otherwise, and objects that nobody labeled. --run predicts the images by the best checkpoint of a training, or else its
newest. The folder of the pages keeps the predictions, which --apply needs. The page's button saves review.json.
"""

import argparse
import os
import tempfile
from pathlib import Path

from d2kit.audit.page import require_free, write_page
from d2kit.audit.review import check_sum, read_review
from d2kit.files import require_apart
from s4m.audit.files import read_labels, read_predictions
from s4m.audit.items import Item, apply_review, items_of_comparison, items_of_labels
from s4m.audit.pages import pictures
from s4m.data.coco import write_json

PREDICTIONS = "predictions.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("labels", help="COCO json of the labels")
    parser.add_argument("--images", metavar="FOLDER", help="folder of its images, for pages")
    parser.add_argument("--predictions", metavar="FILE", help="COCO results or COCO json with scores of a network")
    parser.add_argument("--run", help="OUTPUT_DIR of a training, whose network predicts the images")
    parser.add_argument("--network", choices=("student", "teacher"), help="of --run (default: S4M.TEST.NETWORK)")
    parser.add_argument("--apply", metavar="REVIEW", help="carry out this review instead of writing pages")
    parser.add_argument("--output", required=True, help="folder of the pages or, with --apply, COCO json to write")
    parser.add_argument("--most", type=int, default=0, help="show only so many rows, the most doubtful; 0 for all")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier pages in --output")


def run(args: argparse.Namespace) -> None:
    """Write the pages or the audited json, and print its path."""
    if bool(args.images) == bool(args.apply):
        raise argparse.ArgumentError(None, "name either --images, for pages, or --apply")
    if args.most < 0:
        raise argparse.ArgumentError(None, f"--most must be 0 or more, not {args.most}")
    if args.run and (args.apply or args.predictions):
        raise argparse.ArgumentError(None, "--run makes the predictions of pages: leave out --predictions and --apply")
    if args.network and not args.run:
        raise argparse.ArgumentError(None, "--network belongs to --run.")
    labels = read_labels(args.labels, args.images)
    if args.apply:
        _apply(args, labels)
    else:
        _write_pages(args, labels)


def _apply(args: argparse.Namespace, labels: dict) -> None:
    output = Path(args.output)
    files = [file for file in (args.labels, args.predictions) if file]
    if any(output.resolve() == Path(file).resolve() for file in (*files, args.apply)):
        raise ValueError(f"--output '{output}' is one of the inputs: choose another file.")
    items = _items(labels, args.predictions)
    print(write_json(output, apply_review(labels, items, read_review(args.apply, check_sum(files)))))


def _write_pages(args: argparse.Namespace, labels: dict) -> None:
    output = Path(args.output)
    require_apart(output, args.images)
    require_free(output, overwrite=args.overwrite)  # A network may take long.
    if not labels["categories"]:
        raise ValueError(f"'{args.labels}' has no categories, so there is nothing to audit.")
    classes = sorted(labels["categories"], key=lambda category: category["id"])
    with tempfile.TemporaryDirectory() as scratch:
        predictions = args.predictions
        if args.run:
            predictions = write_json(Path(scratch, PREDICTIONS), _predict(args, labels))
        count = write_page(
            output,
            pictures(labels, _items(labels, predictions)[: args.most or None], args.images),
            title=f"Audit of {os.path.basename(args.labels)}",
            source=check_sum([file for file in (args.labels, predictions) if file]),
            classes=[category["name"] for category in classes],
            texts=_texts(bool(predictions)),
            files={PREDICTIONS: predictions} if predictions else {},
            overwrite=args.overwrite,
        )
    print(f"{count} rows: {output / 'index.html'}")
    if predictions:
        print(f"--apply needs --predictions {output / PREDICTIONS}")


def _predict(args: argparse.Namespace, labels: dict) -> list[dict]:
    """Return the COCO results of the network of --run."""
    from s4m.deploy.dataset_run import predict_dataset  # Only this needs the networks.
    from s4m.deploy.predictor import RunDetector, S4MPredictor

    predictor = S4MPredictor.from_run(args.run, args.network)
    print(f"{predictor.network} of {predictor.cfg.MODEL.WEIGHTS}")
    return predict_dataset(RunDetector(predictor), labels, args.images)


def _items(labels: dict, predictions: str | Path | None) -> list[Item]:
    if predictions is None:
        return items_of_labels(labels)
    return items_of_comparison(labels, read_predictions(predictions, labels))


def _texts(has_predictions: bool) -> dict[str, str]:
    """Return what the page calls a row's masks."""
    if has_predictions:
        return {"mask": "given label", "other": "network", "take": "Take the network's"}
    return {"mask": "after SAM", "other": "before SAM", "take": "Take the mask before SAM"}
