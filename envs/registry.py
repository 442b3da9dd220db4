"""`make_env`: one call for every environment id; `list_envs`: the ids that are known."""

import contextlib
import functools
import importlib
import importlib.util
import io
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec as RegisteredEnv
from gymnasium.envs.registration import namespace

from .. import UnknownNameError
from .checks import check_options
from .goal_ahead import GoalAhead
from .gymnasium_adapter import AnyEnv, make_gymnasium
from .link import Link
from .spec import EnvError, EnvOptions, LinkOptions, ShiftOptions
from .wrappers import DEFAULT_EPISODE_STEPS, ForethoughtEnv

_EXTRAS = {
    "gymnasium_robotics": re.compile(r"^(Fetch|Hand|AntMaze|PointMaze|AdroitHand|FrankaKitchen)"),
    "ogbench": re.compile(r"^(visual-|online-)?(point|ant|humanoid|antsoccer|cube|scene|puzzle|powderworld)[a-z]*-"),
}


PLUGINS = "gymnasium.envs"
"""Entry points of installed packages, `<namespace> = "module:function"`, that register environments: Gymnasium's own
way before its version 1.0. The namespace `__root__` stands for none."""
SKILLED = "forethought.agent.skill:Skilled"
"""Puts an agent between an environment and its commands; named, not imported, for it is above all environments."""


def make_env(env_id: str, options: EnvOptions | None = None) -> ForethoughtEnv:
    """Make an environment, in Forethought's conventions and checked at every call.

    Ids: Gymnasium's (`HalfCheetah-v5`), dm_control's (`dm_control/cartpole-swingup-v0`), Forethought's own
    (`forethought/Reacher-v0`), with the extra `robotics` those of Gymnasium-Robotics (`FetchReach-v4`) and OGBench
    (`pointmaze-medium-v0`), with the extra `worldmodel` those of stable-worldmodel (`swm/TwoRoom-v1`), those that
    installed packages register by an entry point of the group `gymnasium.envs`, and `module:EnvId`, which imports
    `module` first so that it can register `EnvId`. Nothing is imported before an id needs it.

    Args:
        env_id: the id.
        options: how the environment is presented; None for the defaults.

    Returns:
        The environment; see `ForethoughtEnv` for its conventions and `ForethoughtEnv.env_spec` for its description.

    Raises:
        UnknownNameError: nothing known has this id; the message offers the nearest.
        EnvError: an option is invalid, a package is missing, or the environment cannot be made or is not supported.
    """
    options = options or EnvOptions()
    env, native_limit = make_raw(env_id, options)
    try:
        if options.skill is not None:
            env = pkgutil.resolve_name(SKILLED)(env, options.skill)
        if options.goal_ahead is not None:
            env = _ahead(env, env_id, options.goal_ahead, native_limit or DEFAULT_EPISODE_STEPS)
            native_limit = 2 * options.goal_ahead
        if options.link != LinkOptions():
            env = _linked(env, env_id, options)
        return ForethoughtEnv(env, env_id, options, native_limit)
    except BaseException:
        env.close()
        raise


def make_raw(env_id: str, options: EnvOptions) -> tuple[AnyEnv, int | None]:
    """Make an environment as its author wrote it, without its time limit: what `make_env` wraps.

    Args:
        env_id: as of `make_env`.
        options: of them, `kwargs` and `shift`, and whether and how large pictures are wanted.

    Returns:
        The environment, and its own time limit in environment steps or None.

    Raises:
        UnknownNameError: nothing known has this id; the message offers the nearest.
        EnvError: an option is invalid, a package is missing, or the environment cannot be made.
    """
    check_options(options)
    env, native_limit = _make(_find(env_id), options)
    if options.shift != ShiftOptions():
        from .shift import ShiftedEnv  # MuJoCo, which not every environment needs

        env = ShiftedEnv(env, options.shift)
    return env, native_limit


def list_envs() -> dict[str, list[str]]:
    """Known ids by source: `forethought`, `gymnasium-mujoco`, `dm_control`, `robotics`, `ogbench`, `worldmodel`, and
    `plug-ins` for those of entry points.

    A source whose package is not installed is an empty list. Takes a second or two when first called, because
    dm_control's tasks are only known after importing it, and some more with stable-worldmodel.
    """
    _load_everything()
    plugged = {entry.value.partition(":")[0].partition(".")[0] for entry in metadata.entry_points(group=PLUGINS)}
    discrete = getattr(sys.modules.get("stable_worldmodel.envs"), "DISCRETE_WORLDS", ())
    sources: dict[str, Callable[[str, str], bool]] = {
        "forethought": lambda env_id, entry: env_id.startswith("forethought/"),
        "gymnasium-mujoco": lambda env_id, entry: entry.startswith("gymnasium.envs.mujoco.") and env_id.endswith("-v5"),
        "dm_control": lambda env_id, entry: env_id.startswith("dm_control/") and "compatibility" not in env_id,
        # Without the ones that need mujoco_py, which no longer builds, and those with several agents.
        "robotics": lambda env_id, entry: (
            entry.startswith("gymnasium_robotics.envs.")
            and "MujocoPy" not in entry
            and not entry.startswith("gymnasium_robotics.envs.mujoco.")
        ),
        # Without the discrete actions of Powderworld.
        "ogbench": lambda env_id, entry: entry.startswith("ogbench.") and "powderworld" not in entry,
        "worldmodel": lambda env_id, entry: env_id.startswith("swm/") and env_id not in discrete,
        "plug-ins": lambda env_id, entry: (
            entry.partition(":")[0].partition(".")[0] in plugged.difference(_EXTRAS, {"shimmy", "stable_worldmodel"})
        ),
    }
    entries = {env_id: str(registered.entry_point) for env_id, registered in gymnasium.registry.items()}
    return {
        source: sorted(env_id for env_id, entry in entries.items() if belongs(env_id, entry))
        for source, belongs in sources.items()
    }


