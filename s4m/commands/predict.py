r"""Find the instances in images, folders and videos with a trained network.

    s4m predict data/images --run output/stage2 --output found
    s4m predict tiles.png clip.mp4 --run output/stage2 --network teacher --tile 128 --output found

The folder `found` gets overlays with the names and scores of the instances, detections.csv, and detections.json in
COCO format (RLE masks, scores, the names of the classes, the seconds of each image). Rows are written when their image
is done; until the end of the run, detections.jsonl stands for detections.json. A file that cannot be read is named and
left out; the exit status is then 1. --run takes the best checkpoint of a training, or else its newest, and names it.
With an exported file as --model, Detectron2 is not needed.
"""
