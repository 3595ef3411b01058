"""ISTD networks, which are registered by name and have one file each."""

from istd.modeling.backbones.acm import ACM, ALCNet
from istd.modeling.backbones.alclnet import ALCLNet
from istd.modeling.backbones.dnanet import DNANet
from istd.modeling.backbones.gglnet import GGLNet
from istd.modeling.backbones.mlclnet import MLCLNet
from istd.modeling.backbones.mshnet import MSHNet
from istd.modeling.backbones.network import NETWORK_REGISTRY, Network, build_network, frozen_statistics
from istd.modeling.backbones.repisdnet import RepISDNet
from istd.modeling.backbones.sctransnet import SCTransNet

__all__ = [
    "ACM",
    "ALCLNet",
    "ALCNet",
    "DNANet",
    "GGLNet",
    "MLCLNet",
    "MSHNet",
    "NETWORK_REGISTRY",
    "Network",
    "RepISDNet",
    "SCTransNet",
    "build_network",
    "frozen_statistics",
]
