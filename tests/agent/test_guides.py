"""The guide by macro-actions: sub-goals on the way, within what was seen, and nothing kept but the course."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forethought.agent.agent import Agent, AgentOptions, merge, select
from forethought.agent.build import build_guide, load_agent
from forethought.agent.configurator import JUMP, PLAN, ConfiguratorError, ConfiguratorOptions
from forethought.agent.files import read_json
from forethought.agent.guides import GuideError, MacroGuide, MacroOptions
from forethought.agent.jobs.train import train
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.runs import RunError
from forethought.agent.world_model.model import WorldModel
from forethought.configs.register import load
from forethought.configs.schema import Config
from forethought.planners import make_planner

Maker = Callable[..., Any]
STEP = 5.0


@pytest.fixture
def model(toy_spec: Maker, toy_model: Maker, monkeypatch: pytest.MonkeyPatch) -> WorldModel:
    """Latents on a plane where macro-actions are steps of five times their size, and distances are plain."""
    made: WorldModel = toy_model(toy_spec(), macro_stride=4, macro_dim=2)
    assert made.macro is not None

    def jump(z: Tensor, macro: Tensor) -> Tensor:
        return z + STEP * torch.nn.functional.pad(macro, (0, z.shape[-1] - 2))

    monkeypatch.setattr(made.macro, "jump", jump)
    monkeypatch.setattr(made, "steps_to_goal", lambda z, goal: (z - goal).norm(dim=-1).unsqueeze(0))
    return made


def at(model: WorldModel, *places: tuple[float, float]) -> Tensor:
    return torch.nn.functional.pad(torch.tensor(places).float(), (0, model.latent_dim - 2))


def guide(model: WorldModel, reach: float = 12.0, seed: int = 0, **options: Any) -> MacroGuide:
    return MacroGuide(model, MacroOptions(**options), reach, torch.Generator().manual_seed(seed))


# -- sub-goals ---------------------------------------------------------------------------------------------------------


def test_sub_goals_lie_on_the_way_and_near_the_goal_it_is_the_goal_itself(model: WorldModel) -> None:
    z, goal = at(model, (0, 0), (0, 0)), at(model, (40, 0), (0, -11))
    targets, course = guide(model).aim(z, goal, None)
    assert course.mode.tolist() == [JUMP, PLAN]
    assert torch.equal(targets[1], goal[1])
    assert 5 < targets[0, 0] < 15
    assert abs(targets[0, 1]) < 5


def test_the_last_jump_within_reach_is_taken_and_at_least_the_first(model: WorldModel) -> None:
    z, goal = at(model, (0, 0)), at(model, (100, 0))
    away = [float(guide(model, reach).aim(z, goal, None)[0].norm()) for reach in (1.0, 25.0, 45.0)]
    assert 5 < away[0] < 15 < away[1] < 25 < away[2] < 45


@pytest.mark.parametrize("limit", [0.5, 2.0])
def test_macro_actions_beyond_what_was_seen_are_not_planned(limit: float, model: WorldModel) -> None:
    z, goal = at(model, (0, 0), (0, 0)), at(model, (1000, 0), (1000, 1000))
    targets, course = guide(model, reach=1.0, limit=limit).aim(z, goal, None)
    assert course.macros.abs().max() <= limit
    assert targets.abs().max() <= STEP * limit + 1e-4
    assert targets[0, 0] > 0.8 * STEP * limit, "as far as it may go"


def test_no_jump_is_begun_that_cannot_be_over_in_time(model: WorldModel) -> None:
    z, goal = at(model, (0, 0), (0, 0)), at(model, (40, 0), (40, 0))
    targets, course = guide(model).aim(z, goal, None, torch.tensor([3, 4]))  # a jump takes 4
    assert course.mode.tolist() == [PLAN, JUMP]
    assert torch.equal(targets[0], goal[0])


def test_search_goes_on_from_the_last_course_unless_the_goal_has_changed(model: WorldModel) -> None:
    z, goal = at(model, (0, 0)), at(model, (300, 0))
    _, course = guide(model).aim(z, goal, None)
    course = dataclasses.replace(course, macros=torch.tensor([2.0, 0.0]).expand(1, 8, 2))  # straight on
    few = {"num_samples": 4, "num_elites": 2, "iterations": 1}  # finds nothing by itself
    kept = guide(model, **few).aim(z, goal, course)[1]
    assert torch.equal(kept.macros, course.macros)
    other = dataclasses.replace(course, macros=-course.macros)
    afresh = [guide(model, **few).aim(z, -goal, before)[1].macros for before in (course, other)]
    assert torch.equal(*afresh)
    assert not torch.equal(afresh[0], other.macros)


def test_courses_can_be_selected_and_merged(model: WorldModel) -> None:
    z, goal = at(model, (0, 0), (1, 1), (2, 2)), at(model, (40, 0), (0, 40), (-40, 0))
    _, course = guide(model).aim(z, goal, None)
    rows = torch.tensor([2, 0])
    chosen = select(course, rows)
    assert torch.equal(chosen.macros, course.macros[rows])
    targets, _ = guide(model).aim(z[rows], goal[rows], chosen)
    assert targets.shape == (2, model.goal_dim)
    assert torch.equal(merge(torch.tensor([True, False]), select(course, rows.flip(0)), chosen).goal[0], goal[0])


def test_goals_changed_in_place_do_not_change_the_course(model: WorldModel) -> None:
    z, goal = at(model, (0, 0)), at(model, (40, 0))
    _, course = guide(model).aim(z, goal, None)
    goal += 1
    assert not torch.equal(course.goal, goal)


# -- with an agent -----------------------------------------------------------------------------------------------------


def test_the_planner_plans_for_what_the_guide_says(toy_model: Maker, toy_obs: Maker) -> None:
    model = toy_model(macro_stride=4)
    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    planner, objective = make_planner("cem", low, high, num_samples=32, horizon=3), GoalObjective(GoalOptions())
    obs, goal = toy_obs(model.spec, (2,)), torch.randn(2, model.goal_dim, generator=torch.Generator().manual_seed(0))
    chooser = guide(model, reach=1e-3)
    target, _ = guide(model, reach=1e-3).aim(model.encode(obs), goal, None)

    def act(chooser: MacroGuide | None, goal: Tensor) -> tuple[Tensor, Any]:
        options = AgentOptions(plan_dtype="float32")
        agent = Agent(model, planner, objective, options, torch.Generator().manual_seed(0), chooser)
        action, carry, _ = agent.act(obs, agent.init(2), goal)
        return action, carry

    guided, carry = act(chooser, goal)
    assert torch.equal(guided, act(None, target)[0])
    assert not torch.equal(guided, act(None, goal)[0])
    assert len(select(carry, torch.tensor([1])).course.macros) == 1


def test_a_run_goes_by_macro_actions_without_its_memory(small: list[str], cli: Maker, tmp_path: Path) -> None:
    run = tmp_path / "run"
    wanted = ["world_model.macro_stride=6", "agent.configurator.mode=auto", "agent.configurator.guide=macro"]
    train(load(Config, [*small, *wanted, "agent.graph.reach=1e-3", "agent.graph.spacing=1e-4", f"out={run}"]))
    shutil.rmtree(run / "memory")
    agent = load_agent(run)
    assert isinstance(agent.configurator, MacroGuide)
    outcome = cli("eval", f"run={run}", "episodes=2", "threads=1", "evaluation.video=false")
    assert outcome.code == 0, outcome.err
    assert read_json(run / "eval.json")["plan"]["mode/jump"] == 15 / 20, "no jump of six in the last five decisions"
    flat = dataclasses.replace(agent.options, configurator=ConfiguratorOptions())
    assert load_agent(run, options=flat).configurator is None
    agent.model.purpose = "reward"
    agent.model.options.value_members = 1
    alone = AgentOptions(configurator=ConfiguratorOptions(mode="auto"))
    with pytest.raises(RunError, match=r"second opinion .*: world_model.value_members must be at least 2, got 1"):
        build_guide(agent.model, alone, agent.generator, pytest.fail)
    agent.model.options.value_members = 2
    with pytest.raises(RunError, match=r"agent\.configurator\.guide=macro needs a run with objective=goal"):
        build_guide(agent.model, agent.options, agent.generator, pytest.fail)


def test_a_run_without_macro_actions_is_refused(small_run: Path) -> None:
    options = AgentOptions(configurator=ConfiguratorOptions(mode="auto", guide="macro"))
    with pytest.raises(GuideError, match=r"guide=macro needs a run with world_model.macro_stride above 0, got 0"):
        load_agent(small_run, options=options)


# -- options -----------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {"horizon": 5, "num_samples": 100, "iterations": 2, "num_elites": 6, "limit": 1.0}


@pytest.mark.parametrize("option", [f.name for f in dataclasses.fields(MacroOptions)])
def test_every_option_changes_the_result(option: str, model: WorldModel) -> None:
    assert option in CHANGES, f"add {option} to CHANGES, with a value that changes the result"
    z, goal = at(model, (0, 0)), at(model, (40, 30))

    def run(**options: Any) -> Tensor:
        return guide(model, **options).aim(z, goal, None)[0]

    assert torch.equal(run(), run()), "the comparison must be deterministic"
    assert not torch.equal(run(), run(**{option: CHANGES[option]}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizon": 0}, "horizon must be at least 1, got 0"),
        ({"num_samples": 3}, "num_samples must be at least 4, got 3"),
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"num_elites": 1}, "num_elites must be between 2 and num_samples=64, got 1"),
        ({"num_samples": 8, "num_elites": 9}, "num_elites must be between 2 and num_samples=8, got 9"),
        ({"limit": 0.0}, "limit must be positive, got 0.0"),
        ({"limit": float("nan")}, "limit must be positive, got nan"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(GuideError) as error:
        MacroOptions(**options)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guide": "map"}, "guide must be one of graph, macro, got 'map'"),
        (
            {"guide": "macro", "mode": "memory"},
            "mode must be plan or auto with guide=macro, got 'memory'",
        ),
    ],
)
def test_guides_that_there_are_not_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfiguratorError) as error:
        ConfiguratorOptions(**options)
    assert str(error.value) == message


def test_options_come_back_from_json_also_of_runs_from_before() -> None:
    options = AgentOptions(macro=MacroOptions(horizon=3), configurator=ConfiguratorOptions(mode="auto", guide="macro"))
    saved = dataclasses.asdict(options)
    assert AgentOptions.from_json(saved) == options
    del saved["macro"]
    assert AgentOptions.from_json(saved).macro == MacroOptions()