def _make(registered: RegisteredEnv, options: EnvOptions) -> tuple[AnyEnv, int | None]:
    """Make the bare environment and say its time limit, by the adapter for its source."""
    kwargs: dict[str, Any] = dict(options.kwargs)
    drawn = options.observation != "state"
    entry = registered.entry_point if isinstance(registered.entry_point, str) else ""
    if drawn:
        if entry.startswith(("gymnasium.envs.mujoco.", "gymnasium_robotics.")):
            from .rendering import require

            require()
        if entry.startswith("gymnasium.envs.mujoco."):
            kwargs = {"height": options.image_size, "width": options.image_size} | kwargs
    if registered.namespace == "dm_control":
        from .dm_control_adapter import make_dm_control

        return make_dm_control(registered, kwargs, options.image_size if drawn else None)
    if entry.startswith("gymnasium_robotics."):
        from . import robotics_shim

        robotics_shim.apply()
    if entry.startswith("stable_worldmodel."):
        from .worldmodel_adapter import make_worldmodel

        return make_worldmodel(registered, kwargs, options.image_size if drawn else None)
    if entry.startswith("ogbench."):
        from .ogbench_adapter import make_ogbench

        return make_ogbench(registered, kwargs, options.image_size if drawn else None)
    return make_gymnasium(registered, kwargs, drawn)


def _ahead(env: AnyEnv, env_id: str, steps: int, episode_steps: int) -> GoalAhead:
    try:
        return GoalAhead(env, steps, episode_steps)
    except EnvError as error:
        raise EnvError(f"{env_id}: {error}") from error


def _linked(env: AnyEnv, env_id: str, options: EnvOptions) -> Link:
    try:
        return Link(env, options.link, options.action_repeat)
    except EnvError as error:
        raise EnvError(f"{env_id}: {error}") from error


def _find(env_id: str) -> RegisteredEnv:
    """The registry's entry for an id, after importing what registers it."""
    if not isinstance(env_id, str):
        raise EnvError(f"the environment id must be a string, got {env_id!r}")
    module, _, name = env_id.rpartition(":")
    if module:
        _import_module(module, env_id)
    elif name not in gymnasium.registry:
        _load_source(name)
    if name not in gymnasium.registry:
        _load_everything()
        raise UnknownNameError("environment id", name, gymnasium.registry)
    return gymnasium.registry[name]


def _load_source(env_id: str) -> None:
    """Import the package whose ids look like this one."""
    if env_id.startswith("forethought/"):
        _load_own()
        return
    if env_id.startswith("dm_control/"):
        _load_dm_control()
        return
    if env_id.startswith("swm/"):
        try:
            _load_worldmodel()
        except Exception as error:
            raise EnvError(
                f"{env_id} needs stable-worldmodel, which cannot be imported: pip install 'forethought[worldmodel]' "
                f"({type(error).__name__}: {error})"
            ) from error
        return
    for package, pattern in _EXTRAS.items():
        if not _load_extra(package) and pattern.match(env_id):
            name = package.replace("_", "-")
            raise EnvError(f"{env_id} needs {name}, which is not installed: pip install 'forethought[robotics]'")
        if env_id in gymnasium.registry:
            return
    _load_plugins()


def _load_everything() -> None:
    # Before dm_control opens a display: importing Triton, which CUDA builds of torch bring, crashes afterwards.
    with contextlib.suppress(Exception):  # who asks for one of its ids is told
        _load_worldmodel()
    _load_own()
    _load_dm_control()
    for package in _EXTRAS:
        _load_extra(package)
    with contextlib.suppress(EnvError):  # who asks for one of its ids is told
        _load_plugins()


@functools.cache
def _load_plugins() -> None:
    """Let installed packages register their environments, once.

    Raises:
        EnvError: one of them cannot; the others have.
    """
    failure: EnvError | None = None
    for entry in metadata.entry_points(group=PLUGINS):
        try:
            with contextlib.nullcontext() if entry.name == "__root__" else namespace(entry.name):
                entry.load()()
        except Exception as error:
            failure = EnvError(
                f"the entry point {entry.value!r} of the group {PLUGINS!r} cannot register its environments: "
                f"{type(error).__name__}: {error}"
            )
            failure.__cause__ = error
    if failure is not None:
        raise failure


def _load_own() -> None:
    from . import tasks

    gymnasium.register_envs(tasks)


def _load_dm_control() -> None:
    from .dm_control_adapter import register

    register()


def _load_worldmodel() -> None:
    from .worldmodel_adapter import register

    register()


def _load_extra(package: str) -> bool:
    """Import a package of the extra `robotics`; False if it is not installed."""
    if importlib.util.find_spec(package) is None:
        return False
    # What they deprecate among themselves, as warnings or as notices on stderr, is not the user's doing.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        gymnasium.register_envs(importlib.import_module(package))
    return True


def _import_module(module: str, env_id: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise EnvError(
            f"cannot import {module!r}, which {env_id!r} says registers the environment: "
            f"{type(error).__name__}: {error}"
        ) from error
