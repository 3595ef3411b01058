"""Embeddings on disk: same numbers, bounded, and safe from damage, a full disk and kill -9."""

import errno
import logging
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from d2kit import bounded_folder
from s4m.sam import Prompts, build_segmenter
from s4m.sam.embedding_cache import EmbeddingCache

ENTRY = 60_000  # bytes, a little more than an entry of the tiny SAM


@pytest.fixture(scope="module")
def tiny():
    return build_segmenter("tiny")


def load(name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(name).convert("RGB"))).permute(2, 0, 1)


def refuse(name: str) -> torch.Tensor:
    raise AssertionError(f"{name} was read")


@pytest.fixture
def files(tmp_path) -> list[str]:
    names = []
    for index, size in enumerate([(64, 96), (50, 40), (30, 30)]):
        pixels = np.random.default_rng(index).integers(0, 255, (*size, 3), dtype=np.uint8)
        names.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(pixels).save(names[-1])
    return names


def entries(cache: EmbeddingCache) -> list:
    return sorted(cache.files.folder.glob("??/*.embedding"))


def test_it_equals_encoding_to_half_precision_and_reads_each_image_once(tiny, files, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache", tiny, 1.0)
    cold = cache.encode_files([files[0], files[1], files[0]], load)
    warm = EmbeddingCache(tmp_path / "cache", tiny, 1.0).encode_files([files[0], files[1], files[0]], refuse)
    plain = tiny.encode([load(files[0]), load(files[1]), load(files[0])])
    assert (cache.hits, cache.misses, len(entries(cache))) == (0, 2, 2)
    assert torch.equal(cold.features, warm.features) and cold.frames == warm.frames == plain.frames
    assert warm.features.dtype == torch.float32
    torch.testing.assert_close(warm.features, plain.features, rtol=2e-3, atol=2e-3)
    prompts = [Prompts(torch.tensor([[[20.0, 20]]]), torch.ones(1, 1))] * 3
    for one, other in zip(tiny.decode(warm, prompts), tiny.decode(plain, prompts), strict=True):
        torch.testing.assert_close(one.masks, other.masks, rtol=1e-2, atol=0.1)
        torch.testing.assert_close(one.quality, other.quality, rtol=1e-2, atol=1e-2)


def test_a_batch_gives_the_same_bits_whatever_the_cache_holds(tiny, files, tmp_path):
    """An encoder whose results depend on its batch, as those of a large SAM do, shows whether the cache lets them."""

    class BatchDependent:
        fingerprint, device = tiny.fingerprint, tiny.device

        def encode(self, images):
            embedding = tiny.encode(images)
            return replace(embedding, features=embedding.features + len(images))

    def encode(folder, names):
        return EmbeddingCache(tmp_path / folder, BatchDependent(), 1.0).encode_files(names, load).features

    cold = encode("cold", files)
    encode("partly_warm", files[1:2])
    assert torch.equal(encode("partly_warm", files), cold)
    assert torch.equal(encode("cold", files), cold)
    full = EmbeddingCache(tmp_path / "full", BatchDependent(), 1 / 2**30)
    assert torch.equal(full.encode_files(files, load).features, cold)


def test_an_image_that_changed_and_another_segmenter_are_misses(tiny, files, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache", tiny, 1.0)
    before = cache.encode_files(files[:1], load)
    os.utime(files[0], ns=(1, 1))
    Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(files[0])
    assert not torch.equal(cache.encode_files(files[:1], load).features, before.features)
    other = build_segmenter("tiny")
    other.network.prompt_encoder.no_mask_embed.weight.data += 1
    second = EmbeddingCache(tmp_path / "cache", other, 1.0)
    second.encode_files(files[:1], load)
    assert (second.hits, second.misses) == (0, 1)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_entry_is_a_miss_and_is_written_again(tiny, files, tmp_path, damage):
    cache = EmbeddingCache(tmp_path / "cache", tiny, 1.0)
    first = cache.encode_files(files[:1], load)
    (path,) = entries(cache)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes({"truncated": content[: len(content) // 2], "flipped": content, "empty": b""}[damage])
    assert torch.equal(cache.encode_files(files[:1], load).features, first.features)
    assert cache.misses == 2
    cache.encode_files(files[:1], refuse)
    assert cache.hits == 1


def test_a_full_cache_keeps_what_it_has(tiny, files, tmp_path, caplog):
    cache = EmbeddingCache(tmp_path / "cache", tiny, 2.5 * ENTRY / 2**30, images=1000)
    for _ in range(3):
        cache.encode_files(files, load)
    assert (cache.hits, cache.misses) == (4, 5)
    cache.encode_files(files[:2], refuse)
    assert sum(path.stat().st_size for path in entries(cache)) <= cache.files.max_bytes
    (warning,) = (record.getMessage() for record in caplog.records if "S4M.SAM.CACHE" in record.getMessage())
    size = entries(cache)[0].stat().st_size
    assert (
        "S4M.SAM.CACHE_GIB is 0.00014)" in warning and f"All 1000 need about {1000 * size / 2**30:.3g} GiB" in warning
    )


def test_a_warm_cache_that_can_only_be_read_answers(tiny, files, tmp_path, monkeypatch):
    def refuse_writing(*args, **options):
        raise PermissionError(errno.EROFS, "Read-only file system")

    EmbeddingCache(tmp_path / "cache", tiny, 1.0).encode_files(files, load)
    for module, name in ((os, "utime"), (os, "unlink"), (bounded_folder, "atomic_write")):
        monkeypatch.setattr(module, name, refuse_writing)
    cache = EmbeddingCache(tmp_path / "cache", tiny, 1.0)
    cache.encode_files(files, refuse)
    assert (cache.hits, cache.misses) == (3, 0)


def test_an_entry_larger_than_the_bound_still_answers(tiny, files, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache", tiny, 1 / 2**30)
    assert len(cache.encode_files(files, load)) == 3
    assert not entries(cache)
    with pytest.raises(ValueError, match="S4M.SAM.CACHE_GIB must be positive"):
        EmbeddingCache(tmp_path, tiny, 0)


def test_a_full_disk_is_one_warning_and_nothing_lost(tiny, files, tmp_path, monkeypatch, caplog):
    def full(path):
        raise OSError(errno.ENOSPC, f"'{path}' cannot be written: No space left on device")

    cache = EmbeddingCache(tmp_path / "cache", tiny, 1.0)
    cache.encode_files(files[:1], load)
    monkeypatch.setattr(bounded_folder, "atomic_write", full)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert len(cache.encode_files(files, load)) == 3
    warnings = [record.getMessage() for record in caplog.records if "S4M.SAM.CACHE" in record.getMessage()]
    assert len(warnings) == 1 and "No space left" in warnings[0]
    cache.encode_files(files[:1], refuse)


def test_an_absent_file_is_named(tiny, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache", tiny, 1.0)
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        cache.encode_files([str(tmp_path / "gone.png")], load)


def test_what_a_killed_process_left_is_cleared(tiny, files, tmp_path):
    cache = EmbeddingCache(tmp_path / "cache", tiny, 1.0)
    cache.encode_files(files[:1], load)
    (path,) = entries(cache)
    old, new = path.with_name(".x.embedding.1.tmp"), path.with_name(".y.embedding.2.tmp")
    old.write_bytes(b"part"), new.write_bytes(b"part")
    os.utime(old, (1, 1))
    EmbeddingCache(tmp_path / "cache", tiny, 1.0)
    assert not old.exists() and new.exists() and path.exists()


WRITER = """
import sys, torch
from s4m.sam.embedding_cache import EmbeddingCache
from s4m.sam.structures import Embedding, Frame

class Fake:
    fingerprint, device = "f", torch.device("cpu")
    def encode(self, images):
        return Embedding(torch.full((len(images), 64, 64, 64), 3.0), [Frame((8, 8), (8, 8), 8)] * len(images))

cache = EmbeddingCache(sys.argv[1], Fake(), 1.0)
load = lambda name: torch.zeros(3, 8, 8, dtype=torch.uint8)
if sys.argv[2] == "write":
    print("ready", flush=True)
    while True:
        for name in sys.argv[3:]:
            cache._write(cache._key(name), Fake().encode([0]))
else:
    assert bool((cache.encode_files(sys.argv[3:], load).features == 3).all())
    print(cache.hits + cache.misses)
"""


def test_kill_9_while_writing_leaves_whole_entries(files, tmp_path):
    folder = tmp_path / "cache"
    for delay in (0.05, 0.11):
        command = [sys.executable, "-c", WRITER, str(folder), "write", *files]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        for path in folder.glob("??/*.embedding"):
            assert path.stat().st_size > 2 * 64**3
    command = [sys.executable, "-c", WRITER, str(folder), "read", *files]
    read = subprocess.run(command, capture_output=True, text=True, check=False)
    assert read.stdout == "3\n", read.stderr
