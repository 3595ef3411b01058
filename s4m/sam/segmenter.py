"""Promptable segmenters behind one interface: `encode` a batch of images once, `decode` the prompts of all of them."""

import hashlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property

import torch
from torch import nn

from s4m.sam.structures import Answer, Embedding, Frame, Prompts

# Image tokens of a decoder call (prompts x channels x cells): on a CPU, bound by memory, four prompts of ViT-B's.
_CPU_TOKENS = 4 * 256 * 64 * 64
_GPU_TOKENS = 16 * _CPU_TOKENS
# Input pixels of an encoder call: one image of ViT-B's on a CPU.
_CPU_PIXELS = 1024**2
_GPU_PIXELS = 4 * _CPU_PIXELS
_LARGE = ("vit_l", "vit_h")  # one image an encoder call on a GPU with less than _LARGE_GIB in all
_LARGE_GIB = 40


class PromptableSegmenter(ABC):
    """A frozen network that segments what points, boxes and masks point at. Nothing that it returns has a gradient.

    It is no `nn.Module`, and holds its network in `self.network`: as an attribute of a model it enters no state_dict,
    optimizer or DDP bucket. A subclass says how its network embeds and answers; frames and batches are dealt with here.

    Args:
        name: the name it was built by.
        network: put in eval mode; its parameters need no gradient.
        side: of the network's square input in pixels.
        device: where the network runs.
        chunk: prompts a decoder call; 0: chosen by the device and the size of the tokens.

    `encode_batch` may be set: images an encoder call; 0: chosen by the device and the size of the input.
    """

    encode_batch = 0

    def __init__(self, name: str, network: nn.Module, side: int, device: torch.device | str = "cpu", chunk: int = 0):
        self.name = name
        self.network = network.eval().requires_grad_(False)
        self.side = side
        self.chunk = chunk
        self.to(device)

    def to(self, device: torch.device | str) -> "PromptableSegmenter":
        """Move the network, in place."""
        self.device = torch.device(device)
        self.network.to(self.device)
        return self

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the name and of every weight: embeddings of equal fingerprints are interchangeable."""
        digest = hashlib.blake2b(self.name.encode(), digest_size=16)
        for key, value in sorted(self.network.state_dict().items()):
            digest.update(f"{key}{tuple(value.shape)}{value.dtype}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def frame(self, image_size: tuple[int, int]) -> Frame:
        """How an image of (height, width) pixels is laid into the network's input."""
        return Frame.longest_side(image_size, self.side)

    def token_shape(self, features: torch.Tensor) -> torch.Size:
        """Shape (C, h, w) of a prompt's image tokens, from an embedding's features (B, C', h, w)."""
        return features.shape[1:]

    @abstractmethod
    def embed(self, images: list[torch.Tensor]) -> torch.Tensor:
        """Images (3, h, w) float RGB in 0..255, already resized to their frames -> features (B, C, h, w)."""

    @abstractmethod
    def answer(self, features: torch.Tensor, prompts: Prompts) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer N prompts, each with features of its own.

        Args:
            features: (N, C, h, w).
            prompts: in pixels of the network's input.

        Returns:
            logits (N, 3, s, s) of three masks of the whole input (part, whole, more), and their quality (N, 3).
        """

    @abstractmethod
    def image_tokens(self, features: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        """The image tokens (N, *token_shape) after the mask decoder's last two-way block; arguments as of `answer`."""

    @torch.no_grad()
    def encode(self, images: Sequence[torch.Tensor]) -> Embedding:
        """Embed a batch of images, in as few encoder calls as `encode_batch` or the memory allows.

        Args:
            images: (3, H, W) uint8 RGB, at least one, of any sizes.
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
        """Images an encoder call that the device's memory is sure to hold."""
        if self.device.type == "cpu":
            return min(max(1, _CPU_PIXELS // self.side**2), 8)
        small = self.device.type == "cuda" and (
            torch.cuda.get_device_properties(self.device).total_memory < _LARGE_GIB * 2**30
        )
        if small and self.name in _LARGE:
            return 1
        return min(max(1, _GPU_PIXELS // self.side**2), 64)

    @torch.no_grad()
    def decode(
        self,
        embedding: Embedding,
        prompts: Sequence[Prompts],
        *,
        best: bool = False,
        enlarge: bool = True,
    ) -> list[Answer]:
        """Answer the prompts of a batch: those of one kind in one decoder call, chunked where memory asks for it.

        Args:
            embedding: of B images.
            prompts: one for each image; N = 0 is fine and costs no decoder call.
            best: keep of the masks of a prompt only that of highest predicted IoU (M = 1), before it is enlarged.
            enlarge: False leaves masks as the decoder gives them, (N, M, s, s) of the whole input, for
                `Frame.masks_to_image`: of many candidates only the chosen ones need the image's size.

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
        count = 1 if best else 3
        return [self._assemble(parts[i], embedding.image_sizes[i], count) for i in range(len(embedding))]

    def iter_tokens(
        self, embedding: Embedding, prompts: Sequence[Prompts], chunk: int = 0
    ) -> Iterator[tuple[int, slice, torch.Tensor]]:
        """The decoder's image tokens, a chunk of prompts at a time, without masks: what never has to be held at once.

        Nothing here keeps a chunk that was handed out: who lets go of it before asking for the next holds one at most.

        Args:
            embedding: of B images; prompts: one for each image.
            chunk: most prompts in a chunk; 0: the segmenter's own.

        Yields:
            index of the image, the prompts' rows, tokens (n, C, h, w) float32; see `Embedding.valid` for padded cells.
        """
        for i, questions in enumerate(prompts):
            frame, features = embedding.frames[i], embedding.features[i : i + 1].to(self.device)
            step = chunk or self._chunk(features)
            for start in range(0, len(questions), step):
                part = questions[start : start + step].to_input(frame, self.device)
                yield i, slice(start, start + len(part)), self._tokens(features, part)

    # Not on the generator: torch's wrapper of one would keep the last chunk while the next is made.
    @torch.no_grad()
    def _tokens(self, features: torch.Tensor, prompts: Prompts) -> torch.Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self.image_tokens(features.float().expand(len(prompts), -1, -1, -1), prompts).float()

    def _chunk(self, features: torch.Tensor) -> int:
        limit = _CPU_TOKENS if self.device.type == "cpu" else _GPU_TOKENS
        return self.chunk or max(1, limit // self.token_shape(features).numel())

    def _calls(
        self, embedding: Embedding, prompts: Sequence[Prompts]
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, Prompts]]:
        """Chunks of prompts of one kind: their images (n,), features (n, C, h, w), and they in the network's input."""
        kinds = defaultdict(list)
        for i, questions in enumerate(prompts):
            if len(questions):
                kinds[questions.kind].append(i)
        step = self._chunk(embedding.features)
        for members in kinds.values():
            joint = Prompts.cat([prompts[i].to_input(embedding.frames[i], self.device) for i in members])
            counts = torch.tensor([len(prompts[i]) for i in members])
            images = torch.tensor(members).repeat_interleave(counts)
            for start in range(0, len(joint), step):
                rows = slice(start, start + step)
                features = embedding.features[images[rows].to(embedding.features.device)]
                yield images[rows], features.to(self.device).float(), joint[rows]

    def _assemble(self, parts: list[tuple], image_size: tuple[int, int], count: int) -> Answer:
        """One answer about an image of the decoder calls' parts, with `count` masks for each prompt."""
        if not parts:
            sizes = (count, *image_size), (count,)
            parts = [tuple(torch.zeros(0, *size, device=self.device) for size in sizes)]
        if len(parts) == 1:
            return Answer(*parts[0])  # without a copy of the masks, which are large
        return Answer(*map(torch.cat, zip(*parts, strict=True)))


# S4M.SAM.NAME -> function (name, checkpoint, device, chunk) that builds the segmenter; a new kind adds itself here.
SEGMENTERS: dict[str, Callable[[str, str, torch.device | str, int], PromptableSegmenter]] = {}


def build_segmenter(
    name: str, checkpoint: str = "", device: torch.device | str = "cpu", chunk: int = 0, encode_batch: int = 0
) -> PromptableSegmenter:
    """The frozen segmenter of a name.

    Args:
        name: vit_b, vit_l, vit_h (segment-anything), mobile_sam, sam2_hiera_* and sam2.1_hiera_* (tiny, small,
            base_plus, large; through transformers), tiny (carried by the package), or one that was registered.
        checkpoint: file of its weights, of SAM 2 a folder in the hub's layout; tiny needs none.
        device: where it runs.
        chunk: prompts a decoder call; 0: chosen by the device.
        encode_batch: images an encoder call; 0: chosen by the device.

    Raises:
        ValueError: an unknown name, a negative `encode_batch`, or a checkpoint of another model.
        FileNotFoundError: the checkpoint is absent.
    """
    if name not in SEGMENTERS:
        raise ValueError(f"S4M.SAM.NAME is '{name}', but the segmenters are {', '.join(sorted(SEGMENTERS))}.")
    if encode_batch < 0:
        raise ValueError(f"S4M.SAM.ENCODE_BATCH must be 0 or more, but is {encode_batch}.")
    segmenter = SEGMENTERS[name](name, checkpoint, device, chunk)
    segmenter.encode_batch = encode_batch
    return segmenter
