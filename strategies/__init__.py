"""Flower strategies, usable in any Flower ServerApp: `from fl_distill.strategies import FedAvg`."""

if __name__ == "strategies":
    raise ImportError("import these as `fl_distill.strategies`, so that a class never has two identities")

from ..codec.ways import Codecs, Way
from .base import SiteStrategy
from .cfd import CFD
from .coding import Coding
from .combiner import Facts, Sender
from .cross_silo import CrossSilo
from .dsfl import DSFL
from .fd import FD
from .fedavg import FedAvg
from .feddf import FedDF
from .fedmd import FedMD
from .fedproto import FedProto
from .fedprox import FedProx
from .fedsgd import FedSGD
from .local import Local
from .quantized import Quantized
from .split_teacher import SplitTeacher
from .teacher_student import TeacherStudent

__all__ = [
    "CFD",
    "DSFL",
    "FD",
    "Codecs",
    "Coding",
    "CrossSilo",
    "Facts",
    "FedAvg",
    "FedDF",
    "FedMD",
    "FedProto",
    "FedProx",
    "FedSGD",
    "Local",
    "Quantized",
    "Sender",
    "SiteStrategy",
    "SplitTeacher",
    "TeacherStudent",
    "Way",
]
