"""The pipeline and structural distillation with the SAM that the package carries: real prompts, masks that improve."""

import weakref

import cv2
import numpy as np
import pytest
import torch
from detectron2.data.transforms import HFlipTransform, ResizeTransform, TransformList
from detectron2.structures import BitMasks, Instances
from torch.nn import functional as F

from s4m.evaluation.pseudo_label_quality import evaluate_pseudo_labels
from s4m.losses.structural_distillation import draw_query_points, sam_similarity, structural_distillation_loss
from s4m.pseudo_labels.pipeline import PseudoLabeler
from s4m.pseudo_labels.refinement import Source
from s4m.pseudo_labels.view_transform import ViewTransform
from s4m.sam import build_segmenter

CENTRES = [(30, 32, 20, 14), (95, 30, 14, 22), (60, 78, 26, 12), (122, 76, 16, 16)]
SIZE = (104, 150)


@pytest.fixture(scope="module")
def tiny():
    return build_segmenter("tiny")


@pytest.fixture
def scene():
    """A noisy RGB image (3, 104, 150) with four ellipses, and their masks."""
    rng = np.random.default_rng(0)
    image = np.full((*SIZE, 3), (70, 100, 80), np.float32)
    masks = []
    for index, (x, y, a, b) in enumerate(CENTRES):
        mask = np.zeros(SIZE, np.uint8)
        cv2.ellipse(mask, (x, y), (a, b), 20 * index, 0, 360, 1, -1)
        image[mask > 0] = [(220, 60, 50), (60, 80, 220), (230, 210, 60), (200, 200, 220)][index]
        masks.append(torch.from_numpy(mask > 0))
    image = np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    return torch.from_numpy(image).permute(2, 0, 1).contiguous(), torch.stack(masks)


def coarse(masks, cell=9):
    """What a teacher with a coarse mask head would say of these masks."""
    blocks = F.avg_pool2d(masks[:, None].float(), cell, ceil_mode=True)
    return F.interpolate(blocks, scale_factor=cell)[:, 0, : masks.shape[1], : masks.shape[2]]


def truth(masks):
    return Instances(tuple(masks.shape[1:]), gt_classes=torch.arange(len(masks)), gt_masks=BitMasks(masks))


def test_sam_improves_coarse_masks(tiny, scene, make_predictions):
    image, masks = scene
    predictions = make_predictions(coarse(masks), classes=range(4))
    entry = {"image": image.flip(0), "instances": truth(masks)}
    labeler = PseudoLabeler(num_points=3, bgr=True)
    figures, example = evaluate_pseudo_labels([(entry, predictions)], labeler, tiny, list("abcd"))
    assert example.refined == 4
    assert figures["after/iou"] > figures["before/iou"]
    assert figures["after/iou"] > 0.85


def test_embedding_of_the_unaugmented_image_serves_a_view(tiny, scene, make_predictions):
    image, masks = scene
    view_size = (78, 200)
    transforms = TransformList([HFlipTransform(SIZE[1]), ResizeTransform(*SIZE, *view_size)])
    view = ViewTransform(transforms, SIZE, view_size)
    seen = view.masks_to_view(masks)
    weak = [{"image": torch.zeros(3, *view_size, dtype=torch.uint8), "seed": 1}]
    labeler = PseudoLabeler(num_points=3, bgr=False)
    predictions = make_predictions(coarse(seen), classes=range(4))
    source = Source(lambda indices: tiny.encode([image])[indices], [view])
    labels, record = labeler.label(weak, [predictions], tiny, source)
    found = labels[0].gt_masks.tensor
    iou = (found & seen).sum(dim=(1, 2)) / (found | seen).sum(dim=(1, 2))
    assert record.images[0].refined == 4
    assert iou.mean() > 0.85


def test_distillation_holds_one_chunk_of_tokens_at_a_time(tiny, scene, monkeypatch):
    made, image_tokens = [], tiny.image_tokens

    def watched(*args):
        assert not any(tokens() is not None for tokens in made)
        tokens = image_tokens(*args)
        assert not tokens.requires_grad
        made.append(weakref.ref(tokens))
        return tokens

    monkeypatch.setattr(tiny, "image_tokens", watched)
    size = tuple(scene[0].shape[1:])
    points = draw_query_points(size, None, 6, torch.Generator().manual_seed(0))
    sam_similarity(tiny, tiny.encode([scene[0]]), [points], chunk=2)
    assert len(made) == 3


def test_distillation_from_the_tiny_sam(tiny, scene):
    image, masks = scene
    images, foregrounds = [image, image[:, :60, :90]], [masks.any(dim=0), None]
    sizes = [tuple(i.shape[1:]) for i in images]
    embedding = tiny.encode(images)
    generator = torch.Generator().manual_seed(0)
    points = [draw_query_points(s, f, 12, generator) for s, f in zip(sizes, foregrounds, strict=True)]
    streamed, at_once = (sam_similarity(tiny, embedding, points, chunk=chunk) for chunk in (5, 12))
    assert streamed[0].similarity.shape == (12, 12 * 16)  # 104 of 150 rows: 11.1 of the grid's 16
    for one, other in zip(streamed, at_once, strict=True):
        torch.testing.assert_close(one.similarity, other.similarity, atol=1e-4, rtol=0)
        own = one.cells[:, 0] * int(np.ceil(one.extent[1])) + one.cells[:, 1]
        torch.testing.assert_close(one.similarity[torch.arange(12), own], torch.ones(12), atol=1e-4, rtol=0)
    features = torch.randn(2, 8, 28, 40, generator=generator, requires_grad=True)
    loss = structural_distillation_loss(features, streamed, sizes, (112, 160))
    loss.backward()
    assert loss.item() > 0.01
    assert (features.grad[1, :, 15:] == 0).all()
    assert features.grad[1, :, :15].abs().sum() > 0
