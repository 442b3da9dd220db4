"""Configurations are composed, checked and explained; whatever is wrong is said in one line that names it."""

import dataclasses
import importlib.metadata
import pickle
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore

from forethought import ForethoughtError, UnknownNameError
from forethought.configs import register
from forethought.configs.register import describe, load, presets, with_preset
from forethought.configs.schema import BenchConfig, Config, ConfigError, DriveConfig, EvalConfig
from forethought.envs.spec import EnvOptions
from forethought.planners import CEM, PLANNERS, PlannerEntry
from forethought.planners.cem import CEMOptions

ENV = "env=forethought/PointMass-v0"


def test_the_defaults_are_those_of_the_option_dataclasses() -> None:
    config = load(Config, [ENV])
    assert config.env == "forethought/PointMass-v0"
    for item in dataclasses.fields(Config):
        if item.name in ("env", "out", "planner", "objective", "defaults", "world_model"):
            continue
        default = item.default if item.default is not dataclasses.MISSING else item.default_factory()  # type: ignore[misc]
        assert getattr(config, item.name) == default, item.name
    assert (config.planner.name, config.objective.name) == ("icem", "goal")
    assert isinstance(config.planner, PLANNERS["icem"].options)


def test_groups_and_keys_are_overridden_and_the_last_one_counts() -> None:
    overrides = ["planner=mppi", "planner.temperature=0.25", "training.rounds=1", "training.rounds=3"]
    config = load(Config, [ENV, *overrides, "objective.risk.kind=worst", "objective.members=2"])
    assert isinstance(config.planner, PLANNERS["mppi"].options)
    assert config.planner.temperature == 0.25
    assert config.training.rounds == 3
    assert config.objective.risk.kind == "worst"


@pytest.mark.parametrize("name", sorted(PLANNERS))
def test_every_planner_can_be_chosen(name: str) -> None:
    config = load(EvalConfig, ["run=x", f"planner={name}"])
    assert type(config.planner).__mro__[1] is PLANNERS[name].options
    assert config.planner.name == name


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("env=my_robot:MyArm-v0", "env", "my_robot:MyArm-v0"),
        ("env=dm_control/cartpole-swingup-v0", "env", "dm_control/cartpole-swingup-v0"),
        ("env=FetchReach-v4", "env", "FetchReach-v4"),
        ("out=/data/my runs/first try", "out", "/data/my runs/first try"),
        ("out=it's (a) [path], with {every} thing=1 @home, 100 % é", "out",
         "it's (a) [path], with {every} thing=1 @home, 100 % é"),
        ("out='quoted'", "out", "quoted"),
        ("training.episode_steps=null", "training.episode_steps", None),
        ("agent.deadline_s=0.02", "agent.deadline_s", 0.02),
        ("world_model.channels=[8,16]", "world_model.channels", [8, 16]),
        ("env_options.kwargs={mass: 2.5, name: x}", "env_options.kwargs", {"mass": 2.5, "name": "x"}),
        ("env_options.kwargs.task=push up", "env_options.kwargs", {"task": "push up"}),
        ("steps=20_000", "steps", 20_000),
        ("memory.path=${oc.env:HOME}/memory", "memory.path", f"{Path.home()}/memory"),
    ],
)  # fmt: skip
def test_values_of_every_kind_arrive_as_they_were_written(override: str, path: str, value: Any) -> None:
    found: Any = load(Config, [ENV, override])
    for name in path.split("."):
        found = getattr(found, name)
    assert (list(found) if isinstance(found, tuple) else found) == value


