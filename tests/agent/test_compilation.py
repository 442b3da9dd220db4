"""Compiled code computes what plain code does, and is asked for only where it can be had."""

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

from forethought.agent import compilation
from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.compilation import cpp_compiler, worth_compiling
from forethought.agent.objectives import ImaginedCost, RewardObjective, RewardOptions, propose
from forethought.agent.training.learner import Learner, LearnerOptions
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.planners import make_planner

Maker = Callable[..., Any]
CPU = torch.device("cpu")
needs_compiler = pytest.mark.skipif(cpp_compiler() is None, reason="needs a C++ compiler")


@pytest.fixture
def model(toy_spec: Maker) -> WorldModel:
    options = WorldModelOptions(latent_dim=8, hidden_dim=32, ensemble_size=1, bins=32, probe=False)
    made = WorldModel(toy_spec(goal=None), options, purpose="reward").eval()
    assert made.control is not None
    for i, net in enumerate((made.control.reward, made.control.value, made.control.target)):
        last = net.layers[-1].weight  # with opinions: they start out without
        last.data.copy_(torch.randn(last.shape, generator=torch.Generator().manual_seed(i)))
    return made


def test_never_is_never() -> None:
    assert not worth_compiling("never", CPU)


def test_auto_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compilation, "fault_of_compiler", lambda device: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert worth_compiling("auto", CPU)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not worth_compiling("auto", CPU)


def test_a_compiler_that_does_not_work_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(function: Any, **options: Any) -> Any:
        raise RuntimeError("\n  compiling:\n  fatal error: Python.h: No such file or directory\n")

    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(torch, "compile", broken)
    compilation.fault_of_compiler.cache_clear()
    with pytest.warns(UserWarning, match=r"without compiled code: RuntimeError: fatal error: Python\.h"):
        assert not worth_compiling("auto", CPU)
    compilation.fault_of_compiler.cache_clear()


def test_the_compiler_is_that_of_cxx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "c++-9" else None)
    assert cpp_compiler() is None
    monkeypatch.setenv("CXX", "c++-9")
    assert cpp_compiler() == "/usr/bin/c++-9"


def test_without_a_compiler_the_plan_is_the_plain_one(
    model: WorldModel, toy_obs: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(compilation, "compiled", lambda function: pytest.fail("compiled"))
    obs = toy_obs(model.spec, (1,))
    actions = [agent_of(model, compile=choice).act(obs, agent_of(model).init(1), None)[0] for choice in CHOICES]
    assert torch.equal(*actions)


CHOICES = ("auto", "never")


def agent_of(model: WorldModel, **options: Any) -> Agent:
    spec = model.spec
    planner = make_planner(
        "mppi", torch.tensor(spec.action_low), torch.tensor(spec.action_high),
        horizon=3, num_samples=64, iterations=3, num_elites=16,
    )  # fmt: skip
    options = {"plan_dtype": "float32", **options}
    generator = torch.Generator().manual_seed(0)
    return Agent(model, planner, RewardObjective(RewardOptions()), AgentOptions(**options), generator)


@needs_compiler
def test_a_compiler_that_works_has_no_fault() -> None:
    assert compilation.fault_of_compiler(CPU) is None


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("terminates", [False, True])
def test_compiled_plans_are_the_same_up_to_rounding(model: WorldModel, toy_obs: Maker, terminates: bool) -> None:
    assert model.control is not None
    model.control.get_buffer("has_terminated").fill_(terminates)
    obs = toy_obs(model.spec, (1,))
    plans = [agent_of(model, compile=choice).act(obs, agent_of(model).init(1), None)[2] for choice in CHOICES]
    compiled_, plain = plans
    assert compiled_ is not None
    assert plain is not None
    torch.testing.assert_close(compiled_.actions, plain.actions, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(compiled_.best_costs, plain.best_costs, rtol=1e-3, atol=1e-3)


@needs_compiler
@pytest.mark.slow
def test_new_weights_need_no_new_compilation(model: WorldModel, toy_obs: Maker, toy_actions: Maker) -> None:
    """An agent is built anew after every round of learning: it must plan with its weights, and at once."""
    spec = model.spec
    with torch.no_grad():
        z, actions = model.encode(toy_obs(spec, (1,))), toy_actions(spec, (1, 64, 3))
        costs = []
        for i in range(2):
            frozen = model.frozen(torch.float32)
            with torch.compiler.set_stance("default" if i == 0 else "fail_on_recompile"):
                cost_fn = ImaginedCost(frozen, RewardObjective(RewardOptions()), z, None, compile=True)
                costs.append(cost_fn(actions))
                seeds = propose(model, RewardObjective(RewardOptions()), z, torch.zeros(1, 8, 3, spec.action_dim))
                assert seeds.shape == (1, 8, 3, spec.action_dim)
            for parameter in model.parameters():
                parameter.mul_(0.5)
        assert not torch.allclose(*costs)


def test_several_problems_are_left_to_plain_code(model: WorldModel, toy_obs: Maker) -> None:
    z = model.encode(toy_obs(model.spec, (2,))).detach()
    assert ImaginedCost(model, RewardObjective(RewardOptions()), z, None, compile=True).fuse(print, 64) is None
    assert ImaginedCost(model, RewardObjective(RewardOptions()), z[:1], None, compile=True).fuse(print, 64) is not None
    assert ImaginedCost(model, RewardObjective(RewardOptions()), z[:1], None).fuse(print, 64) is None


@needs_compiler
@pytest.mark.slow
def test_compiled_updates_are_the_same_up_to_rounding(toy_spec: Maker, toy_batch: Maker) -> None:
    spec = toy_spec(goal=None)
    batch, weights, losses = toy_batch(spec), [], []
    for choice in CHOICES:
        options = WorldModelOptions(latent_dim=8, hidden_dim=32, ensemble_size=1, bins=32, probe=False)
        model = WorldModel(spec, options, purpose="reward").eval()
        learner = Learner(model, LearnerOptions(compile=choice), 100, torch.Generator().manual_seed(0))
        losses.append(torch.stack([learner.update(batch)["loss/total"] for _ in range(3)]))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-2, atol=1e-3)
