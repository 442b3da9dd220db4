"""Composing configurations with Hydra: option dataclasses in, validated plain objects out."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any, TypeVar

from hydra import compose, initialize_config_module
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .. import ForethoughtError, UnknownNameError
from ..agent.objectives import GoalOptions
from ..planners import PLANNERS
from .schema import Config, EvalConfig

T = TypeVar("T", Config, EvalConfig)

OBJECTIVES: dict[str, type[Any]] = {"goal": GoalOptions}
_ROOTS: dict[type[Any], str] = {Config: "train", EvalConfig: "eval"}


class ConfigError(ForethoughtError):
    """A key or value of the configuration that is not accepted."""


def register() -> None:
    """Put schema and option groups into Hydra's store."""
    store = ConfigStore.instance()
    for root, name in _ROOTS.items():
        store.store(name=name, node=root)
    for name, entry in PLANNERS.items():
        store.store(group="planner", name=name, node=_named(name, entry.options))
    for name, options in OBJECTIVES.items():
        store.store(group="objective", name=name, node=_named(name, options))


def _named(name: str, options: type[Any]) -> type[Any]:
    """The options with their name beside them, so that a composed group says which of its members it is."""
    fields = [("name", str, dataclasses.field(default=name))]
    return dataclasses.make_dataclass(
        options.__name__, fields, bases=(options,), namespace={"__doc__": options.__doc__}
    )


def presets() -> dict[str, dict[str, Any]]:
    """Every preset by name, as read from its file."""
    folder = resources.files(__package__) / "preset"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {f.name.removesuffix(".yaml"): _plain(f.read_text()) for f in files}


def _plain(text: str) -> dict[str, Any]:
    return dict(OmegaConf.to_container(OmegaConf.create(text)) or {})  # type: ignore[arg-type]


def with_preset(overrides: Sequence[str]) -> tuple[list[str], str | None]:
    """Add the preset tuned for the environment that `overrides` name, unless they choose one.

    Returns:
        the overrides, and the name of the preset that was added (None if none was).
    """
    given = dict(o.split("=", 1) for o in overrides if "=" in o)
    if "preset" in given or "env" not in given:
        return list(overrides), None
    observation = given.get("env_options.observation", "state")
    for name, preset in presets().items():
        same = preset.get("env_options", {}).get("observation", "state") == observation
        if preset.get("env") == given["env"] and same and not preset.get("manual"):
            return [f"preset={name}", *overrides], name
    return list(overrides), None


def load(root: type[T], overrides: Sequence[str]) -> T:
    """Compose a configuration from `key=value` overrides.

    Raises:
        UnknownNameError: a key or a group's member that does not exist, with the nearest that does.
        ConfigError: a value of the wrong type, or a required key without a value.
        ForethoughtError: a value out of range, as the component itself reports it.
    """
    register()
    for override in overrides:
        if "=" not in override:
            raise ConfigError(f"override must have the form key=value, got {override!r}")
    try:
        with initialize_config_module("forethought.configs", version_base="1.3"):
            _check_choices(overrides)
            config = compose(_ROOTS[root], overrides=[_quoted(o) for o in overrides])
        _check_missing(config)
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException) as error:
        if isinstance(error.__cause__, ForethoughtError):
            raise error.__cause__ from None
        _explain(root, overrides, error)
        raise ConfigError(_first_line(error)) from error


def _quoted(override: str) -> str:
    """Values with characters of Hydra's grammar (`module:EnvId`, paths with spaces) are taken literally."""
    key, value = override.split("=", 1)
    if value and not any(c in value for c in "[]{}'\"$") and any(c in value for c in " :,()=@"):
        return f"{key}='{value}'"
    return override


def _check_choices(overrides: Sequence[str]) -> None:
    for override in overrides:
        key, value = override.lstrip("+~").split("=", 1)
        known: Iterable[str] | None = {"planner": PLANNERS, "objective": OBJECTIVES, "preset": presets()}.get(key)
        if known is not None and value not in known:
            raise UnknownNameError(key, value, known)


def _check_missing(config: DictConfig) -> None:
    for key in sorted(OmegaConf.missing_keys(config)):
        raise ConfigError(f"{key} must be given: {key}=…")


def _explain(root: type[Any], overrides: Sequence[str], error: Exception) -> None:
    """Raise `UnknownNameError` for the first override whose key is not in the schema."""
    with initialize_config_module("forethought.configs", version_base="1.3"):
        groups = [o for o in overrides if o.split("=", 1)[0] in ("planner", "objective")]
        known = _keys(compose(_ROOTS[root], overrides=groups))
    for override in overrides:
        key = override.lstrip("+~").split("=", 1)[0]
        if key not in known and key not in ("planner", "objective", "preset"):
            raise UnknownNameError("config key", key, known) from error


def _keys(config: Any, prefix: str = "") -> set[str]:
    keys: set[str] = set()
    for key in config:
        name = f"{prefix}{key}"
        keys.add(name)
        if not OmegaConf.is_missing(config, key) and isinstance(config[key], DictConfig):
            keys |= _keys(config[key], f"{name}.")
    return keys


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), None)
    return f"{key}: {lines[0]}" if key else lines[0]


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

    required = {Config: ["env=?"], EvalConfig: ["run=?"]}[root]  # type: ignore[index]
    given = [o for o in overrides if o.split("=", 1)[0] in ("planner", "objective", "preset")]
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
                meanings[ast.unparse(field.target)] = str(text.value.value)
    return meanings
