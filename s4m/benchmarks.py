"""Benchmark scenarios of s4m for tools/benchmark.py; `SCENARIOS` is all that it knows of them."""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.config import get_cfg
from detectron2.data.transforms import NoOpTransform
from detectron2.structures import Boxes, Instances
from segment_anything import SamPredictor, sam_model_registry
from segment_anything.modeling import Sam

from d2kit.benchmark import NOT_SLOWER, Case, Comparison, Goal, Scenario
from d2kit.rng import seeded
from s4m import benchmarks_ap, benchmarks_guards
from s4m.config import add_s4m_config
from s4m.data.images import read_image
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
from s4m.sam import SEGMENTERS, Embedding, PromptableSegmenter, Prompts, build_segmenter, mobile_sam
from s4m.sam.embedding_cache import EmbeddingCache
from s4m.sam.segment_anything import SamSegmenter

_POINTS = 3  # drawn from each mask
_CACHE_GIB = 4.0
_TINY_SIZE, _SIZE = (128, 128), (480, 640)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of these scenarios."""
    group = parser.add_argument_group("s4m")
    group.add_argument("--segmenter", choices=sorted(SEGMENTERS), default="tiny", help="which SAM (default: tiny)")
    group.add_argument("--checkpoint", default="", help="its weights; without, tiny has its own, others random ones")
    group.add_argument("--images", type=int, help="sam_refinement: images of a batch (default: 8; ViT on a CPU: 1)")
    group.add_argument("--instances", type=int, default=8, help="sam_refinement: pseudo-labels an image (default: 8)")
    group.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"), help="default: 128 128 or 480 640")
    group.add_argument("--queries", type=int, default=128, help="structural_distillation: queries (default: 128)")
    group.add_argument("--chunk", type=int, help="structural_distillation: queries a chunk (default: S4M.SD.CHUNK)")
    benchmarks_ap.add_arguments(group)


def make_segmenter(options: argparse.Namespace) -> tuple[PromptableSegmenter, str]:
    """The segmenter, and where its weights are from: "package", "checkpoint" or "random", as quick as trained ones."""
    name, device = options.segmenter, options.device
    builders = {**sam_model_registry, mobile_sam.NAME: mobile_sam.build_mobile_sam}
    if options.checkpoint or name not in builders:
        return build_segmenter(name, options.checkpoint, device), "checkpoint" if options.checkpoint else "package"
    with seeded(0):
        return SamSegmenter(name, builders[name](), device), "random"


def _image_size(options: argparse.Namespace) -> tuple[int, int]:
    return tuple(options.image_size or (_TINY_SIZE if options.segmenter == "tiny" else _SIZE))


def _image_count(options: argparse.Namespace) -> int:
    if options.images is not None:
        return options.images
    return 8 if options.segmenter == "tiny" or _on_gpu(options) else 1


def _on_gpu(options: argparse.Namespace) -> bool:
    return torch.device(options.device).type == "cuda"


def draw_batch(
    count: int, instances: int, size: tuple[int, int], device: str, seed: int = 0
) -> tuple[list[torch.Tensor], list[Instances]]:
    """Images of shapes with a teacher's predictions: the true masks, blurred.

    Returns:
        `count` images (3, H, W) uint8 RGB; for each `instances` predictions (an object occurs again where the image
        has fewer), as `s4m.pseudo_labels.selection.select` leaves them.
    """
    rng = np.random.default_rng(seed)
    recipe = ShapesRecipe(image_size=size, objects=(max(instances, 1), max(instances, 1)))
    images, predictions = [], []
    for _ in range(count):
        image, owner, names = draw_scene(recipe, rng)
        masks = [owner == 1 + i % len(names) for i in range(instances)]
        soft = [cv2.GaussianBlur(mask.astype(np.float32), (0, 0), min(size) / 64) for mask in masks]
        images.append(torch.from_numpy(image).permute(2, 0, 1).contiguous().to(device))
        found = Instances(size)
        found.soft_masks = torch.from_numpy(np.stack(soft)).clamp(0, 1) if soft else torch.zeros(0, *size)
        found.pred_masks = found.soft_masks > 0.5
        found.pred_boxes = Boxes(tight_boxes(found.pred_masks))
        found.scores = torch.ones(instances)
        found.pred_classes = torch.zeros(instances, dtype=torch.int64)
        predictions.append(found.to(device))
    return images, predictions


def _generators(count: int) -> list[torch.Generator]:
    """The same points in every run."""
    return [torch.Generator().manual_seed(i) for i in range(count)]


@torch.no_grad()
def refine_plainly(
    predictions: Sequence[Instances], images: Sequence[torch.Tensor], sam: Sam, prompts_a_call: int
) -> list[Instances]:
    """Refinement as segment-anything's own SamPredictor has it done: one image after the other.

    Args:
        predictions: of each image.
        images: (3, H, W) uint8 RGB.
        sam: the model.
        prompts_a_call: prompts of a decoder call.

    Returns:
        what `refine` returns.
    """
    predictor, refined = SamPredictor(sam), []
    for found, image, generator in zip(predictions, images, _generators(len(images)), strict=True):
        predictor.set_image(image.permute(1, 2, 0).cpu().numpy())
        points = sample_points(found.soft_masks, _POINTS, generator)
        points = predictor.transform.apply_coords_torch(points, found.image_size)
        masks, quality = [], []
        for some in points.split(prompts_a_call):
            labels = torch.ones(some.shape[:2], device=some.device)
            logits, scores, _ = predictor.predict_torch(some, labels, multimask_output=True, return_logits=True)
            best = scores.argmax(dim=1)
            rows = torch.arange(len(best), device=best.device)
            masks.append(logits[rows, best] > 0)
            quality.append(scores[rows, best])
        copy = found[:]
        copy.teacher_masks = found.pred_masks
        refined.append(replace_masks(copy, torch.cat(masks), torch.cat(quality)))
    return refined


def _refinement_difference(plain: Sequence[Instances], ours: Sequence[Instances]) -> dict[str, float]:
    masks = [(p.pred_masks != o.pred_masks).flatten() for p, o in zip(plain, ours, strict=True)]
    quality = [(p.sam_quality - o.sam_quality).abs() for p, o in zip(plain, ours, strict=True)]
    return {"share of mask pixels": torch.cat(masks).float().mean(), "predicted IoU": torch.cat(quality).max()}


def _warm_source(images: Sequence[torch.Tensor], segmenter: PromptableSegmenter, folder: str) -> Source:
    """A filled cache of the images' files, whose views are the images themselves."""
    names = [str(Path(folder, f"{index}.png")) for index in range(len(images))]
    for name, image in zip(names, images, strict=True):
        cv2.imwrite(name, image.flip(0).permute(1, 2, 0).cpu().numpy())
    cache = EmbeddingCache(Path(folder, "cache"), segmenter, _CACHE_GIB)

    def load(name: str) -> torch.Tensor:
        return torch.from_numpy(read_image(name, "RGB").copy()).permute(2, 0, 1)

    def embed(indices: list[int]) -> Embedding:
        return cache.encode_files([names[i] for i in indices], load)

    embed(list(range(len(images))))
    sizes = [tuple(image.shape[1:]) for image in images]
    return Source(embed, [ViewTransform(NoOpTransform(), size, size) for size in sizes])


