"""A segmenter that answers from a picture, and teacher predictions to refine."""

import pytest
import torch
from detectron2.structures import Boxes, Instances

from s4m.pseudo_labels.masks import tight_boxes
from s4m.sam import Answer


class FakeEmbedding:
    def __init__(self, images):
        self.images = list(images)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, indices):
        return FakeEmbedding([self.images[i] for i in indices])


class FakeSegmenter:
    """For each prompt three candidates: all, the pixels of the first point's red value (trusted most), nothing."""

    device = torch.device("cpu")

    def __init__(self, trusted=1):
        self.encoded, self.decoded, self.trusted = [], [], trusted

    def encode(self, images):
        assert all(image.dtype == torch.uint8 and image.shape[0] == 3 for image in images)
        self.encoded.append(len(images))
        return FakeEmbedding(images)

    def decode(self, embedding, prompts, *, best=False):
        assert len(embedding) == len(prompts)
        self.decoded.append([tuple(prompt.points.shape) for prompt in prompts])
        answers = [self.answer(image[0], prompt) for image, prompt in zip(embedding.images, prompts, strict=True)]
        return [self.best(answer) for answer in answers] if best else answers

    def best(self, answer):
        return Answer(masks=answer.masks[:, [self.trusted]], quality=answer.quality[:, [self.trusted]])

    def answer(self, red, prompt):
        assert (prompt.labels == 1).all()
        x, y = prompt.points[:, 0].long().unbind(1)
        same = torch.where(red[None] == red[y, x][:, None, None], 5.0, -5.0)
        masks = torch.stack([torch.full_like(same, 5.0), same, torch.full_like(same, -5.0)], dim=1)
        quality = torch.full((len(x), 3), 0.3)
        quality[:, self.trusted] = 0.8
        return Answer(masks=masks, quality=quality)


@pytest.fixture
def segmenter():
    return FakeSegmenter()


@pytest.fixture
def make_segmenter():
    return FakeSegmenter


@pytest.fixture
def make_predictions():
    """Function (soft masks (N, H, W), scores, classes) -> predictions of a teacher."""

    def make(soft, scores=None, classes=None):
        count = len(soft)
        return Instances(
            tuple(soft.shape[1:]),
            pred_boxes=Boxes(tight_boxes(soft > 0.5)),
            scores=torch.full((count,), 0.9) if scores is None else torch.as_tensor(scores),
            pred_classes=torch.arange(count) % 3 if classes is None else torch.as_tensor(classes),
            soft_masks=soft,
        )

    return make


@pytest.fixture
def make_squares():
    """Function (count, height, width, side) -> red values (H, W) uint8 and masks (N, H, W) bool of squares."""

    def make(count, height, width, side):
        red = torch.zeros(height, width, dtype=torch.uint8)
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        across = width // (side + 1)
        for index in range(count):
            y, x = (index // across) * (side + 1), (index % across) * (side + 1)
            masks[index, y : y + side, x : x + side] = True
            red[masks[index]] = 1 + index % 250
        assert masks.flatten(1).any(dim=1).all()
        return red, masks

    return make
