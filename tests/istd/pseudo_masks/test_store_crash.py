"""The store after kill -9 and on a full disk: always the old version or the new one."""

import errno
import multiprocessing
import os
import resource
import signal
import time

import numpy as np
import pytest

from d2kit import files
from istd.pseudo_masks.store import PseudoMaskStore

FORK = multiprocessing.get_context("fork")
STEPS = ("masks-", "drift.jsonl", "store.json")  # what an update replaces, in this order


def content(version):
    """Every mask and the pool of one version follow from its number."""
    rng = np.random.default_rng(version)
    return {name: rng.random((40, 50), dtype=np.float32) for name in "abcd"}, set("abcd"[: 1 + version % 4])


def write_versions(folder, start, stop):
    store = PseudoMaskStore.open(folder)
    for version in range(start, stop):
        store.update(content(version)[0], epoch=version, enter=content(version)[1])


@pytest.fixture
def folder(tmp_path):
    masks, pool = content(0)
    PseudoMaskStore.create(tmp_path, masks, pool, keep=3)
    return tmp_path


def assert_whole(folder):
    store = PseudoMaskStore.open(folder)
    masks, pool = content(store.version)
    assert all(np.array_equal(store.mask(name), mask) for name, mask in masks.items())
    assert pool <= store.pool and store.epoch == store.version
    assert [report["version"] for report in store.drift()] == list(range(1, store.version + 1))
    wanted = {"store.json", "drift.jsonl"} | {
        f"masks-{v:06d}.npz" for v in range(max(0, store.version - 2), store.version + 1)
    }
    assert {path.name for path in folder.iterdir()} == wanted
    return store.version


def run(target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    return process


def wait_for_a_commit(folder, process):
    """Until the pointer is replaced: however slow the machine is, every trial has seen the store move."""
    pointer = folder / "store.json"
    before = pointer.stat().st_ino, pointer.stat().st_mtime_ns
    while (pointer.stat().st_ino, pointer.stat().st_mtime_ns) == before:
        assert process.is_alive()
        time.sleep(0.001)


def test_killed_at_random_moments(folder):
    rng = np.random.default_rng(0)
    version = 0
    for _ in range(10):
        process = run(write_versions, folder, version + 1, 100_000)
        wait_for_a_commit(folder, process)
        time.sleep(rng.uniform(0, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        reached = assert_whole(folder)
        assert reached > version
        version = reached


def killed_at(folder, step, after):
    replace = os.replace

    def replace_and_die(source, target):
        hit = STEPS[step] in os.path.basename(target)
        if hit and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)

    files.os.replace = replace_and_die
    write_versions(folder, 2, 3)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(len(STEPS)))
def test_killed_at_each_step(folder, step, after):
    write_versions(folder, 1, 2)
    process = run(killed_at, folder, step, after)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert assert_whole(folder) == (2 if step == 2 and after else 1)
    write_versions(folder, PseudoMaskStore.open(folder).version + 1, 4)
    assert assert_whole(folder) == 3


@pytest.mark.parametrize("step", range(len(STEPS)))
def test_a_full_disk_keeps_the_old_version(folder, monkeypatch, step):
    store = PseudoMaskStore.open(folder)
    calls = []

    def full(_):
        calls.append(1)
        if len(calls) == step + 1:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=rf"cannot write .*{STEPS[step]}.*: No space left on device"):
        store.update(content(1)[0], epoch=1)
    monkeypatch.undo()
    assert store.version == 0 and assert_whole(folder) == 0
    store.update(content(1)[0], epoch=1, enter=content(1)[1])
    assert assert_whole(folder) == 1


def fail_for_space(folder):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    store = PseudoMaskStore.open(folder)
    try:
        store.update(content(1)[0], epoch=1)
    except OSError as error:
        os._exit(17 if "cannot write" in str(error) and store.version == 0 else 1)
    os._exit(2)


def test_a_real_limit_on_what_may_be_written(folder):
    process = run(fail_for_space, folder)
    process.join()
    assert process.exitcode == 17
    assert assert_whole(folder) == 0
