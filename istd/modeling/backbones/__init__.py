"""ISTD networks, one file each, registered by name."""

from istd.modeling.backbones.acm import ACM, ALCNet
from istd.modeling.backbones.alclnet import ALCLNet
from istd.modeling.backbones.mlclnet import MLCLNet
from istd.modeling.backbones.network import (
    NETWORK_REGISTRY,
    Network,
    build_network,
    frozen_statistics,
    pad_to_multiple,
)

__all__ = [
    "ACM",
    "ALCLNet",
    "ALCNet",
    "MLCLNet",
    "NETWORK_REGISTRY",
    "Network",
    "build_network",
    "frozen_statistics",
    "pad_to_multiple",
]
