"""The segmenters and the warm cache of SAM's benchmarks."""

import argparse

from benchmarks import sam
from s4m.sam.tiny import build_tiny_sam


def parse(*argv):
    parser = argparse.ArgumentParser()
    sam.add_arguments(parser)
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(argv)


def test_a_warm_cache_reads_no_image_and_asks_no_encoder(tmp_path):
    options = parse()
    segmenter, _ = sam.make_segmenter(options)
    images, _ = sam.draw_batch(2, 1, (64, 96), "cpu")
    source = sam.warm_source(images, segmenter, str(tmp_path))
    segmenter.network.image_encoder = None
    assert len(source.embed([1, 0])) == 2


def test_other_segmenters_have_random_weights_without_a_checkpoint(monkeypatch):
    monkeypatch.setitem(sam.sam_model_registry, "vit_b", build_tiny_sam)
    options = parse("--segmenter", "vit_b")
    (first, origin), (second, _) = (sam.make_segmenter(options) for _ in range(2))
    assert origin == "random" and first.name == "vit_b" and first.fingerprint == second.fingerprint
