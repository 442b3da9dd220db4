"""What the learner learns, on worlds small enough to know the answer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.memory.sampler import SequenceBatch
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.training.learner import Learner, LearnerOptions
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.envs.spec import ArraySpec, EnvSpec, GoalSpec
from forethought.planners import make_planner

SPEC = EnvSpec(
    env_id="Plane-v0",
    obs={"position": ArraySpec((2,), "float32")},
    action_low=(-1.0, -0.5),
    action_high=(1.0, 1.5),
    control_dt=0.1,
    max_episode_steps=50,
    goal=GoalSpec("observation"),
)
LINE = EnvSpec("Line-v0", {"place": ArraySpec((1,), "float32")}, (0.5,), (1.5,), 0.1, 50, GoalSpec("observation"))
Batches = Callable[[torch.Generator], SequenceBatch]


def batch_of(key: str, obs: Tensor, actions: Tensor, goals: Tensor, index: Tensor, steps: Tensor) -> SequenceBatch:
    return SequenceBatch(
        obs={key: obs},
        actions=actions,
        rewards=torch.zeros(actions.shape[:2]),
        terminated=torch.zeros(actions.shape[:2], dtype=torch.bool),
        goal_obs={key: goals},
        goal_index=index,
        goal_steps=steps,
    )


def draw_actions(spec: EnvSpec, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    return low + torch.rand(*shape, spec.action_dim, generator=generator) * (high - low)


def plane(generator: torch.Generator, batch: int = 64, length: int = 4) -> SequenceBatch:
    """A point that moves by its action."""
    actions = draw_actions(SPEC, (batch, length), generator)
    start = torch.rand(batch, 1, 2, generator=generator) * 2 - 1
    obs = torch.cat([start, start + 0.3 * actions.cumsum(dim=1)], dim=1)
    index = torch.zeros(batch, 1, dtype=torch.int64)
    return batch_of("position", obs, actions, obs[:, -1:], index, torch.full((batch, 1), float(length)))


def line(generator: torch.Generator, batch: int = 64, length: int = 4, pairs: int = 4) -> SequenceBatch:
    """A train that does one step of 0.1 per decision from -1 to 1, whatever it is told."""
    start = torch.randint(0, 20 - length, (batch, 1), generator=generator)
    at = start + torch.arange(length + 1)
    index = torch.randint(length + 1, (batch, pairs), generator=generator)
    here = start + index
    gap = (torch.rand(batch, pairs, generator=generator) * (20 - here + 1)).floor()
    return batch_of(
        "place",
        (at / 10 - 1).unsqueeze(-1),
        draw_actions(LINE, (batch, length), generator),
        ((here + gap) / 10 - 1).unsqueeze(-1),
        index,
        gap,
    )


def train(
    batches: Batches, updates: int, spec: EnvSpec = SPEC, model: dict[str, Any] | None = None, **options: Any
) -> tuple[WorldModel, list[dict[str, float]]]:
    world_model = WorldModel(
        spec,
        WorldModelOptions(
            **{"encoder": "learned", "latent_dim": 16, "hidden_dim": 64, "ensemble_size": 1, **(model or {})}
        ),
    )
    learner = Learner(
        world_model,
        LearnerOptions(**{"learning_rate": 3e-3, "warmup": 20, **options}),
        updates,
        torch.Generator().manual_seed(0),
    )
    generator = torch.Generator().manual_seed(1)
    history = [{k: float(v) for k, v in learner.update(batches(generator)).items()} for _ in range(updates)]
    return world_model, history


def fresh(seed: int = 99) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "variant",
    [{}, {"latent_norm": "simnorm"}, {"recurrence": "gru"}, {"encoder": "identity"}, {"encoder": "augmented"}],
)
def test_one_batch_is_overfitted(variant: dict[str, Any]) -> None:
    one = plane(fresh(), batch=16)
    _, history = train(lambda _: one, 250, model=variant, variance=0.0, covariance=0.0)
    first, last = history[0], history[-1]
    assert last["loss/inverse_dynamics"] < first["loss/inverse_dynamics"] / 10
    worst = max(step["loss/prediction"] for step in history[:50])  # latents have to spread before they can be missed
    assert last["loss/prediction"] < worst / 10


def test_inverse_dynamics_recovers_actions_on_new_data() -> None:
    model, _ = train(plane, 300)
    test = plane(fresh())
    with torch.no_grad():
        z, actions = model.encode_sequence(test.obs, test.actions), model.normalize_action(test.actions)
        error = (model.inverse(z[:, :-1], z[:, 1:]) - actions).square().mean()
    assert error < 0.03 * actions.var()


def test_probes_read_what_the_model_predicts() -> None:
    model, _ = train(plane, 400)
    test = plane(fresh())
    with torch.no_grad():
        state = model.encode({"position": test.obs["position"][:, 0]})[None]
        for t in range(4):
            state = model.step(state, test.actions[:, t])
        error = (model.probe(state[0]) - test.obs["position"][:, -1]).square().mean()
        moved = (test.obs["position"][:, -1] - test.obs["position"][:, 0]).square().mean()
    assert error < 0.05 * moved


@pytest.mark.parametrize("log_time", [False, True])
def test_time_to_goal_is_the_number_of_steps_between(log_time: bool) -> None:
    model, _ = train(line, 400, LINE, log_time=log_time)
    at = torch.arange(21.0)
    with torch.no_grad():
        z = model.encode({"place": (at / 10 - 1).unsqueeze(-1)})
        steps = model.steps_to_goal(z[:, None].expand(-1, 21, -1), z)[0]  # from row to column
    ahead = (at[None] - at[:, None]).clamp(min=0)
    known = torch.triu(torch.ones(21, 21, dtype=torch.bool))[:16]  # pairs that training draws
    error = steps[:16].log1p() - ahead[:16].log1p() if log_time else steps[:16] - ahead[:16]
    mean, worst = (0.15, 0.6) if log_time else (0.6, 3)
    assert error[known].abs().mean() < mean
    assert error[known].abs().max() < worst


@pytest.mark.parametrize(("log_time", "middle"), [(False, 6.0), (True, (3 * 11) ** 0.5 - 1)])
def test_expectiles_lean_toward_the_shortest_way_seen(log_time: bool, middle: float) -> None:
    def detours(generator: torch.Generator) -> SequenceBatch:
        """The same pair of states, sometimes 2 and sometimes 10 steps apart."""
        obs = torch.zeros(64, 2, 1)
        steps = 2 + 8 * (torch.rand(64, 1, generator=generator) < 0.5).float()
        return batch_of(
            "place", obs, torch.ones(64, 1, 1), torch.ones(64, 1, 1), torch.zeros(64, 1, dtype=torch.int64), steps
        )

    found = []
    for expectile in (0.1, 0.5, 0.9):
        model, _ = train(detours, 150, LINE, {"hidden_dim": 16}, expectile=expectile, log_time=log_time, cosine=False)
        with torch.no_grad():
            z, goal = (model.encode({"place": torch.full((1, 1), x)}) for x in (0.0, 1.0))
            found.append(float(model.steps_to_goal(z, goal)))
    assert found[0] < middle - 1.5
    assert found[1] == pytest.approx(middle, abs=0.5)
    assert found[2] > middle + 2


def test_members_disagree_where_there_was_no_data() -> None:
    model, _ = train(plane, 300, model={"ensemble_size": 3, "encoder": "identity"})
    test = plane(fresh())
    place, action = test.obs["position"][:, 0], test.actions[:, 0]
    with torch.no_grad():
        known, unknown = (
            model.step((place + shift).expand(3, -1, -1), action).var(dim=0, unbiased=False).mean()
            for shift in (0.0, 6.0)
        )
    assert unknown > 10 * known


@pytest.mark.parametrize("encoder", ["learned", "augmented"])
def test_a_recurrent_belief_finds_what_one_observation_hides(encoder: str) -> None:
    def carousel(generator: torch.Generator, batch: int = 64, length: int = 4) -> SequenceBatch:
        """A seat that goes round one way or the other: where it is says nothing about where it goes."""
        turn = torch.where(torch.rand(batch, 1, generator=generator) < 0.5, -0.6, 0.6)
        actions = draw_actions(SPEC, (batch, length), generator)
        start = 2 * torch.pi * torch.rand(batch, 1, generator=generator)
        angle = torch.cat([start, start + (turn + 0.2 * actions[..., 0]).cumsum(1)], dim=1)
        obs = torch.stack([angle.cos(), angle.sin()], dim=-1)
        index = torch.zeros(batch, 1, dtype=torch.int64)
        return batch_of("position", obs, actions, obs[:, -1:], index, torch.full((batch, 1), float(length)))

    errors = {}
    for recurrence in ("none", "gru"):
        belief = {"recurrence": recurrence, "encoder": encoder}
        model, _ = train(carousel, 300, model=belief, window=4, burn_in=2)
        test = carousel(fresh(), batch=256)
        with torch.no_grad():
            z = model.encode_sequence(test.obs, test.actions)[:, 2]  # has seen three positions
            ahead = model.step(model.step(z[None], test.actions[:, 2]), test.actions[:, 3])[0]
            errors[recurrence] = float((model.probe(ahead) - test.obs["position"][:, 4]).square().mean())
    assert errors["none"] > 0.3  # knows the two places it could be at, and guesses between them
    assert errors["gru"] < errors["none"] / 20


def test_plans_in_learned_latents_reach_goals() -> None:
    model, _ = train(plane, 300)
    low, high = torch.tensor(SPEC.action_low), torch.tensor(SPEC.action_high)
    planner = make_planner("icem", low, high, horizon=3, num_samples=64, iterations=3, num_elites=8)
    options = AgentOptions(plan_dtype="float32")
    agent = Agent(model, planner, GoalObjective(GoalOptions(cost="latent_l2")), options, fresh(0))
    place, goal = (1.6 * torch.rand(20, 2, generator=fresh(seed)) - 0.8 for seed in (1, 2))
    start_gap = (place - goal).norm(dim=-1)
    carry, embedded = agent.init(20), agent.embed_goal({"position": goal})
    for _ in range(8):  # the farthest goal takes a little more than five
        action, carry, _ = agent.act({"position": place}, carry, embedded)
        place = place + 0.3 * action
    gap = (place - goal).norm(dim=-1)
    assert gap.median() < 0.1 * start_gap.median()
    assert (gap < 0.2).float().mean() >= 0.9


def test_latents_collapse_only_without_what_prevents_it() -> None:
    def noisy(generator: torch.Generator) -> SequenceBatch:
        """What cannot be predicted is easiest to predict when nothing is encoded."""
        batch = plane(generator)
        batch.obs["position"] += 0.5 * torch.randn(batch.obs["position"].shape, generator=generator)
        return batch

    off = dict.fromkeys(["inverse_dynamics", "variance", "covariance", "sigreg", "straightening"], 0.0)
    _, collapsed = train(noisy, 300, **off)
    assert collapsed[-1]["latent/batch_std"] < 0.1 * collapsed[0]["latent/batch_std"]
    for cure in ({"variance": 1.0, "covariance": 0.04}, {"sigreg": 1.0}, {"inverse_dynamics": 1.0}):
        _, healthy = train(noisy, 150, **{**off, **cure})
        assert healthy[-1]["latent/batch_std"] > 8 * collapsed[-1]["latent/batch_std"], cure
    _, default = train(noisy, 150)
    assert default[-1]["latent/batch_std"] > 0.5
