"""Flower strategies, usable in any Flower ServerApp: `from fl_distill.strategies import FedAvg`."""

if __name__ == "strategies":
    raise ImportError("import these as `fl_distill.strategies`, so that a class never has two identities")
