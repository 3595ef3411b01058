"""Networks, semantic modulation and the meta-architecture of ISTD."""

from istd.modeling.backbones import NETWORK_REGISTRY, Network, build_network, frozen_statistics
from istd.modeling.scam import SCAM
from istd.modeling.vfm import build_vfm

__all__ = ["NETWORK_REGISTRY", "Network", "SCAM", "build_network", "build_vfm", "frozen_statistics"]
