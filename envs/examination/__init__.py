"""A doctor for environments: plays a few episodes of random actions, and says what is wrong and what to do about it.

The environment is looked at as its author wrote it, before Forethought's wrappers smooth anything, and at last through
them. It is made several times, reset often, and driven to the ends of its bounds: for simulators, and for robots with
their motors off.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ... import ForethoughtError, UnknownNameError
from ..spec import EnvError, EnvOptions
from . import episodes, interface, machinery, task
from .evidence import Evidence, Level, Verdict
from .interface import Check

CHECKS: dict[str, Check] = {
    **interface.CHECKS,
    **episodes.CHECKS,
    **task.CHECKS,
    **machinery.CHECKS,
    "as the agent sees it": interface.as_the_agent_sees_it,
    "closing": machinery.closing,  # the last: it ends the instance that all look at
}
"""All checks by name, in the order in which they are carried out; each is independent of the others' verdicts."""
MADE = "construction"
"""Name of the finding before all checks: whether the environment can be made."""


@dataclass(frozen=True)
class Finding:
    """What one check says of an environment."""

    name: str
    """Of the check: `construction`, or one of `CHECKS`."""
    level: Level
    """`ok`, `warning`, `error` or `skipped`."""
    found: str
    """What was found."""
    advice: str = ""
    """What to do about it; empty where all is well."""


def examine(
    env_id: str,
    options: EnvOptions | None = None,
    *,
    seed: int = 0,
    steps: int = 1000,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Finding]:
    """Examine an environment; whatever it does wrong is a finding, never an exception.

    Args:
        env_id: as of `make_env`.
        options: how it is made; None for the defaults. `step_timeout_s` ends calls that hang.
        seed: of the first episode and of the actions.
        steps: environment steps of random actions; more of them find what is rarer. After a minute of stepping there
            are no more.
        clock: seconds, for the checks of speed.

    Returns:
        One finding for every check; `construction` alone if it cannot be made.

    Raises:
        EnvError: `steps` or `seed` are out of range.
    """
    for name, value, least in (("steps", steps, 1), ("seed", seed, 0)):
        if value < least:
            raise EnvError(f"{name} must be at least {least}, got {value}")
    try:
        evidence = Evidence(env_id, options or EnvOptions(), seed, steps, clock)
    except ForethoughtError as error:
        advice = (
            "`forethought envs` lists ids; `module:EnvId` imports the module that registers one"
            if isinstance(error, UnknownNameError)
            else "arguments of the constructor are env_options.kwargs.name=value; an error inside of it often means "
            "that versions of packages do not fit"
        )
        return [Finding(MADE, "error", str(error), advice)]
    try:
        made = Finding(MADE, "ok", f"{type(evidence.env.unwrapped).__name__}, {env_id}")
        return [made, *(_carry_out(name, check, evidence) for name, check in CHECKS.items())]
    finally:
        evidence.close()


def worst(findings: Sequence[Finding]) -> Level:
    """The gravest level among findings: `error`, `warning` or `ok`."""
    levels = {finding.level for finding in findings}
    return "error" if "error" in levels else "warning" if "warning" in levels else "ok"


def _carry_out(name: str, check: Check, evidence: Evidence) -> Finding:
    try:
        verdict = check(evidence)
    except Exception as error:  # environments raise, and hold, anything
        found = f"the check failed: {type(error).__name__}: {error}"
        verdict = Verdict("error", found, "the environment holds something that no environment should; see the message")
    return Finding(name, *verdict)
