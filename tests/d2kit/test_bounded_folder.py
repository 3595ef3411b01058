"""A folder that many writers share stays below its bound and keeps what came first."""

import logging
from pathlib import Path

import pytest
from detectron2.utils import comm

from d2kit.bounded_folder import BoundedFolder

GIB = 2**30
FILE = 1000  # bytes with the checksum


def make(folder, files, **options):
    return BoundedFolder(folder, files * FILE / GIB, ".part", key="A.CACHE", **options)


def size(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.part"))


def content(key):
    return key.encode().ljust(FILE - 16)


@pytest.mark.parametrize("processes", [1, 8])
def test_eight_writers_keep_the_bound(tmp_path, monkeypatch, processes):
    monkeypatch.setattr(comm, "get_world_size", lambda: processes)
    writers = [make(tmp_path, 100) for _ in range(8)]
    most = 0
    for number in range(400):
        writers[number % 8].write(str(number), content(str(number)))
        most = max(most, size(tmp_path))
    assert 99 * FILE < most <= 100 * FILE


def test_writers_that_idled_exceed_it_by_an_eighth_at_most(tmp_path, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 8)
    writers = [make(tmp_path, 100) for _ in range(8)]
    for writer, count in zip(writers, (400, *[50] * 7), strict=True):
        for number in range(count):
            key = f"{id(writer)} {number}"
            writer.write(key, content(key))
    assert 99 * FILE < size(tmp_path) <= (100 + 100 / 8) * FILE


def test_what_came_first_stays_and_the_warning_is_one(tmp_path, caplog):
    folder = make(tmp_path, 10.5, expected=40)
    with caplog.at_level(logging.WARNING):
        for number in [*range(40), *range(40)]:
            folder.write(str(number), content(str(number)))
    assert [folder.read(str(number)) is not None for number in range(40)] == [True] * 10 + [False] * 30
    assert folder.read("3") == content("3")
    (record,) = caplog.records
    assert "A.CACHE_GIB is 9.78e-06" in record.getMessage()
    assert f"All 40 need about {40 * FILE / GIB:.3g} GiB." in record.getMessage()
    assert make(tmp_path, 20).read("3") == content("3")


def test_a_scan_is_rare_while_there_is_room(tmp_path, monkeypatch):
    folder, scans = make(tmp_path, 2000), []
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: scans.append(path) or glob(path, pattern))
    for number in range(1000):
        folder.write(str(number), b"".ljust(FILE - 16))
    assert 1 <= len(scans) <= 6
