r"""Review points and pseudo-masks in a browser: write a folder of pages, then carry out what was decided on them.

    istd audit output/alcnet --output audit
    istd audit sirst:my_targets:train.txt --output audit
    istd audit sirst:my_targets:train.txt --apply review.json --output reviewed

Open audit/index.html by a double click; nothing is loaded from outside. The page sorts points by doubt, and shows the
first and the latest pseudo-masks of a training, or the masks of a data set. The button of the page saves review.json.
--apply writes points.csv and masks, which the options of a data set name.
"""

import argparse
from pathlib import Path

from d2kit.audit.page import write_page
from d2kit.audit.review import check_sum, read_review
from d2kit.files import require_apart
from istd.audit.files import described, pictures, read_audit, write_reviewed
from istd.data.builtin import register_scenes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("source", help="data set with points, or OUTPUT_DIR of a training on points")
    parser.add_argument("--apply", metavar="REVIEW", help="carry out this review instead of writing pages")
    parser.add_argument("--output", required=True, help="folder of the pages or, with --apply, of points and masks")
    parser.add_argument("--most", type=int, default=0, help="show only so many rows, the most doubtful; 0 for all")
    parser.add_argument("--overwrite", action="store_true", help="replace earlier pages in --output")


def run(args: argparse.Namespace) -> None:
    """Write the pages, or the reviewed points and masks, and print their place."""
    if args.most < 0:
        raise argparse.ArgumentError(None, f"--most must be 0 or more, not {args.most}")
    register_scenes()  # A built-in set may be named.
    output = Path(args.output)
    audit = read_audit(args.source)
    items = audit.items()
    points = "\n".join(f"{record['image_id']} {record['points']}" for record in audit.records)
    source = check_sum(audit.files, points)
    if args.apply:
        count = write_reviewed(audit, items, read_review(args.apply, source), output)
        print(f"{count} points: {output}, read by sirst:ROOT:SPLIT:{described(output)}")
        return
    for folder in {Path(record["file_name"]).parent for record in audit.records}:
        require_apart(output, folder)
    count = write_page(
        output,
        pictures(audit, items[: args.most or None]),
        title=f"Audit of {args.source}",
        source=source,
        classes=["target"],
        texts={"mask": "latest mask" if audit.first else "mask", "other": "first mask", "take": "Take the first mask"},
        overwrite=args.overwrite,
    )
    print(f"{count} rows: {output / 'index.html'}")
