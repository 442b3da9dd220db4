"""Composing configurations with Hydra: option dataclasses in, validated plain objects out."""

import ast
import dataclasses
import inspect
import itertools
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata, resources
from typing import Any, TypeVar

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, OverrideParseException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import ForethoughtError, UnknownNameError
from ..agent.objectives import OBJECTIVES
from ..planners import ENTRY_POINTS, PLANNERS, find_planner
from .schema import BenchConfig, Config, ConfigError, DriveConfig, EvalConfig, SweepConfig

T = TypeVar("T", Config, EvalConfig, BenchConfig, DriveConfig, SweepConfig)

_ROOTS: dict[type[Any], str] = {
    Config: "train",
    EvalConfig: "eval",
    BenchConfig: "bench",
    DriveConfig: "drive",
    SweepConfig: "sweep",
}
_GROUPS: dict[type[Any], tuple[str, ...]] = {
    Config: ("planner", "objective", "preset"),
    EvalConfig: ("planner", "objective"),
    BenchConfig: (),
    DriveConfig: ("planner", "objective"),
    SweepConfig: (),
}
_PATHS = ("out", "run", "init", "memory", "memory.path", "log", "evaluation.goal", "env_options.skill")
"""Keys whose values are folders and files."""
_FREE: dict[type[Any], str] = {
    Config: "env_options.kwargs",
    EvalConfig: "env_options.kwargs",
    DriveConfig: "env_options.kwargs",
    BenchConfig: "options",
}
"""Where keys are free: arguments of an environment's constructor, options of planners that anybody may have written."""


def register(planners: Iterable[str] = PLANNERS) -> None:
    """Put schema and option groups into Hydra's store.

    Args:
        planners: names to offer; those of installed packages are only loaded when they are named here.
    """
    store = ConfigStore.instance()
    for root, name in _ROOTS.items():
        store.store(name=name, node=root)
    for name in planners:
        store.store(group="planner", name=name, node=_named(name, find_planner(name).options))
    for name, options in OBJECTIVES.items():
        store.store(group="objective", name=name, node=_named(name, options))


def _named(name: str, options: type[Any]) -> type[Any]:
    """The options with their name beside them, so that a composed group says which of its members it is."""

    def reduce(self: Any) -> tuple[Any, ...]:
        # The class is in no module, where another process could look for it.
        return _restored, (name, options, {f.name: getattr(self, f.name) for f in dataclasses.fields(self)})

    fields = [("name", str, dataclasses.field(default=name))]
    return dataclasses.make_dataclass(
        options.__name__, fields, bases=(options,), namespace={"__doc__": options.__doc__, "__reduce__": reduce}
    )


def _restored(name: str, options: type[Any], values: dict[str, Any]) -> Any:
    return _named(name, options)(**values)


def presets() -> dict[str, dict[str, Any]]:
    """Every preset by name, as read from its file."""
    folder = resources.files(__package__) / "preset"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): _plain(f.read_text()) for f in files}


