"""Promptable segmenters (SAM) behind one interface; importing this registers those the package knows."""

from s4m.sam import mobile_sam, sam2, sam3, sam_hq, segment_anything, tiny  # noqa: F401  (registration)
from s4m.sam.segmenter import SEGMENTERS, PromptableSegmenter, build_segmenter
from s4m.sam.structures import Answer, Embedding, Prompts

__all__ = [
    "SEGMENTERS",
    "Answer",
    "Embedding",
    "PromptableSegmenter",
    "Prompts",
    "build_segmenter",
]
