"""What a site decides for itself, whatever it is asked: its file, its limits, what may leave."""

from .own import Own, absent, read
from .request import checked, compose_request, shared
from .rules import Limits, Policy, Refused

__all__ = ["Limits", "Own", "Policy", "Refused", "absent", "checked", "compose_request", "read", "shared"]