def tuned_options() -> dict[str, dict[str, dict[str, Any]]]:
    """Options that `benchmarks/tuning.py` found for planners on tasks of `bench`, by planner and task.

    One file per task, `tuned_planners/<task>.yaml`, says for each planner beside its `options` how they were found.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    folder = resources.files(__package__) / "tuned_planners"
    for file in sorted(folder.iterdir() if folder.is_dir() else (), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            for planner, entry in _plain(file.read_text()).items():
                found.setdefault(planner, {})[file.name.removesuffix(".yaml")] = dict(entry["options"])
    return found


def _plain(text: str) -> dict[str, Any]:
    return dict(OmegaConf.to_container(OmegaConf.create(text)) or {})  # type: ignore[arg-type]


def with_preset(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """Add the preset tuned for the environment and objective that `overrides` name, unless they choose one.

    Control by reward in an environment without a preset of its own takes `nano`, which is made for two cores. A preset
    for what `env_options.hide` hides is taken before one for the environment as it is; one above a skill, where
    `env_options.skill` names one.

    Returns:
        the overrides, and the name of the preset that was added (None if none was).
    """
    given = dict(o.split("=", 1) for o in overrides if "=" in o)
    if "preset" in given or "env" not in given:
        return list(overrides), None
    observation = given.get("env_options.observation", "state")
    known, found = presets(), dict[frozenset[str], str]()
    skilled = given.get("env_options.skill", "null") not in ("", "null")
    for name, preset in known.items():
        made = preset.get("env_options", {})
        same = made.get("observation", "state") == observation
        objective = _objective_of(preset, known)
        if preset.get("env") != given["env"] or bool(made.get("skill")) != skilled:
            continue
        if same and given.get("objective", objective) == objective:
            # What is above a skill need not see the body.
            found.setdefault(frozenset() if skilled else frozenset(made.get("hide", [])), name)
    chosen = found.get(_names(given.get("env_options.hide", "")), found.get(frozenset()))
    if chosen is None and given.get("objective") == "reward":
        chosen = "nano"
    return ([] if chosen is None else [f"preset={chosen}"]) + list(overrides), chosen


def _names(override: str) -> frozenset[str]:
    """Members of a list in an override, `[a,'b[2]']`."""
    inside = override.removeprefix("[").removesuffix("]")
    return frozenset(name.strip(" '\"") for name in inside.split(",") if name.strip())


def _objective_of(preset: dict[str, Any], known: dict[str, dict[str, Any]]) -> str:
    """The objective that a preset chooses, by itself or by the presets among `known` that it builds on."""
    for entry in preset.get("defaults", []):
        if isinstance(entry, dict) and "override /objective" in entry:
            return str(entry["override /objective"])
        if entry in known:
            return _objective_of(known[entry], known)
    return "goal"


def load(root: type[T], overrides: Sequence[str]) -> T:
    """Compose a configuration from `key=value` overrides.

    Raises:
        UnknownNameError: a key or a group's member that does not exist, with the nearest that does.
        ConfigError: a value of the wrong type, or a required key without a value.
        ForethoughtError: a value out of range, as the component itself reports it.
    """
    chosen = _check_choices(root, overrides)
    register({*PLANNERS, chosen["planner"]} if "planner" in chosen else PLANNERS)
    try:
        with initialize_config_module("forethought.configs", version_base="1.3"):
            config = compose(_ROOTS[root], overrides=[_quoted(root, o) for o in overrides])
        _check_values(config)
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, ForethoughtError):
            raise error.__cause__ from None
        _explain(root, overrides, error)
        raise ConfigError(_reason(error)) from error


def _quoted(root: type[Any], override: str) -> str:
    """Values with characters of Hydra's grammar (`module:EnvId`, paths with spaces) are taken literally.

    Lists, dictionaries, interpolations and values in quotes go through as they are.
    """
    key, value = override.split("=", 1)
    if _is_free(root, key):
        key = f"++{key}"
    # A folder may be called 1.10, which is not 1.1.
    plain = re.fullmatch(r"[\w./+-]*", value, re.ASCII) and (key not in _PATHS or value in ("", "null"))
    if plain or value.startswith(("[", "{", "'", '"')) or "${" in value:
        return f"{key}={value}"
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def _is_free(root: type[Any], key: str) -> bool:
    return root in _FREE and (key == _FREE[root] or key.startswith(f"{_FREE[root]}."))


def _check_choices(root: type[Any], overrides: Sequence[str]) -> dict[str, str]:
    """Check the form of all overrides and the chosen member of every group; returns these."""
    chosen: dict[str, str] = {}
    for override in overrides:
        key, separator, value = override.partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_][\w.]*", key):
            raise ConfigError(f"override must have the form key=value, got {override!r}")
        if key in ("planner.name", "objective.name"):
            group = key.removesuffix(".name")
            raise ConfigError(f"{key} cannot be set: choose with {group}={value}")
        if key in _GROUPS[root]:
            known = _members(key)
            if value not in known:
                raise UnknownNameError(key, value, known)
            chosen[key] = value
    return chosen


def _members(group: str) -> Iterable[str]:
    if group == "planner":
        return {*PLANNERS, *metadata.entry_points(group=ENTRY_POINTS).names}
    return OBJECTIVES if group == "objective" else presets()


def _check_values(config: DictConfig) -> None:
    """No value is missing, and every number is finite (JSON, in which a run keeps them, has no others)."""
    for key in sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"{key} must be given: {key}=…")
    for key, value in _leaves(config):
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} must be finite, got {value}")


def _leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key in config if isinstance(config, DictConfig) else range(len(config)):
        name, value = prefix + str(key), config[key]
        if isinstance(value, DictConfig | ListConfig):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, value


def _explain(root: type[Any], overrides: Sequence[str], error: Exception) -> None:
    """Raise `UnknownNameError` for the first override whose key is not in the schema."""
    groups = [o for o in overrides if o.split("=", 1)[0] in _GROUPS[root]]
    with initialize_config_module("forethought.configs", version_base="1.3"):
        known = _keys(compose(_ROOTS[root], overrides=groups))
    for override in overrides:
        key = override.split("=", 1)[0]
        if key not in known and key not in _GROUPS[root] and not _is_free(root, key):
            raise UnknownNameError("config key", key, known) from error


def _keys(config: Any, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for key in config:
        if key == "name" and prefix:
            continue  # which member of a group it is; not to be set
        name = f"{prefix}{key}"
        keys.add(name)
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            keys |= _keys(config[key], f"{name}.")
    return keys


def _reason(error: HydraException | OmegaConfBaseException) -> str:
    """One line: the key, and what is wrong with its value. Hydra's own line only repeats the override."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    line = str(cause).strip().splitlines()[0]
    key = getattr(cause, "full_key", None)
    if isinstance(cause, OverrideParseException):
        key = cause.override.removeprefix("++").split("=", 1)[0]
    return f"{key}: {line}" if key else line


def describe(root: type[Any], overrides: Sequence[str]) -> list[tuple[str, str, str]]:
    """Every option of a configuration as `(key, default, meaning)`; groups as `overrides` choose them."""
    rows: list[tuple[str, str, str]] = []

    def walk(options: Any, prefix: str) -> None:
        meanings = _meanings(type(options))
        for item in dataclasses.fields(options):
            value = getattr(options, item.name)
            if item.name in ("name", "defaults"):
                continue
            if dataclasses.is_dataclass(value):
                walk(value, f"{prefix}{item.name}.")
            else:
                rows.append((prefix + item.name, "" if value == MISSING else str(value), meanings.get(item.name, "")))

    needed = {Config: ["env=(required)"], BenchConfig: list[str](), SweepConfig: list[str]()}
    required = needed.get(root, ["run=(required)"])
    given = [o for o in overrides if o.split("=", 1)[0] in _GROUPS[root]]
    walk(load(root, [*required, *given]), "")
    return rows


def _meanings(options: type[Any]) -> dict[str, str]:
    """The sentence below each field, from the source of an option dataclass and its bases."""
    meanings: dict[str, str] = {}
    for cls in reversed(options.__mro__):
        try:
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        except (OSError, TypeError):
            continue
        statements = body.body if isinstance(body, ast.ClassDef) else []
        for field, text in itertools.pairwise(statements):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
                meanings[ast.unparse(field.target)] = " ".join(str(text.value.value).split())
    return meanings
