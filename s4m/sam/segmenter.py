"""Promptable segmenters share one interface: `encode` embeds a batch of images once, `decode` answers its prompts."""

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from segment_anything.utils.transforms import ResizeLongestSide
from torch import nn

from s4m.sam.structures import Answer, Embedding, Frame, Prompts

# Image tokens of a decoder call (prompts x channels x cells): four prompts of ViT-B on a CPU, which memory bounds.
_CPU_TOKENS = 4 * 256 * 64 * 64
_GPU_TOKENS = 16 * _CPU_TOKENS
# Input pixels of an encoder call: one image of ViT-B on a CPU.
_CPU_PIXELS = 1024**2
_GPU_PIXELS = 4 * _CPU_PIXELS
_LARGE = ("vit_l", "vit_h", "sam3", "sam_hq", "sam_hq_vit_large", "sam_hq_vit_huge")
_LARGE_GIB = 40  # these embed one image an encoder call on a GPU with less memory in all


class PromptableSegmenter(ABC):
    """A frozen network that segments what points and boxes mark. Its results have no gradient.

    It is no `nn.Module`: as an attribute of a model it enters no state_dict, optimizer or DDP bucket. A subclass
    defines how its network embeds and answers; this class handles frames and batches.

    Args:
        name: name in SEGMENTERS.
        network: network that is put in eval mode and frozen.
        side: side of the network's square input in pixels.
        device: device of the network.
        chunk: prompts a decoder call; 0 lets the device and the size of the tokens decide.

    Attributes:
        encode_batch: images an encoder call, which may be set; 0 lets the device and the size of the input decide.
    """

    encode_batch = 0

    def __init__(self, name: str, network: nn.Module, side: int, device: torch.device | str = "cpu", chunk: int = 0):
        self.name = name
        self.device = torch.device(device)
        self.network = network.to(self.device).eval().requires_grad_(False)
        self.side = side
        self.chunk = chunk

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the name and all weights; embeddings of equal fingerprints are interchangeable."""
        digest = hashlib.blake2b(self.name.encode(), digest_size=16)
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def frame(self, image_size: tuple[int, int]) -> Frame:
        """Place an image of (height, width) pixels in the network's input, which its longest side fills."""
        height, width = ResizeLongestSide.get_preprocess_shape(*image_size, self.side)
        return Frame(tuple(image_size), (max(height, 1), max(width, 1)), self.side)

    def token_shape(self, features: torch.Tensor) -> torch.Size:
        """Return the shape (C, h, w) of a prompt's image tokens for an embedding's features (B, C', h, w)."""
        return features.shape[1:]

    @abstractmethod
    def embed(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Embed images (3, h, w), float RGB in 0..255 and resized to their frames, as features (B, C, h, w)."""

    @abstractmethod
    def answer(self, features: torch.Tensor, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer N prompts, each with its own features.

        Args:
            features: (N, C, h, w) features of the prompts' images.
            prompts: prompts in pixels of the network's input.

        Returns:
            logits (N, 3, s, s) of three masks of the whole input (part, whole, more), and their predicted IoU (N, 3).
        """

    @abstractmethod
    def image_tokens(self, features: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """Return the image tokens (N, *token_shape) after the mask decoder's last two-way block; see `answer`."""

    @torch.no_grad()
    def encode(self, images: Sequence[torch.Tensor]) -> Embedding:
        """Embed a batch of images in as few encoder calls as `encode_batch` or the memory allows.

        Args:
            images: at least one image, each (3, H, W) uint8 RGB of any size.
        """
        for image in images:
            if image.ndim != 3 or image.shape[0] != 3 or image.dtype != torch.uint8:
                raise ValueError(f"encode needs uint8 images (3, H, W), not {image.dtype} {tuple(image.shape)}.")
        frames = [self.frame(tuple(image.shape[1:])) for image in images]
        batch = self.encode_batch or self._default_batch()
        features = []
        with torch.autocast(self.device.type, enabled=False):
            for start in range(0, len(images), batch):
                part = zip(images[start : start + batch], frames[start : start + batch], strict=True)
                features.append(self.embed([f.resize_image(image).to(self.device).float() for image, f in part]))
        return Embedding(torch.cat(features), frames)

    def _default_batch(self) -> int:
        """Return how many images an encoder call may have without exceeding the device's memory."""
        if self.device.type == "cpu":
            return min(max(1, _CPU_PIXELS // self.side**2), 8)
        properties = torch.cuda.get_device_properties(self.device) if self.device.type == "cuda" else None
        if properties and properties.total_memory < _LARGE_GIB * 2**30 and self.name in _LARGE:
            return 1
        return min(max(1, _GPU_PIXELS // self.side**2), 64)

    @torch.no_grad()
    def decode(
        self, embedding: Embedding, prompts: Sequence[Prompts], *, best: bool = False, enlarge: bool = True
    ) -> list[Answer]:
        """Answer the prompts of a batch, those of equal kind in one decoder call or in the chunks that memory requires.

        For example, images with 3, 0 and 2 single-point prompts and chunks of 4 take two calls: the first has the three
        prompts of image 0 and one of image 2, the second the last prompt. The answers have 3, 0 and 2 rows.

        Args:
            embedding: embedding of B images.
            prompts: B prompts, one `Prompts` an image; one of length 0 costs no decoder call.
            best: whether to keep only the mask of highest predicted IoU of each prompt (M = 1), before it is enlarged.
            enlarge: whether masks get the image's size. Otherwise they stay (N, M, s, s) of the whole input, so that a
                caller may enlarge the masks that it selects with `Frame.masks_to_image`.

        Returns:
            B answers.
        """
        if len(prompts) != len(embedding):
            raise ValueError(f"decode needs one Prompts an image: {len(prompts)} for {len(embedding)} images.")
        parts = defaultdict(list)
        for image, features, part in self._calls(embedding, prompts):
            with torch.autocast(self.device.type, enabled=False):
                masks, quality = self.answer(features, part)
            if best:
                quality, index = quality.max(dim=1, keepdim=True)
                masks = masks[torch.arange(len(masks)), index[:, 0]][:, None]
            for i in image.unique_consecutive().tolist():
                rows = image == i
                logits = masks[rows].float()
                logits = embedding.frames[i].masks_to_image(logits) if enlarge else logits
                parts[i].append((logits, quality[rows].float()))
        return [self._join(parts[i], embedding.image_sizes[i], 1 if best else 3) for i in range(len(embedding))]

    def iter_tokens(
        self, embedding: Embedding, prompts: Sequence[Prompts], chunk: int = 0
    ) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """Iterate over the decoder's image tokens without masks, a chunk of prompts at a time to bound the memory.

        The generator keeps no chunk, so a caller that drops each before the next holds only one.

        Args:
            embedding: embedding of B images.
            prompts: B prompts, one `Prompts` an image.
            chunk: greatest number of prompts in a chunk; 0 is the segmenter's own.

        Yields:
            index of the image, the prompts' rows, tokens (n, C, h, w) float32; see `Embedding.valid` for padded cells.
        """
        for i, image_prompts in enumerate(prompts):
            features = embedding.features[i : i + 1].to(self.device)
            step = chunk or self._chunk(features)
            for start in range(0, len(image_prompts), step):
                part = image_prompts[start : start + step].to_input(embedding.frames[i], self.device)
                yield i, slice(start, start + len(part)), self._tokens(features, part)

    # The generator itself has no decorator, because torch's wrapper would keep a chunk while the next is computed.
    @torch.no_grad()
    def _tokens(self, features: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self.image_tokens(features.float().expand(len(prompts), -1, -1, -1), prompts).float()

    def _chunk(self, features: torch.Tensor) -> int:
        limit = _CPU_TOKENS if self.device.type == "cpu" else _GPU_TOKENS
        return self.chunk or max(1, limit // self.token_shape(features).numel())

    def _calls(self, embedding: Embedding, prompts: Sequence[Prompts]) -> Iterator[tuple]:
        """Yield chunks of prompts of equal kind: images (n,), features (n, C, h, w), prompts in the input's pixels."""
        images_by_kind = defaultdict(list)
        for i, image_prompts in enumerate(prompts):
            if len(image_prompts):
                images_by_kind[image_prompts.kind].append(i)
        step = self._chunk(embedding.features)
        for members in images_by_kind.values():
            joint = Prompts.cat([prompts[i].to_input(embedding.frames[i], self.device) for i in members])
            counts = torch.tensor([len(prompts[i]) for i in members])
            images = torch.tensor(members).repeat_interleave(counts)
            for start in range(0, len(joint), step):
                rows = slice(start, start + step)
                features = embedding.features[images[rows].to(embedding.features.device)]
                yield images[rows], features.to(self.device).float(), joint[rows]

    def _join(self, parts: list[tuple], image_size: tuple[int, int], count: int) -> Answer:
        """Join the decoder calls' parts for one image into an answer with `count` masks a prompt."""
        if len(parts) == 1:
            return Answer(*parts[0])  # This avoids a copy of the masks, which are large.
        if parts:
            return Answer(*map(torch.cat, zip(*parts, strict=True)))
        masks = torch.zeros(0, count, *image_size, device=self.device)
        return Answer(masks, torch.zeros(0, count, device=self.device))


# Functions (name, checkpoint, device, chunk) that build the segmenter of an S4M.SAM.NAME; a new one is added here.
SEGMENTERS: dict[str, Callable[[str, str, torch.device | str, int], PromptableSegmenter]] = {}


def build_segmenter(
    name: str, checkpoint: str = "", device: torch.device | str = "cpu", chunk: int = 0, encode_batch: int = 0
) -> PromptableSegmenter:
    """Build the frozen segmenter of a name.

    Args:
        name: vit_b, vit_l, vit_h (segment-anything), mobile_sam, tiny (carried by the package), one that was
            registered, or through transformers sam2 (any size), sam2_hiera_* and sam2.1_hiera_* (tiny, small,
            base_plus, large), sam3, sam_hq (any size) and sam_hq_vit_* (base, large, huge). A name of the hub such as
            "facebook/sam2.1-hiera-large" stands for its last part.
        checkpoint: file of the weights, or of networks through transformers a folder in the hub's layout, as nothing
            is downloaded; tiny needs none.
        device: device of the network.
        chunk: prompts a decoder call; 0 lets the device decide.
        encode_batch: images an encoder call; 0 lets the device decide.

    Raises:
        ValueError: the name is unknown, `encode_batch` is negative, or the checkpoint is another model's.
        FileNotFoundError: the checkpoint is absent.
        ImportError: transformers is missing or too old.
    """
    if "/" in name and (last := name.rpartition("/")[2].replace("-", "_")) in SEGMENTERS:
        name = last
    if name not in SEGMENTERS:
        raise ValueError(f"S4M.SAM.NAME is '{name}', but the segmenters are {', '.join(sorted(SEGMENTERS))}.")
    if encode_batch < 0:
        raise ValueError(f"S4M.SAM.ENCODE_BATCH must be 0 or more, but is {encode_batch}.")
    segmenter = SEGMENTERS[name](name, checkpoint, device, chunk)
    segmenter.encode_batch = encode_batch
    return segmenter
