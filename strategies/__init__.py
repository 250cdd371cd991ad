"""Flower strategies, usable in any Flower ServerApp: `from fl_distill.strategies import FedAvg`."""

if __name__ == "strategies":
    raise ImportError("import these as `fl_distill.strategies`, so that a class never has two identities")

from .base import Facts, SiteStrategy
from .fedavg import FedAvg
from .fedmd import FedMD
from .fedprox import FedProx
from .fedsgd import FedSGD
from .local import Local

__all__ = ["Facts", "FedAvg", "FedMD", "FedProx", "FedSGD", "Local", "SiteStrategy"]
