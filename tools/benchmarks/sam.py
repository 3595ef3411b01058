"""The scenarios of SAM compare pseudo-label refinement and similarity maps with the plain ways to compute them."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data.transforms import NoOpTransform
from detectron2.structures import Boxes, Instances
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from benchmarks.harness import NOT_SLOWER, Case, Comparison, Goal, largest_difference
from d2kit.rng import seeded
from s4m.config import add_s4m_config
from s4m.data.shapes import ShapesRecipe, draw_scene
from s4m.losses.structural_distillation import (
    draw_query_points,
    grid_shape,
    points_to_cells,
    sam_similarity,
    structural_similarity,
)
from s4m.pseudo_labels.masks import tight_boxes
from s4m.pseudo_labels.prompts import sample_points
from s4m.pseudo_labels.refinement import Source, refine, replace_masks
from s4m.pseudo_labels.view_transform import ViewTransform
from s4m.sam import SEGMENTERS, PromptableSegmenter, Prompts, build_segmenter, mobile_sam
from s4m.sam.embedding_cache import EmbeddingCache
from s4m.sam.segment_anything import SamSegmenter

POINTS = 3  # This many points are drawn from each mask.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of both scenarios."""
    parser.add_argument("--segmenter", choices=sorted(SEGMENTERS), default="tiny", help="which SAM (default: tiny)")
    parser.add_argument("--checkpoint", default="", help="its weights; without, tiny has its own, others random ones")
    parser.add_argument("--images", type=int, help="sam_refinement: images of a batch (default: 8; ViT on a CPU: 1)")
    parser.add_argument("--instances", type=int, default=8, help="sam_refinement: pseudo-labels an image (default: 8)")
    parser.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"), help="default: 128 128 or 480 640")
    parser.add_argument("--queries", type=int, default=128, help="structural_distillation: queries (default: 128)")
    parser.add_argument("--chunk", type=int, help="structural_distillation: queries a chunk (default: S4M.SD.CHUNK)")


def make_segmenter(options: argparse.Namespace) -> tuple[PromptableSegmenter, str]:
    """Return the segmenter and the source of its weights: "package", "checkpoint" or "random", as quick as trained."""
    name = options.segmenter
    builders = {**sam_model_registry, mobile_sam.NAME: mobile_sam.build_mobile_sam}
    if options.checkpoint or name not in builders:
        segmenter = build_segmenter(name, options.checkpoint, options.device)
        return segmenter, "checkpoint" if options.checkpoint else "package"
    with seeded(0):
        return SamSegmenter(name, builders[name](), options.device), "random"


def image_size(options: argparse.Namespace) -> tuple[int, int]:
    """Return the height and width of the drawn images in pixels."""
    return tuple(options.image_size or ((128, 128) if options.segmenter == "tiny" else (480, 640)))


def draw_batch(
    count: int, instances: int, size: tuple[int, int], device: str
) -> tuple[list[torch.Tensor], list[Instances]]:
    """Draw images of shapes with a teacher's predictions, which are the true masks, blurred.

    Returns:
        `count` images (3, H, W) uint8 RGB; for each of them `instances` predictions with the fields that
        `s4m.pseudo_labels.selection.select` gives them. An object occurs again if the image has fewer objects.
    """
    rng = np.random.default_rng(0)
    recipe = ShapesRecipe(image_size=size, objects=(instances, instances))
    images = []
    predictions = []
    for _ in range(count):
        image, owner, names = draw_scene(recipe, rng)
        masks = [owner == 1 + i % len(names) for i in range(instances)]
        soft = [cv2.GaussianBlur(mask.astype(np.float32), (0, 0), min(size) / 64) for mask in masks]
        images.append(torch.from_numpy(image).permute(2, 0, 1).contiguous().to(device))
        predicted = Instances(size, soft_masks=torch.from_numpy(np.stack(soft)).clamp(0, 1))
        predicted.scores = torch.ones(instances)
        predicted.pred_masks = predicted.soft_masks > 0.5
        predicted.pred_boxes = Boxes(tight_boxes(predicted.pred_masks))
        predictions.append(predicted.to(device))
    return images, predictions


@torch.no_grad()
def refine_plainly(
    predictions: Sequence[Instances], images: Sequence[torch.Tensor], sam: Sam, prompts_a_call: int
) -> list[Instances]:
    """Return what `refine` returns, by segment-anything's SamPredictor, one image (3, H, W) uint8 RGB at a time."""
    predictor = SamPredictor(sam)
    refined = []
    for index, (predicted, image) in enumerate(zip(predictions, images, strict=True)):
        predictor.set_image(image.permute(1, 2, 0).cpu().numpy())
        points = sample_points(predicted.soft_masks, POINTS, torch.Generator().manual_seed(index))
        points = predictor.transform.apply_coords_torch(points, predicted.image_size)
        answers = []
        for prompts in points.split(prompts_a_call):
            labels = torch.ones(prompts.shape[:2], device=prompts.device)
            logits, scores, _ = predictor.predict_torch(prompts, labels, multimask_output=True, return_logits=True)
            best = scores.argmax(dim=1)
            rows = torch.arange(len(best), device=best.device)
            answers.append((logits[rows, best] > 0, scores[rows, best]))
        copy = predicted[:]
        copy.teacher_masks = predicted.pred_masks
        refined.append(replace_masks(copy, *map(torch.cat, zip(*answers, strict=True))))
    return refined