@pytest.mark.parametrize(
    ("root", "override", "message"),
    [
        (Config, "stepz=3", "unknown config key 'stepz': did you mean steps?"),
        (Config, "planner.num_sample=3", "did you mean planner.num_samples"),
        (Config, "training.foo.bar=1", "unknown config key 'training.foo.bar'"),
        (Config, "env_options.observatio=x", "did you mean env_options.observation"),
        (Config, "planner=icen", "unknown planner 'icen': did you mean icem"),
        (Config, "objective=rewards", "unknown objective 'rewards': did you mean reward?"),
        (Config, "preset=pointmas", "did you mean pointmass"),
        (Config, "resume=yes", "unknown resume 'yes': known: auto, never"),
        (EvalConfig, "evaluation.episode=1", "did you mean evaluation.episodes"),
        (EvalConfig, "preset=default", "unknown config key 'preset'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(root: Any, override: str, message: str) -> None:
    required = ENV if root is Config else "run=x"
    with pytest.raises(UnknownNameError) as caught:
        load(root, [required, override])
    assert message in str(caught.value)


def test_keys_of_the_chosen_planner_count() -> None:
    assert load(Config, [ENV, "planner.keep_elites=0.5"]).planner.keep_elites == 0.5
    with pytest.raises(UnknownNameError, match=r"planner\.keep_elites"):
        load(Config, [ENV, "planner=cem", "planner.keep_elites=0.5"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "env must be given: env=…"),
        ([ENV, "steps=many"], "steps: Value 'many' of type 'str' could not be converted to Integer"),
        ([ENV, "steps="], "steps: Value '' of type 'str'"),
        ([ENV, "seed=1.5"], "seed: Value '1.5' of type 'float'"),
        ([ENV, "steps=null"], "steps: field 'steps' is not Optional"),
        ([ENV, "learner.cosine=3.5"], "learner.cosine: Value '3.5'"),
        ([ENV, "world_model.channels=[8,x]"], "world_model.channels[1]: Value 'x'"),
        ([ENV, "training=3"], "training: Invalid type assigned"),
        ([ENV, "env=[1,2]"], "env: Cannot convert 'list' to string"),
        ([ENV, "out=${nothing}"], "out: Interpolation key 'nothing' not found"),
        ([ENV, "out=[1"], "out: "),
        ([ENV, "steps"], "override must have the form key=value, got 'steps'"),
        ([ENV, "=3"], "override must have the form key=value, got '=3'"),
        ([ENV, "+new=3"], "override must have the form key=value, got '+new=3'"),
        ([ENV, "~planner=icem"], "override must have the form key=value, got '~planner=icem'"),
        ([ENV, "planner.name=cem"], "planner.name cannot be set: choose with planner=cem"),
        ([ENV, "steps=0"], "steps must be at least 1, got 0"),
        ([ENV, "threads=0"], "threads must be at least 1, got 0"),
        ([ENV, "learner.grad_clip=inf"], "learner.grad_clip must be finite, got inf"),
        ([ENV, "env_options.kwargs={a: [1, nan]}"], "env_options.kwargs.a.1 must be finite, got nan"),
        ([ENV, "seed=-1"], "seed must be at least 0, got -1"),
        ([ENV, f"seed={2**63}"], "seed must be at most 9223372036854775807, got 9223372036854775808"),
    ],
)
def test_wrong_values_are_explained_in_one_line(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Config, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.updates=0", "updates must be at least 1, got 0"),
        ("planner.num_elites=1000", "num_elites must be between 2 and num_samples=256, got 1000"),
        ("world_model.latent_norm=batch", "latent_norm must be one of none, layernorm, simnorm, got 'batch'"),
        ("learner.burn_in=8", "burn_in must be between 0 and window-1=7, got 8"),
        ("agent.replan_every=0", "replan_every must be at least 1, got 0"),
        ("objective.cost=energy", "cost must be one of time_to_goal, latent_l2, got 'energy'"),
        ("memory.map_size=1", "map_size must be at least"),
    ],
)
def test_values_out_of_range_are_reported_as_the_component_says_it(override: str, message: str) -> None:
    with pytest.raises(ForethoughtError) as caught:
        load(Config, [ENV, "preset=default", override])
    assert str(caught.value).startswith(message)


def test_evaluation_needs_a_run_and_a_thread() -> None:
    with pytest.raises(ConfigError, match="run must be given"):
        load(EvalConfig, [])
    with pytest.raises(ConfigError, match="threads must be at least 1, got 0"):
        load(EvalConfig, ["run=x", "threads=0"])
    with pytest.raises(ForethoughtError, match="episodes must be at least 1, got 0"):
        load(EvalConfig, ["run=x", "evaluation.episodes=0"])


@pytest.mark.parametrize("name", sorted(presets()))
def test_every_preset_loads_says_what_it_holds_and_is_found_by_its_environment(name: str) -> None:
    preset = presets()[name]
    config = load(Config, [f"env={preset.get('env', 'x')}", f"preset={name}"])

    def check(values: dict[str, Any], options: Any) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                check(value, getattr(options, key))
            elif key != "defaults":
                found = getattr(options, key)
                assert (list(found) if isinstance(value, list) else found) == value, key

    check(preset, config)
    if "env" in preset:
        made = preset.get("env_options", {})
        hide = ",".join(f"'{name}'" for name in made.get("hide", []))
        given = [f"env={preset['env']}", f"env_options.observation={made.get('observation', 'state')}"]
        given += [f"env_options.hide=[{hide}]"] * bool(hide and "skill" not in made)
        given += [f"env_options.skill={made.get('skill')}"] * ("skill" in made)
        assert with_preset(given) == ([f"preset={name}", *given], name)


@pytest.mark.parametrize(
    ("override", "hidden", "name"),
    [
        ("[velocity]", ["velocity"], "blind"),
        ("['velocity']", ["velocity"], "blind"),
        ("['position[0]']", ["position[0]"], "reacher"),
        ("[]", [], "reacher"),
    ],
)
def test_what_is_hidden_chooses_the_preset(
    override: str, hidden: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blind = {"env": "forethought/Reacher-v0", "env_options": {"hide": ["velocity"]}}
    known = {"blind": blind, **presets()}
    monkeypatch.setattr(register, "presets", lambda: known)
    given = ["env=forethought/Reacher-v0", f"env_options.hide={override}"]
    assert with_preset(given) == ([f"preset={name}", *given], name)
    assert load(Config, ["preset=default", *given]).env_options.hide == hidden


def test_presets_are_not_added_where_none_fits_or_one_was_chosen() -> None:
    for given in (["env=no/Preset-v0"], ["preset=default", ENV], ["steps=3"]):
        assert with_preset(given) == (given, None)


@pytest.mark.parametrize("name", ["1.10", "1e3", "0x10", "true", "007"])
def test_folders_keep_the_names_that_they_are_given(name: str) -> None:
    config = load(Config, [ENV, *(f"{key}={name}" for key in ("out", "memory.path", "init", "env_options.skill"))])
    assert (config.out, config.memory.path, config.init, config.env_options.skill) == (name,) * 4
    assert load(Config, [ENV, "memory.path=null"]).memory.path is None


def test_overrides_of_the_user_come_after_the_preset() -> None:
    overrides, _ = with_preset([ENV, "training.updates=7"])
    assert load(Config, overrides).training.updates == 7


@dataclasses.dataclass
class OwnOptions(CEMOptions):
    """Options of a planner of another package."""

    patience: int = 3
    """How long it waits."""


ENTRY = PlannerEntry(CEM, OwnOptions)


def test_planners_of_other_packages_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    point = importlib.metadata.EntryPoint("own", f"{__name__}:ENTRY", "forethought.planners")
    monkeypatch.setattr(importlib.metadata.EntryPoint, "load", lambda self: ENTRY)
    offered = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **params: offered.select(**params))
    config = load(Config, [ENV, "planner=own", "planner.patience=5"])
    assert isinstance(config.planner, OwnOptions)
    assert (config.planner.name, config.planner.patience) == ("own", 5)
    with pytest.raises(UnknownNameError, match="did you mean own"):
        load(Config, [ENV, "planner=owm"])


def test_every_option_is_described() -> None:
    rows = describe(Config, ["planner=mppi"])
    keys = [key for key, _, _ in rows]
    assert len(keys) == len(set(keys))
    assert {"env", "planner.temperature", "objective.risk.kind", "memory.path", "training.rounds"} <= set(keys)
    assert not any(key.endswith(".name") or key == "defaults" for key in keys)
    for key, _, meaning in rows:
        assert meaning, f"{key} has no sentence below its field"
        assert "\n" not in meaning
    assert ("env", "(required)") in [row[:2] for row in rows]
    assert ("env_options.action_repeat", str(EnvOptions().action_repeat)) in [row[:2] for row in rows]
    assert "evaluation.episodes" in [key for key, _, _ in describe(EvalConfig, [])]


def test_a_comparison_takes_options_of_planners_that_no_schema_knows() -> None:
    config = load(BenchConfig, ["planners=[mppi,cold]", "options.cold.planner=mppi", "options.cold.temperature=0.1"])
    assert config.options == {"cold": {"planner": "mppi", "temperature": 0.1}}
    assert config.planners == ["mppi", "cold"]
    assert load(BenchConfig, ["budgets_ms=[5,2.5]"]).budgets_ms == [5.0, 2.5]
    for bad in ("option.cold.planner=mppi", "planner=cem", "budget=3"):
        with pytest.raises(UnknownNameError, match="unknown config key"):
            load(BenchConfig, [bad])
    for root in (Config, EvalConfig):  # only there
        with pytest.raises(UnknownNameError, match=r"unknown config key 'options\.cem\.x'"):
            load(root, [ENV if root is Config else "run=x", "options.cem.x=1"])
    keys = {key: meaning for key, _, meaning in describe(BenchConfig, [])}
    assert {"planners", "budgets", "budgets_ms", "tasks", "models", "out", "episodes"} <= set(keys)
    assert all(keys.values())
    with pytest.raises(ForethoughtError, match="episodes must be at least 1, got 0"):
        load(BenchConfig, ["episodes=0"])


def test_a_configuration_can_go_to_another_process() -> None:
    config = load(DriveConfig, ["run=runs/arm", "planner=cem", "planner.horizon=7", "objective=reward"])
    again = pickle.loads(pickle.dumps(config))
    assert dataclasses.asdict(again) == dataclasses.asdict(config)
    assert (again.planner.name, again.planner.horizon, again.objective.name) == ("cem", 7, "reward")
    assert isinstance(again.planner, CEMOptions)


def test_registering_twice_changes_nothing() -> None:
    register.register()
    before = set(ConfigStore.instance().repo["planner"])
    register.register()
    assert set(ConfigStore.instance().repo["planner"]) == before >= {f"{name}.yaml" for name in PLANNERS}
