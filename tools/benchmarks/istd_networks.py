"""The ISTD networks as they deploy: PyTorch, ONNX Runtime and int8."""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis
from torch import Tensor, nn

from benchmarks.harness import Case, Comparison, scenario
from experiments.table import markdown
from istd.checkpoints import Recipe
from istd.deploy.export import Deployed, export_student
from istd.deploy.quantize import quantize
from istd.deploy.runners import open_model, run_network
from istd.modeling import NETWORK_REGISTRY, Network, build_network

NAME = "istd_networks"
WAYS = ("PyTorch", "ONNX Runtime", "int8")


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    known = [name for name, _ in NETWORK_REGISTRY]
    parser.add_argument("--networks", nargs="+", default=known, choices=known, help=f"{NAME}: default: all")
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512], help=f"{NAME}: pixels of an image's side")
    count_help = f"{NAME}: 1 gives latency, more throughput"
    parser.add_argument("--images-at-once", type=int, nargs="+", default=[1, 4], help=count_help)


def build_settled(name: str) -> Network:
    """A network with random weights whose BatchNorm knows a batch, so that activations have an ordinary scale."""
    torch.manual_seed(0)
    network = build_network(name)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        network.train()(torch.randn(2, 3, 64, 64))
    return network.eval()


def count_macs(network: Network, side: int) -> float:
    """Giga multiply-adds of the deployed form on one square image, by fvcore's counter."""
    counter = FlopCountAnalysis(Deployed(network), torch.zeros(1, 3, side, side))
    return counter.unsupported_ops_warnings(False).uncalled_modules_warnings(False).total() / 1e9


def _difference(plain: Tensor, ours: Tensor) -> dict[str, float]:
    return {"probability": (plain - ours).abs().max().item()}


def _cases_of(name: str, folder: Path, options: argparse.Namespace) -> Iterator[Case]:
    network, recipe = build_settled(name), Recipe(name)
    runners = {"PyTorch": run_network(network, recipe, options.device)}
    if torch.device(options.device).type == "cpu":
        export_student(network, recipe, folder / "float.onnx")
        quantize(folder / "float.onnx", folder / "int8.onnx", np.random.default_rng(0).uniform(0, 255, (2, 128, 128)))
        runners |= {"ONNX Runtime": open_model(folder / "float.onnx"), "int8": open_model(folder / "int8.onnx")}
    comparisons = [Comparison(*WAYS[:2], _difference, {"probability": 1e-4})] if len(runners) > 1 else []
    parameters = sum(parameter.numel() for parameter in Deployed(network).parameters())
    for side in options.sides:
        cost = {"parameters": parameters, "gmac": round(count_macs(network, side), 3)}
        for count in options.images_at_once:
            images = torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))
            ways = {way: partial(runner.run, images) for way, runner in runners.items()}
            yield Case({"network": name, "side": side, "images": count, **cost}, ways, comparisons)


@scenario(NAME, "networks as they deploy: PyTorch, ONNX Runtime and int8, at several sizes")
def networks(options: argparse.Namespace) -> Iterator[Case]:
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            yield from _cases_of(name, Path(folder), options)


def network_table(records: Iterable[dict]) -> str:
    """Markdown of the scenario's records: latency (ms, one image) or throughput (images a second) of each way."""
    lines = []
    for record in records:
        if record["scenario"] == NAME:
            settings, ways = record["settings"], record["ways"]
            line = [settings["network"], f"{settings['parameters']:,}", str(settings["side"])]
            line += [f"{settings['gmac']:.2f}", str(settings["images"])]
            lines.append([*line, *(_figure(ways[way], settings["images"]) if way in ways else "-" for way in WAYS)])
    return markdown(["network", "parameters", "side", "GMAC an image", "images at once", *WAYS], lines) + "\n"


def _figure(way: dict, images: int) -> str:
    return f"{1000 * way['median_s']:.1f} ms" if images == 1 else f"{images / way['median_s']:.1f}/s"
