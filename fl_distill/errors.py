"""The errors a user meets: each says what was expected, what arrived, and what to change."""

from collections.abc import Iterable


class FlDistillError(Exception):
    """Base of every error that this package raises on purpose."""


class ConfigError(FlDistillError):
    """The configuration cannot run; `faults` lists every reason found, one sentence each."""

    def __init__(self, faults: Iterable[str] | str) -> None:
        self.faults = [faults] if isinstance(faults, str) else list(faults)
        super().__init__("\n".join(self.faults))


class DataError(ConfigError):
    """Data is missing, unreadable or impossible to partition as asked."""


class BadUpdate(FlDistillError):
    """What a site sent cannot be used; the site loses the round and nothing else happens."""


class RunStopped(FlDistillError):
    """The run cannot go on, although everything computed so far was saved."""


def told(error: FlDistillError) -> str:
    """An error as a user reads it: every fault of a configuration on a line of its own."""
    if not isinstance(error, ConfigError):
        return f"stopped: {error}"
    return "\n  - ".join(["this cannot run:", *error.faults])