def refinement_difference(plain: Sequence[Instances], ours: Sequence[Instances]) -> dict[str, float]:
    """Return the share of mask pixels that differ and the largest difference of a predicted IoU."""
    masks = [(p.pred_masks != o.pred_masks).flatten() for p, o in zip(plain, ours, strict=True)]
    quality = [(p.sam_quality - o.sam_quality).abs() for p, o in zip(plain, ours, strict=True)]
    return {"share of mask pixels": torch.cat(masks).float().mean(), "predicted IoU": torch.cat(quality).max()}


def warm_source(images: Sequence[torch.Tensor], segmenter: PromptableSegmenter, folder: str) -> Source:
    """Return a source whose cache is filled; the views of its files are the images themselves."""
    files = {str(Path(folder, f"{index}.png")): image for index, image in enumerate(images)}
    names = list(files)
    for name in names:
        Path(name).touch()  # The cache identifies a file by its size and time, and nothing reads what it holds.
    cache = EmbeddingCache(Path(folder, "cache"), segmenter, 4.0)
    cache.encode_files(names, files.get)
    sizes = [tuple(image.shape[1:]) for image in images]
    views = [ViewTransform(NoOpTransform(), size, size) for size in sizes]
    return Source(lambda indices: cache.encode_files([names[i] for i in indices], files.get), views)


def sam_refinement(options: argparse.Namespace) -> Iterator[Case]:
    """Pseudo-label refinement image by image with SamPredictor is compared with one batch and with a warm cache."""
    segmenter, weights = make_segmenter(options)
    tiny = options.segmenter == "tiny"
    gpu = options.device == "cuda"
    count = (8 if tiny or gpu else 1) if options.images is None else options.images
    size = image_size(options)
    if not isinstance(segmenter.network, Sam) or min(count, options.instances) < 1:
        raise ValueError("sam_refinement needs a segmenter of segment-anything's parts, and an image with an instance.")
    images, predictions = draw_batch(count, options.instances, size, options.device)

    def ours(source: Source | None = None) -> list[Instances]:
        generators = [torch.Generator().manual_seed(index) for index in range(count)]
        return refine(predictions, images, segmenter, num_points=POINTS, generators=generators, source=source)

    on_cpu = Goal("not slower on a CPU (3 % are noise)", "speed_ratio", NOT_SLOWER)
    batched = Goal("at least 1.5 times as fast on a GPU", "speed_ratio", 1.5) if gpu else on_cpu
    # The tiny encoder is cheaper than the rest of the step.
    warm = [] if tiny else [Goal("at least 10 times as fast", "speed_ratio", 10.0)]
    exact = {"share of mask pixels": 1e-3, "predicted IoU": 1e-2}
    rounded = {"share of mask pixels": 1e-2, "predicted IoU": 3e-2}  # The cache keeps fp16.
    comparisons = [
        Comparison("image by image", "batched", refinement_difference, exact, [batched]),
        Comparison("prompt by prompt", "batched", refinement_difference, exact),
        Comparison("image by image", "warm cache", refinement_difference, rounded, warm),
    ]
    settings = {"segmenter": options.segmenter, "weights": weights, "images": count}
    settings |= {"instances": options.instances, "image_size": list(size), "points": POINTS}
    with tempfile.TemporaryDirectory() as folder:
        source = warm_source(images, segmenter, folder)
        ways = {
            "prompt by prompt": lambda: refine_plainly(predictions, images, segmenter.network, 1),
            "image by image": lambda: refine_plainly(predictions, images, segmenter.network, options.instances),
            "batched": ours,
            "warm cache": lambda: ours(source),
        }
        yield Case(settings, ways, comparisons)


def structural_distillation(options: argparse.Namespace) -> Iterator[Case]:
    """SAM's similarity maps with all decoder features held are compared with chunks; the embedding exists before."""
    if options.queries < 1:
        raise ValueError("--queries must be 1 or more.")
    cfg = get_cfg()
    add_s4m_config(cfg)
    chunk = cfg.S4M.SD.CHUNK if options.chunk is None else options.chunk
    segmenter, weights = make_segmenter(options)
    size = image_size(options)
    (image,), _ = draw_batch(1, 1, size, options.device)
    embedding = segmenter.encode([image])
    points = draw_query_points(size, None, options.queries, torch.Generator().manual_seed(0)).to(segmenter.device)
    cells = points_to_cells(points, size, embedding.valid[0])
    prompts = Prompts(points[:, None], torch.ones(len(points), 1, device=points.device))
    rows, cols = grid_shape(embedding.valid[0])
    settings = {"segmenter": options.segmenter, "weights": weights, "image_size": list(size)}
    settings |= {"queries": options.queries, "chunk": chunk}

    def similarity_of_all() -> torch.Tensor:
        ((_, _, tokens),) = segmenter.iter_tokens(embedding, [prompts], chunk=len(points))
        return structural_similarity(tokens[..., :rows, :cols], cells)

    ways = {
        "all features held": similarity_of_all,
        "chunked": lambda: sam_similarity(segmenter, embedding, [points], chunk)[0].similarity,
    }
    goals = [
        Goal("at most 1/8 of the memory", "memory_ratio", 8.0),
        Goal("not slower (3 % are noise)", "speed_ratio", NOT_SLOWER),
    ]
    comparison = Comparison(*ways, largest_difference("similarity"), {"similarity": 1e-3}, goals)
    yield Case(settings, ways, [comparison])
