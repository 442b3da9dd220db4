"""Compiled code computes what plain code does, and is asked for only where it can be had."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from forethought.agent import compilation, objectives
from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.build import load_agent
from forethought.agent.compilation import Compiled, cpp_compiler, worth_compiling
from forethought.agent.objectives import ImaginedCost, RewardObjective, RewardOptions
from forethought.agent.training.learner import Learner, LearnerOptions
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.planners import make_planner

Maker = Callable[..., Any]
CPU = torch.device("cpu")
CHOICES = ("auto", "never")
needs_compiler = pytest.mark.skipif(cpp_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture
def no_memory() -> Iterator[None]:
    """Nothing is remembered of compilers before or after the test."""
    compilation.fault_of_compiler.cache_clear()
    yield
    compilation.fault_of_compiler.cache_clear()


def opinionated(spec: Any, terminates: bool = False) -> WorldModel:
    options = WorldModelOptions(latent_dim=8, hidden_dim=32, ensemble_size=1, bins=32, probe=False)
    model = WorldModel(spec, options, purpose="reward").eval()
    assert model.control is not None
    model.control.get_buffer("has_terminated").fill_(terminates)
    for i, net in enumerate((model.control.reward, model.control.value, model.control.target)):
        last = net.layers[-1].weight  # they start out without opinions
        last.data.copy_(torch.randn(last.shape, generator=torch.Generator().manual_seed(i)))
    return model


@pytest.fixture
def model(toy_spec: Maker) -> WorldModel:
    return opinionated(toy_spec(goal=None))


def agent_of(model: WorldModel, **options: Any) -> Agent:
    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    planner = make_planner("mppi", low, high, horizon=3, num_samples=64, iterations=3, num_elites=16)
    options = {"plan_dtype": "float32", **options}
    return Agent(model, planner, RewardObjective(RewardOptions()), AgentOptions(**options), torch.Generator())


def plans(agent: Agent, obs: dict[str, Tensor], count: int = 2) -> list[Tensor]:
    """Costs and actions of some plans in a row."""
    agent.generator.manual_seed(0)
    carry, seen = agent.init(1), []
    for _ in range(count):
        _, carry, plan = agent.act(obs, carry, None)
        assert plan is not None
        seen += [plan.best_costs, plan.actions]
    return seen


# -- whether to compile ------------------------------------------------------------------------------------------------


def test_never_is_never() -> None:
    assert not worth_compiling("never", CPU)


def test_auto_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "fault_of_compiler", lambda device: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert worth_compiling("auto", CPU)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not worth_compiling("auto", CPU)


def test_a_compiler_that_does_not_work_is_done_without(monkeypatch: pytest.MonkeyPatch, no_memory: None) -> None:
    def broken(function: Any, **options: Any) -> Any:
        raise RuntimeError("\n  compiling:\n  fatal error: Python.h: No such file or directory\n")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(UserWarning, match=r"without compiled code: RuntimeError: fatal error: Python\.h"):
        assert not worth_compiling("auto", CPU)


@pytest.mark.parametrize(("platform", "usual"), [("linux", "g++"), ("darwin", "clang++")])
def test_the_compiler_is_that_of_pytorch(monkeypatch: pytest.MonkeyPatch, platform: str, usual: str) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.delenv("CXX", raising=False)
    assert cpp_compiler() == f"/usr/bin/{usual}"
    monkeypatch.setenv("CXX", "c++-9")
    assert cpp_compiler() == "/usr/bin/c++-9"


def test_without_a_compiler_plans_are_plain(model: WorldModel, toy_obs: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(objectives, "compiled", lambda function: pytest.fail("compiled"))
    obs = toy_obs(model.spec, (1,))
    auto, never = (plans(agent_of(model, compile=choice), obs) for choice in CHOICES)
    assert all(map(torch.equal, auto, never))


def test_several_problems_are_left_to_plain_code(model: WorldModel, toy_obs: Maker) -> None:
    z = model.encode(toy_obs(model.spec, (2,))).detach()
    objective = RewardObjective(RewardOptions())
    assert ImaginedCost(model, objective, z, None, compile=True).fuse(print, 64) is None
    assert ImaginedCost(model, objective, z[:1], None, compile=True).fuse(print, 64) is not None
    assert ImaginedCost(model, objective, z[:1], None).fuse(print, 64) is None


@needs_compiler
def test_what_cannot_be_compiled_runs_plainly() -> None:
    def interrupts(x: Tensor) -> Tensor:
        return x * 2 if bool(x.sum() > 0) else x  # a choice by value is no graph

    function = Compiled(interrupts)
    with pytest.warns(UserWarning, match="interrupts goes on without compiled code"):
        assert torch.equal(function(torch.ones(3)), 2 * torch.ones(3))
    assert torch.equal(function(-torch.ones(3)), -torch.ones(3))  # and says so once


# -- that it is the same -----------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("terminates", [False, True])
def test_compiled_plans_are_the_same_up_to_rounding(
    toy_spec: Maker, toy_obs: Maker, dtype: str, terminates: bool
) -> None:
    model = opinionated(toy_spec(goal=None), terminates)
    obs = toy_obs(model.spec, (1,))
    auto, never = (plans(agent_of(model, compile=choice, plan_dtype=dtype), obs) for choice in CHOICES)
    if dtype == "float32":
        torch.testing.assert_close(auto, never, rtol=1e-3, atol=1e-3)
    else:  # rounding may turn the order of candidates that are worth the same
        torch.testing.assert_close(auto[::2], never[::2], rtol=5e-2, atol=5e-2)


@needs_compiler
@pytest.mark.slow
def test_one_compilation_serves_every_decision_and_new_weights(model: WorldModel, toy_obs: Maker) -> None:
    """An agent is built anew after every round of learning: it must plan with its weights, and at once."""
    obs = toy_obs(model.spec, (1,))
    first = plans(agent_of(model, compile="auto"), obs, count=1)  # three iterations; one more version would fail below
    with torch.compiler.set_stance("fail_on_recompile"):
        again = plans(agent_of(model, compile="auto"), obs)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(0.5)
        changed = plans(agent_of(model, compile="auto"), obs, count=1)
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], changed[0])


@needs_compiler
@pytest.mark.slow
def test_threads_that_share_a_search_use_compiled_code(
    model: WorldModel, toy_obs: Maker, toy_actions: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forethought.agent.threads.WORTH_SHARING", model.product_size(16))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.no_grad():
            z, actions = model.encode(toy_obs(model.spec, (1,))), toy_actions(model.spec, (1, 64, 3))
            auto, never = (
                ImaginedCost(model.frozen(torch.float32), RewardObjective(RewardOptions()), z, None, compile=compile)
                for compile in (True, False)
            )
            assert auto.fuse(print, 64) is None
            first = auto(actions)
            with torch.compiler.set_stance("fail_on_recompile"):
                for _ in range(50):  # the checks of compiled code fail now and then where threads share them
                    assert torch.equal(auto(actions), first)
            torch.testing.assert_close(first, never(actions), rtol=1e-3, atol=1e-3)
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.slow
def test_compiled_updates_are_the_same_up_to_rounding(toy_spec: Maker, toy_batch: Maker) -> None:
    spec = toy_spec(goal=None)
    batch, states, losses = toy_batch(spec), [], []
    for choice in CHOICES:
        model = opinionated(spec, terminates=True)
        learner = Learner(model, LearnerOptions(compile=choice), 100, torch.Generator().manual_seed(0))
        updates = [learner.update(batch) for _ in range(3)]
        losses.append(torch.stack([u["loss/total"] for u in updates] + [u["loss/termination"] for u in updates]))
        states.append(model.state_dict())
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)
    assert float(states[0]["control.scale"]) != 1.0  # a buffer that is changed inside
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-2, atol=2e-3, msg=name)


# -- paying beforehand -------------------------------------------------------------------------------------------------


def test_warming_up_leaves_no_trace(model: WorldModel, toy_obs: Maker) -> None:
    obs, agent = toy_obs(model.spec, (1,)), agent_of(model, deadline_s=1e-9)
    calls: list[float | None] = []
    plan = agent.planner.plan

    def watched(*args: Any) -> Any:
        calls.append(args[-1])
        return plan(*args)

    agent.planner.plan = watched  # type: ignore[method-assign]
    before = agent.generator.get_state()
    agent.warm_up()
    assert torch.equal(agent.generator.get_state(), before)
    assert calls == [None]  # to the end: what is compiled must be all that is used
    agent.act(obs, agent.init(1), None)
    assert calls[-1] == 1e-9


def test_an_agent_with_a_deadline_is_loaded_warm(small_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Agent] = []
    monkeypatch.setattr(Agent, "warm_up", lambda agent: calls.append(agent))
    load_agent(small_run)
    assert calls == []
    agent = load_agent(small_run, options=AgentOptions(deadline_s=0.01))
    assert calls == [agent]
