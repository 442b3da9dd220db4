"""Forethought: a robot planning agent that learns a latent world model and thinks before it acts.

Importing the package has no other effect: the few public names below are loaded when they are first used.
"""

import difflib
import importlib
from collections.abc import Iterable
from typing import Any

__version__ = "0.1.0"


class ForethoughtError(Exception):
    """Base of every error that Forethought raises on purpose; the message names argument, rule and value."""


class UnknownNameError(ForethoughtError):
    """A name that is not among the known ones; the message offers the nearest.

    Args:
        kind: what the name stands for, as the user would say it ("planner", "environment id", "config key").
        name: what was given.
        known: every name that would have been accepted.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(set(known))
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        if near:
            hint = f"did you mean {' or '.join(near)}?"
        elif len(self.known) <= 20:
            hint = f"known: {', '.join(self.known)}"
        else:
            hint = f"{len(self.known)} are known"
        super().__init__(f"unknown {kind} {name!r}: {hint}")


_PUBLIC = {
    "Agent": "agent.agent",
    "EnvSpec": "envs.spec",
    "EnvOptions": "envs.spec",
    "make_env": "envs.registry",
    "make_vector": "envs.vector",
    "EpisodeStore": "agent.memory.store",
    "load_agent": "agent.build",
    "export_run": "agent.export",
    "PretrainedAgent": "agent.hub",
    "make_planner": "planners",
}

__all__ = ["ForethoughtError", "UnknownNameError", "__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