def _refinement_comparisons(options: argparse.Namespace) -> list[Comparison]:
    batched = (
        [Goal("at least 1.5 times as fast on a GPU", "speed_ratio", 1.5)]
        if _on_gpu(options)
        else [Goal("not slower on a CPU (3 % are noise)", "speed_ratio", NOT_SLOWER)]
    )
    # The tiny encoder is cheaper than the rest of the step.
    warm = [] if options.segmenter == "tiny" else [Goal("at least 10 times as fast", "speed_ratio", 10.0)]
    exact = {"share of mask pixels": 1e-3, "predicted IoU": 1e-2}
    rounded = {"share of mask pixels": 1e-2, "predicted IoU": 3e-2}  # the cache keeps fp16
    return [
        Comparison("image by image", "batched", _refinement_difference, exact, batched),
        Comparison("prompt by prompt", "batched", _refinement_difference, exact),
        Comparison("image by image", "warm cache", _refinement_difference, rounded, warm),
    ]


def _refinement_cases(options: argparse.Namespace) -> Iterator[Case]:
    segmenter, weights = make_segmenter(options)
    count, size = _image_count(options), _image_size(options)
    if not isinstance(segmenter.network, Sam) or min(count, options.instances) < 1:
        raise ValueError("sam_refinement needs a segmenter of segment-anything's parts, and an image with an instance.")
    images, predictions = draw_batch(count, options.instances, size, options.device)

    def ours(source: Source | None = None) -> list[Instances]:
        generators = _generators(len(images))
        return refine(predictions, images, segmenter, num_points=_POINTS, generators=generators, source=source)

    def plain(prompts_a_call: int) -> Callable[[], list[Instances]]:
        return lambda: refine_plainly(predictions, images, segmenter.network, prompts_a_call)

    with tempfile.TemporaryDirectory() as folder:
        source = _warm_source(images, segmenter, folder)
        yield Case(
            settings={
                "segmenter": options.segmenter,
                "weights": weights,
                "images": count,
                "instances": options.instances,
                "image_size": list(size),
                "points": _POINTS,
            },
            ways={
                "prompt by prompt": plain(1),
                "image by image": plain(options.instances),
                "batched": ours,
                "warm cache": lambda: ours(source),
            },
            comparisons=_refinement_comparisons(options),
        )


