"""The agent: everything that changes is in the carry, and what it decides is what was planned."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from forethought.agent.agent import Agent, AgentError, AgentOptions, Carry, merge, select
from forethought.agent.configurator import ConfiguratorOptions
from forethought.agent.imagination import Trajectory
from forethought.agent.memory.index import RetrievalOptions
from forethought.agent.objectives import DisagreementObjective, GoalObjective, GoalOptions, ObjectiveError
from forethought.agent.world_model.model import WorldModel
from forethought.planners import CostFn, Plan, make_planner

Maker = Callable[..., Any]
AgentMaker = Callable[..., Agent]
H = 4


@dataclass(frozen=True)
class Clock:
    """State of the scripted planner: decisions since the start `[B, 1]`."""

    time: Tensor


@dataclass
class Scripted:
    """Plans "the time it is" for every step, and remembers how it was asked."""

    horizon: int = H
    calls: list[dict[str, Any]] = field(default_factory=list)

    def init(self, batch_size: int) -> Clock:
        return Clock(torch.zeros(batch_size, 1))

    def plan(
        self,
        cost_fn: CostFn,
        state: Clock,
        generator: torch.Generator,
        seeds: Tensor | None = None,
        deadline_s: float | None = None,
    ) -> tuple[Plan, Clock]:
        times = state.time + torch.arange(self.horizon)  # [B, H]
        actions = (times / 100).unsqueeze(-1).expand(-1, -1, 2)
        cost = cost_fn(actions.unsqueeze(1))[:, 0]
        self.calls.append({"time": state.time.flatten().tolist(), "deadline_s": deadline_s, "cost": cost.tolist()})
        zero = torch.zeros(len(times))
        return Plan(actions, cost, cost.unsqueeze(1), zero, zero, 1, 0.0), state

    def advance(self, state: Clock, steps: int) -> Clock:
        return Clock(state.time + steps)


@pytest.fixture(scope="module")
def make_agent(toy_spec: Maker, toy_model: Maker) -> AgentMaker:
    def make(
        planner: Any = "icem",
        goal: str | None = "observation",
        options: Mapping[str, Any] = {},
        observation: str = "state",
        **model: Any,
    ) -> Agent:
        spec = toy_spec(observation, goal)
        if isinstance(planner, str):
            low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
            changes = {"num_elites": 4} if planner in ("cem", "icem", "mppi") else {}
            planner = make_planner(planner, low, high, horizon=H, num_samples=16, iterations=3, **changes)
        objective = DisagreementObjective() if goal is None else GoalObjective(GoalOptions())
        generator = torch.Generator().manual_seed(0)
        return Agent(
            toy_model(spec, **model),
            planner,
            objective,
            AgentOptions(**{"plan_dtype": "float32", **options}),
            generator,
        )

    return make


@pytest.fixture(scope="module")
def watch(toy_obs: Maker) -> Callable[..., list[dict[str, Tensor]]]:
    """What is seen in an episode, whatever is done: `[T]` observations `{key: [B, ...]}`."""

    def make(agent: Agent, batch: int, steps: int, seed: int = 0) -> list[dict[str, Tensor]]:
        return [toy_obs(agent.model.spec, (batch,), 100 * seed + t) for t in range(steps)]

    return make


# -- the carry ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planner", ["icem", "mppi"])
@pytest.mark.parametrize("recurrence", ["none", "gru"])
@pytest.mark.parametrize("replan_every", [1, 2])
@pytest.mark.parametrize("adapt_rate", [0.0, 0.5])
def test_interleaved_episodes_are_the_same_as_separate_ones(
    make_agent: AgentMaker, watch: Maker, planner: str, recurrence: str, replan_every: int, adapt_rate: float
) -> None:
    options = {"replan_every": replan_every, "adapt_rate": adapt_rate}
    agent = make_agent(planner, options=options, recurrence=recurrence)
    seen = [watch(agent, 1, 5, seed) for seed in (0, 1)]
    goals = [agent.embed_goal(episode[-1]) for episode in seen]

    def decide(episode: int, t: int, carry: Carry) -> tuple[Tensor, Carry]:
        agent.generator.manual_seed(1000 * episode + t)
        action, carry, _ = agent.act(seen[episode][t], carry, goals[episode])
        return action, carry

    separate: list[list[Tensor]] = [[], []]
    for episode in (0, 1):
        carry = agent.init(1)
        for t in range(5):
            action, carry = decide(episode, t, carry)
            separate[episode].append(action)
    carries = [agent.init(1), agent.init(1)]
    for t in range(5):
        for episode in (1, 0):
            action, carries[episode] = decide(episode, t, carries[episode])
            assert torch.equal(action, separate[episode][t]), (episode, t)
    assert not torch.equal(separate[0][0], separate[1][0])


def test_acting_leaves_the_carry_it_was_given_alone(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent(recurrence="gru")
    seen = watch(agent, 2, 3)
    goal = agent.embed_goal(seen[-1])
    _, carry, _ = agent.act(seen[0], agent.init(2), goal)
    results = []
    for _ in range(2):
        agent.generator.manual_seed(3)
        action, after, plan = agent.act(seen[1], carry, goal)
        assert plan is not None
        results.append((action, after.latent, plan.cost))
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_the_first_plan_does_not_depend_on_an_earlier_episode(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent(recurrence="gru")
    seen = watch(agent, 1, 3)
    goal, actions = agent.embed_goal(seen[-1]), []
    for _ in range(2):
        carry = agent.init(1)
        agent.generator.manual_seed(0)
        for obs in seen:
            action, carry, _ = agent.act(obs, carry, goal)
            actions.append(action)
    assert torch.equal(torch.stack(actions[:3]), torch.stack(actions[3:]))


def test_recurrent_beliefs_are_those_of_encode_sequence(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent(recurrence="gru")
    seen = watch(agent, 2, 4)
    goal, carry, actions = agent.embed_goal(seen[-1]), agent.init(2), []
    for obs in seen:
        action, carry, _ = agent.act(obs, carry, goal)
        actions.append(action)
    stacked = {k: torch.stack([obs[k] for obs in seen], dim=1) for k in seen[0]}
    with torch.no_grad():
        beliefs = agent.model.encode_sequence(stacked, torch.stack(actions[:-1], dim=1))
    assert carry.latent is not None
    assert torch.allclose(carry.latent, beliefs[:, -1], atol=1e-5)
    assert not carry.latent.requires_grad


def test_select_keeps_rows_of_everything_with_rows() -> None:
    carry = Carry(
        planner=Clock(torch.tensor([[1.0], [2.0], [3.0]])),
        latent=torch.arange(6.0).view(3, 2),
        plan=torch.arange(12.0).view(3, 2, 2),
        age=2,
    )
    kept = select(carry, torch.tensor([2, 0]))
    assert kept.planner.time.tolist() == [[3.0], [1.0]]
    assert kept.latent is not None
    assert kept.plan is not None
    assert kept.latent.tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert kept.plan.shape == (2, 2, 2)
    assert (kept.action, kept.age) == (None, 2)
    assert carry.planner.time.shape == (3, 1)
    assert select(torch.tensor(5.0), torch.tensor([0])).item() == 5.0


@pytest.mark.parametrize("planner", ["icem", "mppi", "cem", "random_shooting", "gradient", "sample_gradient"])
def test_every_planner_state_can_be_selected_from(make_agent: AgentMaker, watch: Maker, planner: str) -> None:
    agent = make_agent(planner, recurrence="gru")
    seen = watch(agent, 3, 2)
    goal, rows = agent.embed_goal(seen[-1]), torch.tensor([0, 2])
    _, carry, _ = agent.act(seen[0], agent.init(3), goal)
    carry = select(carry, rows)
    action, carry, plan = agent.act({k: v[rows] for k, v in seen[1].items()}, carry, goal[rows])
    assert action.shape == (2, 2)
    assert plan is not None
    assert plan.actions.shape == (2, H, 2)


# -- plans and actions -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("replan_every", "at"), [(1, [0, 1, 2, 3, 4, 5]), (3, [0, 3]), (9, [0, 4])])
def test_actions_between_plans_are_those_of_the_plan(
    make_agent: AgentMaker, watch: Maker, replan_every: int, at: list[int]
) -> None:
    planner = Scripted()
    agent = make_agent(planner, options={"replan_every": replan_every})
    seen = watch(agent, 2, 6)
    goal, carry, planned = agent.embed_goal(seen[0]), agent.init(2), []
    for t, obs in enumerate(seen):
        action, carry, plan = agent.act(obs, carry, goal)
        assert torch.allclose(action, torch.full((2, 2), t / 100)), t
        assert carry.action is not None
        assert torch.equal(carry.action, action)
        planned += [t] if plan is not None else []
    assert planned == at
    assert [call["time"] for call in planner.calls] == [[t, t] for t in at]  # the warm start has moved along


def test_the_deadline_reaches_the_planner(make_agent: AgentMaker, watch: Maker) -> None:
    for deadline_s in (None, 0.25):
        planner = Scripted()
        agent = make_agent(planner, options={"deadline_s": deadline_s})
        obs = watch(agent, 1, 1)[0]
        agent.act(obs, agent.init(1), agent.embed_goal(obs))
        given = planner.calls[0]["deadline_s"]
        assert given is None if deadline_s is None else 0 < given < deadline_s  # less what it took to get there


def test_a_deadline_counts_from_where_the_decision_begins(
    make_agent: AgentMaker, watch: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner, clock = Scripted(), iter([5.0, 5.5, 7.0, 99.0])
    agent = make_agent(planner, options={"deadline_s": 2.0})
    obs = watch(agent, 1, 1)[0]
    monkeypatch.setattr("forethought.agent.agent.perf_counter", lambda: next(clock))
    for _ in range(2):
        agent.act(obs, agent.init(1), agent.embed_goal(obs))
    assert [call["deadline_s"] for call in planner.calls] == [1.5, 1e-9]


def test_the_planner_sees_the_latest_observation_and_the_goal(make_agent: AgentMaker, watch: Maker) -> None:
    planner = Scripted()
    agent = make_agent(planner)
    first, second = watch(agent, 1, 2)
    costs = []
    for obs, goal in ((first, first), (second, first), (first, second)):
        agent.act(obs, agent.init(1), agent.embed_goal(goal))
        costs.append(planner.calls[-1]["cost"])
    assert costs[0] != costs[1]
    assert costs[0] != costs[2]


@pytest.mark.parametrize("planner", ["icem", "gradient"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_plans_get_better_and_stay_in_bounds(make_agent: AgentMaker, watch: Maker, planner: str, dtype: str) -> None:
    agent = make_agent(planner, options={"plan_dtype": dtype})
    obs, goal_obs = watch(agent, 3, 2)
    action, _, plan = agent.act(obs, agent.init(3), agent.embed_goal(goal_obs))
    assert plan is not None
    assert action.dtype == plan.actions.dtype == torch.float32
    assert torch.equal(action, plan.actions[:, 0])
    low, high = torch.tensor(agent.model.spec.action_low), torch.tensor(agent.model.spec.action_high)
    assert (plan.actions >= low).all()
    assert (plan.actions <= high).all()
    assert (plan.best_costs[:, -1] <= plan.best_costs[:, 0]).all()
    assert not action.requires_grad
    assert all(p.grad is None for p in agent.model.parameters())


def test_plans_are_made_in_a_copy(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent(options={"plan_dtype": "bfloat16", "fused": "never"})
    assert {p.dtype for p in agent.imagined.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in agent.model.parameters()} == {torch.float32}
    assert torch.equal(agent.imagined.normalizer.mean, agent.model.normalizer.mean)
    obs = watch(agent, 1, 1)[0]
    _, carry, _ = agent.act(obs, agent.init(1), agent.embed_goal(obs))
    assert carry.latent is not None
    assert carry.latent.dtype == torch.float32  # perception stays in full precision
    full = make_agent()
    assert {p.dtype for p in full.imagined.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in full.imagined.parameters())
    assert all(p.requires_grad for p in full.model.parameters())
    assert full.device == torch.device("cpu")


@pytest.mark.parametrize(("fast", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_automatic_precision_is_the_faster_one(
    monkeypatch: pytest.MonkeyPatch, make_agent: AgentMaker, fast: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr("forethought.agent.precision.bfloat16_is_fast", lambda: fast)
    agent = make_agent(options={"plan_dtype": "auto", "fused": "never"})
    assert {p.dtype for p in agent.imagined.parameters()} == {dtype}


# -- observations and goals --------------------------------------------------------------------------------------------


def test_arrays_of_numpy_will_do(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent()
    obs = watch(agent, 2, 1)[0]
    arrays = {k: v.numpy() for k, v in obs.items()}
    assert torch.equal(agent.embed_goal(arrays), agent.embed_goal(obs))
    assert sorted(agent.tensors({**arrays, "extra": arrays["grid"]})) == ["grid", "position"]


def test_double_precision_will_do(make_agent: AgentMaker, watch: Maker) -> None:
    for agent in (make_agent(), make_agent(goal="achieved")):
        obs = watch(agent, 2, 1)[0]
        double = {k: v.double().numpy() for k, v in obs.items()}
        goal = {"desired_goal": torch.ones(2, agent.model.goal_dim)} if agent.model.achieved else obs
        assert torch.equal(agent.embed_goal({k: v.double() for k, v in goal.items()}), agent.embed_goal(goal))
        assert agent.perceive(double, agent.init(2)).latent.dtype == torch.float32


def test_what_is_no_number_is_refused(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent()
    obs = watch(agent, 1, 1)[0]
    obs["position"] = torch.tensor([[0.0, torch.nan]])
    with pytest.raises(AgentError, match="observation must be finite, got 1 bad numbers in position"):
        agent.act(obs, agent.init(1), None)


def test_pictures_alone_will_do_where_z_is_learned(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent(observation="both")
    obs = watch(agent, 3, 1)[0]
    agent.model.normalizer._merge(torch.randn(9, 7).double())
    alone = agent.tensors({"image": obs["image"].numpy()})
    assert sorted(alone) == ["grid", "image", "position"]
    assert alone["grid"].shape == (3, 2, 2)
    normalized = agent.model.normalizer.normalize(alone)
    assert all((normalized[key] == 0).all() for key in ("grid", "position"))
    action, _, _ = agent.act({"image": obs["image"]}, agent.init(3), agent.embed_goal({"image": obs["image"]}))
    assert action.isfinite().all()
    with pytest.raises(AgentError, match="observation must have the keys"):  # one vector of two is a mistake
        agent.tensors({"image": obs["image"], "grid": obs["grid"]})
    with pytest.raises(AgentError, match="observation must have the keys"):
        make_agent(observation="both", encoder="augmented").tensors({"image": obs["image"]})


def test_missing_keys_are_named(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent()
    obs = watch(agent, 1, 1)[0]
    message = r"observation must have the keys \['grid', 'position'\], got \['grid'\]"
    with pytest.raises(AgentError, match=message):
        agent.act({"grid": obs["grid"]}, agent.init(1), None)
    with pytest.raises(AgentError, match=message):
        agent.embed_goal({"grid": obs["grid"]})
    with pytest.raises(AgentError, match=r"goal must have the key desired_goal, got \['goal'\]"):
        make_agent(goal="achieved").embed_goal({"goal": torch.zeros(1, 2)})


def test_a_missing_goal_is_refused(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent()
    with pytest.raises(ObjectiveError, match="goal must be given"):
        agent.act(watch(agent, 1, 1)[0], agent.init(1), None)


def test_desired_goals_are_embedded_by_their_own_way(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent(goal="achieved")
    obs = watch(agent, 2, 1)[0]
    desired = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
    goal = agent.embed_goal({"desired_goal": desired.numpy()})
    assert torch.equal(goal, desired)  # no statistics yet
    action, _, _ = agent.act(obs, agent.init(2), goal)
    assert action.shape == (2, 2)


def test_exploration_needs_no_goal(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent(goal=None)
    _, _, plan = agent.act(watch(agent, 2, 1)[0], agent.init(2), None)
    assert plan is not None
    assert (plan.cost < 0).all()


# -- goals that change -------------------------------------------------------------------------------------------------


def test_what_is_left_of_a_plan_is_dropped_where_the_goal_changes(make_agent: AgentMaker, watch: Maker) -> None:
    planner = Scripted()
    agent = make_agent(planner, options={"replan_every": 3})
    seen = watch(agent, 2, 6)
    one, two = agent.embed_goal(seen[4]), agent.embed_goal(seen[5])
    mixed = torch.stack([one[0], two[1]])  # only the second episode turns to another goal
    carry, plans = agent.init(2), []
    for obs, goal in zip(seen, [one, one, mixed, mixed.clone(), mixed, mixed], strict=True):
        action, carry, plan = agent.act(obs, carry, goal)
        plans.append(plan is not None)
        if plan is not None:
            assert torch.equal(action, plan.actions[:, 0])
    assert plans == [True, False, True, False, False, True]
    # The search of the first goes on where it was; that of the second starts afresh.
    assert [call["time"] for call in planner.calls] == [[0, 0], [2, 0], [5, 3]]


def test_a_goal_that_is_changed_in_place_is_noticed(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent(Scripted(), options={"replan_every": 3})
    seen = watch(agent, 1, 3)
    goal = agent.embed_goal(seen[2])
    _, carry, _ = agent.act(seen[0], agent.init(1), goal)
    goal += 1
    assert agent.act(seen[1], carry, goal)[2] is not None


# -- the time that is left ---------------------------------------------------------------------------------------------


class Counting(GoalObjective):
    """Notes how many actions of the plans counted."""

    def __init__(self) -> None:
        super().__init__(GoalOptions())
        self.horizons: set[int] = set()

    @override
    def __call__(self, model: WorldModel, trajectory: Trajectory, goal: Tensor | None) -> Tensor:
        self.horizons.add(trajectory.actions.shape[2])
        return super().__call__(model, trajectory, goal)


@pytest.mark.parametrize(("left", "counted"), [(None, H), ([9, 9], H), ([2, 2], 2), ([2, 3], 3), ([1, 1], 1)])
def test_plans_count_no_decision_beyond_the_last(
    make_agent: AgentMaker, watch: Maker, left: list[int] | None, counted: int
) -> None:
    agent = make_agent("icem")
    seen, objective = watch(agent, 2, 2), Counting()
    agent.objective = objective
    time = None if left is None else torch.tensor(left)
    _, carry, plan = agent.act(seen[0], agent.init(2), agent.embed_goal(seen[1]), left=time)
    assert objective.horizons == {counted} == {carry.horizon}
    assert plan is not None
    assert plan.actions.shape[1] == H


@pytest.mark.parametrize(
    ("look_ahead", "steps", "left", "counted"),
    [
        (None, [[0.1, 0.1]], None, H),
        (1.0, [[0.1, 0.1]], None, 3),  # never less
        (1.0, [[1.0, 3.4]], None, 4),  # what the farthest needs
        (1.5, [[1.0, 2.5]], None, 4),
        (1.0, [[2.0, 2.0], [4.0, 2.0]], None, 4),  # two heads: mean and deviation
        (1.0, [[2.0, 2.0], [4.0, 2.0]], [3, 3], 3),
        (1.0, [[99.0, 99.0]], None, H),
    ],
)
def test_plans_look_ahead_as_far_as_what_they_are_for(
    make_agent: AgentMaker,
    watch: Maker,
    monkeypatch: pytest.MonkeyPatch,
    look_ahead: float | None,
    steps: list[list[float]],
    left: list[int] | None,
    counted: int,
) -> None:
    agent = make_agent("icem", options={"configurator": ConfiguratorOptions(look_ahead=look_ahead)})
    seen, objective = watch(agent, 2, 2), Counting()
    agent.objective = objective
    measure = agent.imagined.steps_to_goal
    monkeypatch.setattr(
        agent.imagined, "steps_to_goal", lambda z, goal: measure(z, goal) if z.ndim > 2 else torch.tensor(steps)
    )
    time = None if left is None else torch.tensor(left)
    _, carry, _ = agent.act(seen[0], agent.init(2), agent.embed_goal(seen[1]), left=time)
    assert objective.horizons == {counted} == {carry.horizon}


def test_actions_that_did_not_count_are_never_done(make_agent: AgentMaker, watch: Maker) -> None:
    agent = make_agent("icem", options={"replan_every": H})
    seen, planned = watch(agent, 1, H), []
    goal, carry = agent.embed_goal(seen[0]), agent.init(1)
    for obs in seen:
        _, carry, plan = agent.act(obs, carry, goal, left=torch.tensor([2]))
        planned.append(plan is not None)
    assert planned == [True, False] * (H // 2)


@pytest.mark.parametrize(
    ("retrieval", "message"),
    [
        (
            RetrievalOptions(seeds=16),
            "objective.policy_trajectories + agent.retrieval.seeds must be below planner.num_samples=16, got 0 + 16",
        ),
        (RetrievalOptions(seeds=1, stride=5), "agent.retrieval.stride must be at most planner.horizon=4, got 5"),
    ],
)
def test_what_a_search_could_not_take_in_is_refused_at_once(
    make_agent: AgentMaker, retrieval: RetrievalOptions, message: str
) -> None:
    make_agent("icem", options={"retrieval": RetrievalOptions(seeds=1, stride=4)})
    with pytest.raises(AgentError) as error:
        make_agent("icem", options={"retrieval": retrieval})
    assert str(error.value) == message


@pytest.mark.parametrize("planner", ["icem", "mppi", "cem", "random_shooting", "gradient", "sample_gradient"])
@pytest.mark.parametrize("recurrence", ["none", "gru"])
def test_nothing_of_the_last_goal_is_left_but_the_belief(
    make_agent: AgentMaker, watch: Maker, planner: str, recurrence: str
) -> None:
    agent = make_agent(planner, options={"replan_every": 2}, recurrence=recurrence)
    seen = watch(agent, 1, 4)
    goals = [agent.embed_goal(obs) for obs in seen[2:]]
    _, carry, _ = agent.act(seen[0], agent.init(1), goals[0])
    agent.generator.manual_seed(5)
    action, _, _ = agent.act(seen[1], carry, goals[1])
    agent.generator.manual_seed(5)
    afresh = Carry(agent.planner.init(1), latent=carry.latent, action=carry.action)
    assert torch.equal(action, agent.act(seen[1], afresh, goals[1])[0])


def test_merge_takes_rows_of_everything_with_rows() -> None:
    old, new = Clock(torch.tensor([[1.0], [2.0]])), Clock(torch.zeros(2, 1))
    merged = merge(torch.tensor([False, True]), Carry(new, age=1), Carry(old, age=7))
    assert merged.planner.time.tolist() == [[1.0], [0.0]]
    assert (merged.latent, merged.age) == (None, 7)


# -- options -----------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Any] = {
    "replan_every": 2,
    "plan_dtype": "bfloat16",
    "deadline_s": 1e-9,
    "adapt_rate": 0.5,
}
ELSEWHERE = {
    "compile": "computes the same faster, see test_compilation.py",
    "fused": "computes the same faster, see world_model/test_fused.py",
    "configurator": "needs landmarks, see test_configurator.py",
    "graph": "of these landmarks, see memory/test_graph.py",
    "retrieval": "needs episodes, see test_build.py",
    "macro": "matters to a guide by macro-actions, see test_guides.py",
}


@pytest.mark.parametrize("option", [f.name for f in dataclasses.fields(AgentOptions) if f.name not in ELSEWHERE])
def test_every_option_changes_the_result(make_agent: AgentMaker, watch: Maker, option: str) -> None:
    assert option in CHANGES, f"add {option} to CHANGES, with a value that changes the result"

    def run(**options: Any) -> list[Tensor]:
        agent = make_agent(options=options)
        seen, actions, carry = watch(agent, 1, 3), [], agent.init(1)
        for obs in seen:
            action, carry, _ = agent.act(obs, carry, agent.embed_goal(seen[0]))
            actions.append(action)
        return actions

    base, same, changed = torch.stack(run()), torch.stack(run()), torch.stack(run(**{option: CHANGES[option]}))
    assert torch.equal(base, same), "the comparison must be deterministic"
    assert not torch.equal(base, changed)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"replan_every": 0}, "replan_every must be at least 1, got 0"),
        (
            {"plan_dtype": "float64"},
            "plan_dtype must be one of auto, float32, bfloat16, float16, int16, int8, got 'float64'",
        ),
        ({"fused": "always"}, "fused must be one of never, auto, got 'always'"),
        ({"compile": "yes"}, "compile must be one of never, auto, got 'yes'"),
        ({"deadline_s": 0.0}, "deadline_s must be positive, got 0.0"),
        ({"deadline_s": float("nan")}, "deadline_s must be positive, got nan"),
        ({"adapt_rate": -0.1}, "adapt_rate must be between 0 and 1, got -0.1"),
        ({"adapt_rate": 1.5}, "adapt_rate must be between 0 and 1, got 1.5"),
        ({"adapt_rate": float("nan")}, "adapt_rate must be between 0 and 1, got nan"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(AgentError) as error:
        AgentOptions(**options)
    assert str(error.value) == message
