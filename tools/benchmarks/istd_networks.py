"""The scenario times the ISTD networks as they deploy: in PyTorch, in ONNX Runtime and in int8."""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from torch.optim.swa_utils import update_bn

from benchmarks.harness import Case, Comparison, largest_difference
from experiments.table import markdown
from istd.checkpoints import Recipe
from istd.deploy.export import Deployed, export_student
from istd.deploy.quantize import quantize
from istd.deploy.runners import open_model, run_network
from istd.modeling import NETWORK_REGISTRY, Network, build_network

WAYS = ("PyTorch", "ONNX Runtime", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the scenario."""
    known = [name for name, _ in NETWORK_REGISTRY]
    parser.add_argument("--networks", nargs="+", default=known, choices=known, help="istd_networks: default: all")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512], help="istd_networks: sides in pixels")
    parser.add_argument("--images-at-once", type=int, nargs="+", default=[1, 4], help="istd_networks: 1 for latency")


def build_settled(name: str) -> Network:
    """Build a network with random weights whose BatchNorm knows a batch, so that activations have an ordinary scale."""
    torch.manual_seed(0)
    network = build_network(name).eval()
    update_bn([torch.randn(2, 3, 64, 64)], network)
    return network


def count_macs(network: Network, side: int) -> float:
    """Count the giga multiply-adds of the deployed form on one square image with fvcore."""
    counter = FlopCountAnalysis(Deployed(network), torch.zeros(1, 3, side, side))
    return counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total() / 1e9


def istd_networks(options: argparse.Namespace) -> Iterator[Case]:
    """Networks as they deploy, in PyTorch, ONNX Runtime and int8, are timed at several sizes."""
    comparison = Comparison("PyTorch", "ONNX Runtime", largest_difference("probability"), {"probability": 1e-4})
    gray = np.random.default_rng(0).uniform(0, 255, (2, 128, 128))
    on_cpu = options.device == "cpu"
    for name in options.networks:
        network = build_settled(name)
        recipe = Recipe(name)
        runners = {"PyTorch": run_network(network, recipe, options.device)}
        with tempfile.TemporaryDirectory() as folder:
            if on_cpu:
                path = Path(folder, "float.onnx")
                export_student(network, recipe, path)
                quantize(path, path.with_name("int8.onnx"), gray)
                runners |= {"ONNX Runtime": open_model(path), "int8": open_model(path.with_name("int8.onnx"))}
        parameters = sum(parameter.numel() for parameter in Deployed(network).parameters())
        for side in options.sides:
            cost = {"parameters": parameters, "gmac": round(count_macs(network, side), 3)}
            for count in options.images_at_once:
                images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
                ways = {way: partial(runner.run, images) for way, runner in runners.items()}
                settings = {"network": name, "side": side, "images": count, **cost}
                yield Case(settings, ways, [comparison] if on_cpu else [])


def network_table(records: Iterable[dict]) -> str:
    """Return the scenario's records as Markdown: latency (ms) for one image, else throughput (images a second)."""
    lines = []
    for record in records:
        if record["scenario"] == "istd_networks":
            settings = record["settings"]
            count = settings["images"]
            line = [settings["network"], f"{settings['parameters']:,}", str(settings["side"])]
            line += [f"{settings['gmac']:.2f}", str(count)]
            seconds = {way: measured["median_s"] for way, measured in record["ways"].items()}
            figures = {w: f"{1000 * s:.1f} ms" if count == 1 else f"{count / s:.1f}/s" for w, s in seconds.items()}
            lines.append([*line, *(figures.get(way, "-") for way in WAYS)])
    return markdown(["network", "parameters", "side", "GMAC an image", "images at once", *WAYS], lines) + "\n"
