"""Write labels in COCO format for Label Studio, or as a data set of YOLO for segmentation.

    s4m export-labels labels/labels.json --images data/more_images --format labelstudio --output labelstudio
    s4m export-labels labels/labels.json --images data/more_images --format yolo --output yolo

Label Studio gets tasks.json, with brush masks as predictions, and config.xml for the project's labeling interface.
YOLO gets data.yaml, a text file of polygons for each image, and a link to the images. CVAT and FiftyOne read the json
of `s4m label` as it is.
"""

import argparse

from s4m.labeling.exports import URL_PREFIX, write_label_studio, write_yolo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("labels", help="COCO json, for example of `s4m label`")
    parser.add_argument("--images", required=True, help="folder of its images")
    parser.add_argument("--format", required=True, choices=("labelstudio", "yolo"))
    parser.add_argument("--output", required=True, help="folder to write")
    parser.add_argument(
        "--prefix", default=URL_PREFIX, help="labelstudio: address of the folder of the images"
    )


def run(args: argparse.Namespace) -> None:
    """Write the files and print the path of the first."""
    if args.format == "yolo":
        print(write_yolo(args.labels, args.images, args.output))
    else:
        print(write_label_studio(args.labels, args.images, args.output, args.prefix))