def _similarity_plainly(
    segmenter: PromptableSegmenter, embedding: Embedding, points: torch.Tensor, cells: torch.Tensor
) -> torch.Tensor:
    """S_sam of one image with the decoder features of all queries held at once."""
    prompts = Prompts(points[:, None], torch.ones(len(points), 1, device=points.device))
    rows, cols = grid_shape(embedding.valid[0])
    ((_, _, tokens),) = segmenter.iter_tokens(embedding, [prompts], chunk=len(points))
    return structural_similarity(tokens[..., :rows, :cols], cells)


def _distillation_cases(options: argparse.Namespace) -> Iterator[Case]:
    if options.queries < 1:
        raise ValueError("--queries must be 1 or more.")
    cfg = get_cfg()
    add_s4m_config(cfg)
    chunk = cfg.S4M.SD.CHUNK if options.chunk is None else options.chunk
    segmenter, weights = make_segmenter(options)
    size = _image_size(options)
    (image,), _ = draw_batch(1, 1, size, options.device)
    embedding = segmenter.encode([image])
    points = draw_query_points(size, None, options.queries, torch.Generator().manual_seed(0)).to(segmenter.device)
    cells = points_to_cells(points, size, embedding.valid[0])
    yield Case(
        settings={
            "segmenter": options.segmenter,
            "weights": weights,
            "image_size": list(size),
            "queries": options.queries,
            "chunk": chunk,
        },
        ways={
            "all features held": lambda: _similarity_plainly(segmenter, embedding, points, cells),
            "chunked": lambda: sam_similarity(segmenter, embedding, [points], chunk)[0].similarity,
        },
        comparisons=[
            Comparison(
                "all features held",
                "chunked",
                lambda plain, ours: {"similarity": (plain - ours).abs().max()},
                {"similarity": 1e-3},
                [
                    Goal("at most 1/8 of the memory", "memory_ratio", 8.0),
                    Goal("not slower (3 % are noise)", "speed_ratio", NOT_SLOWER),
                ],
            )
        ],
    )


SCENARIOS = [
    Scenario(
        "sam_refinement",
        "pseudo-label refinement, image by image with SamPredictor, against one batch and against a warm cache",
        _refinement_cases,
    ),
    Scenario(
        "structural_distillation",
        "SAM's similarity maps of an image, all decoder features held, against chunks; without the embedding",
        _distillation_cases,
    ),
    benchmarks_ap.SCENARIO,
    benchmarks_guards.SCENARIO,
]
