"""The scenario of deployed networks: three ways, their cost, the table."""

import argparse

import pytest

from benchmarks import istd_networks
from benchmarks.harness import run_scenarios
from istd.modeling import build_network


@pytest.fixture(scope="module")
def options():
    parser = argparse.ArgumentParser()
    istd_networks.add_arguments(parser)
    parser.set_defaults(device="cpu", repeats=1)
    return parser.parse_args(["--networks", "ACM", "--sides", "32", "48", "--images-at-once", "1", "2"])


@pytest.fixture(scope="module")
def records(options):
    return list(run_scenarios([istd_networks.istd_networks], options))


def test_every_way_is_timed(records):
    cases = [(record["settings"]["side"], record["settings"]["images"]) for record in records]
    assert cases == [(32, 1), (32, 2), (48, 1), (48, 2)]
    for record in records:
        assert list(record["ways"]) == list(istd_networks.WAYS)
        (comparison,) = record["comparisons"]
        assert comparison["difference"]["probability"] < 1e-4
        assert record["settings"]["parameters"] == 397_971


def test_macs_follow_the_size():
    network = build_network("ACM")
    assert istd_networks.count_macs(network, 256) == pytest.approx(0.35, abs=0.01)  # as published
    assert istd_networks.count_macs(network, 64) == pytest.approx(istd_networks.count_macs(network, 256) / 16, rel=0.01)


def test_the_table(records):
    lines = istd_networks.network_table([{"scenario": "other"}, *records]).splitlines()
    assert lines[0].startswith("| network | parameters | side | GMAC an image | images at once | PyTorch |")
    assert len(lines) == 2 + len(records)
    assert lines[2].startswith("| ACM | 397,971 | 32 | 0.01 | 1 | ") and lines[2].count(" ms") == 3
    assert lines[3].count("/s |") == 3
    on_gpu = records[0] | {"ways": {"PyTorch": records[0]["ways"]["PyTorch"]}}
    assert istd_networks.network_table([on_gpu]).splitlines()[2].endswith("| - | - |")
