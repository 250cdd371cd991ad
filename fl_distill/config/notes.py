"""What is allowed, and probably not what was meant."""

from .schema import Experiment


def notes(experiment: Experiment) -> list[str]:
    """A sentence for each setting that leaves an experiment without what it is about."""
    warmup, rounds = experiment.strategy.get("warmup", 0), experiment.rounds
    if not warmup or warmup < rounds:
        return []
    return [
        f"strategy.warmup={warmup} covers all rounds={rounds}: no site learns from what others know; "
        "set a smaller warmup, or more rounds"
    ]
