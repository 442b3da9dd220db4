"""Policies and the loop that turns them into episodes, on environments that follow from their seeds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from forethought.agent.agent import Agent, AgentOptions, Carry
from forethought.agent.objectives import GoalObjective, GoalOptions
from forethought.agent.training import rollout
from forethought.agent.training.rollout import (
    AgentPolicy,
    Array,
    BehaviourPolicy,
    PlanStatistics,
    Policy,
    RandomPolicy,
    SimulatorPolicy,
    Step,
    run_episodes,
)
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.envs.spec import EnvError, EnvOptions, EnvSpec
from forethought.envs.vector import VectorEnv, make_vector
from forethought.planners import Plan, make_planner

Maker = Callable[..., Any]
POINT_MASS = "forethought/PointMass-v0"


@pytest.fixture(scope="module")
def point_mass() -> Iterator[VectorEnv]:
    environments = make_vector(POINT_MASS, 4)
    yield environments
    environments.close()


class Constant(Policy):
    """The same action for ever; remembers what it was asked."""

    def __init__(self, action: Sequence[float]) -> None:
        self.action = np.asarray(action, np.float32)
        self.seen: list[tuple[list[int], Array]] = []
        self.goal: Any = None

    def reset(self, seeds: Sequence[int], goal: Any) -> None:
        self.goal = goal

    def act(self, obs: Mapping[str, Array], rows: Array) -> Array:
        self.seen.append((rows.tolist(), obs["position"].copy()))
        return np.tile(self.action, (len(rows), 1))


# -- run_episodes ------------------------------------------------------------------------------------------------------


def expected_length(seed: int, stop: bool) -> int:
    return min(3 + seed % 4, 2 + seed % 5) if stop else 3 + seed % 4


@pytest.mark.parametrize("stop", [False, True])
@pytest.mark.parametrize("seeds", [[0], [7, 2, 5], [11, 4, 9, 4, 0, 3], list(range(8))])
def test_episodes_are_recorded_whole_and_in_order(fake_environments: Maker, seeds: list[int], stop: bool) -> None:
    environments = fake_environments(8)
    episodes = run_episodes(environments, Constant([1.0, 0.25]), seeds, stop_on_success=stop, meta={"policy": "x"})
    assert [e.meta for e in episodes] == [{"policy": "x", "seed": seed} for seed in seeds]
    for seed, episode in zip(seeds, episodes, strict=True):
        length = expected_length(seed, stop)
        episode.validate(environments.env_spec)
        assert episode.obs["position"].tolist() == [[seed, t] for t in range(length + 1)]
        assert episode.actions.tolist() == [[1.0, 0.25]] * length
        assert episode.rewards.tolist() == [t + 1 for t in range(length)]
        assert episode.success.tolist() == [t + 1 == 2 + seed % 5 for t in range(length)]
        whole = length == 3 + seed % 4
        assert episode.terminated == (whole and seed % 2 == 1)
        assert episode.truncated == (whole and seed % 2 == 0)
        assert episode.goal is not None
        assert episode.goal["position"].tolist() == [-seed, 0]


def test_policies_see_the_running_rows_alone(fake_environments: Maker) -> None:
    policy, environments = Constant([0.0, 0.0]), fake_environments(5)
    run_episodes(environments, policy, [2, 0, 3])  # 5, 3 and 6 decisions
    assert [rows for rows, _ in policy.seen] == [[0, 1, 2]] * 3 + [[0, 2]] * 2 + [[2]]
    for t, (rows, position) in enumerate(policy.seen):
        assert position.tolist() == [[[2, 0, 3][row], t] for row in rows]
    assert policy.goal["position"].tolist() == [[-2, 0], [0, 0], [-3, 0]]
    assert [active.tolist() for _, active in environments.actions][-1] == [False, False, True, False, False]


def test_an_environments_own_policy_acts_in_each_row_with_its_seed(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    environments.behaviour = lambda index, seed: iter([np.full((2, 1), (10 * seed + index) / 200)] * 9).__next__
    episodes = run_episodes(environments, BehaviourPolicy(environments), [3, 0, 5])
    for index, (seed, episode) in enumerate(zip([3, 0, 5], episodes, strict=True)):
        assert (episode.actions == np.float32((10 * seed + index) / 200)).all()


def test_what_an_environments_own_policy_wants_is_recorded_as_it_is_done(fake_environments: Maker) -> None:
    environments = fake_environments(1)
    environments.behaviour = lambda index, seed: lambda: np.array([9.0, 0.25])
    (episode,) = run_episodes(environments, BehaviourPolicy(environments), [0])
    assert episode.actions.tolist() == [[environments.env_spec.action_high[0], 0.25]] * len(episode.actions)


def test_an_environment_without_a_policy_of_its_own_says_so(point_mass: VectorEnv) -> None:
    with pytest.raises(EnvError, match=r"training.behaviour must be false with forethought/PointMass-v0"):
        BehaviourPolicy(point_mass).reset([0], None)


def test_another_goal_follows_on_success_without_a_reset(fake_environments: Maker) -> None:
    """Of 7 decisions at most, a goal may take 3. Successes are at 2 + s % 5."""
    environments, seen = fake_environments(4), []

    class Told(Constant):
        def change_goals(self, goal: Any, rows: Array, anew: bool = True) -> None:
            seen.append((goal["position"][:, 0].tolist(), rows.tolist()))

    seeds = [3, 11, 15, 2]  # 6, 6, 6 and 5 decisions; successes after 5, 3, 2 and 4
    episodes = run_episodes(environments, Told([1.0, 0.25]), seeds, stop_on_success=True, goals_per_episode=2)
    assert [len(e.actions) for e in episodes] == [3, 6, 5, 3]  # too late, all, too late again, too late
    assert [np.flatnonzero(e.success).tolist() for e in episodes] == [[], [2], [1], []]
    assert environments.changes == [([2.0], [2]), ([3.0], [1])]
    assert seen == [([-115.0], [2]), ([-111.0], [1])]
    assert [e.goal["position"].tolist() for e in episodes if e.goal] == [[-s, 0] for s in seeds]  # the first


class Servo(Policy):
    """Drives the point mass to its goal: a spring and a damper."""

    goal: Any

    def reset(self, seeds: Sequence[int], goal: Any) -> None:
        self.goal = {k: v.copy() for k, v in goal.items()}

    def change_goals(self, goal: Any, rows: Array, anew: bool = True) -> None:
        for k, v in goal.items():
            self.goal[k][rows] = v

    def act(self, obs: Mapping[str, Array], rows: Array) -> Array:
        pull = 12 * (self.goal["position"][rows] - obs["position"]) - 3 * obs["velocity"]
        return np.clip(pull, -1, 1).astype(np.float32)


@pytest.mark.parametrize("backend", ["sync", "mujoco"])
def test_goals_are_reached_one_after_the_other(backend: Any) -> None:
    environments = make_vector(POINT_MASS, 3, EnvOptions(max_episode_steps=150), backend)
    episodes = run_episodes(environments, Servo(), [4, 5, 6], stop_on_success=True, goals_per_episode=3)
    for episode in episodes:
        assert int(episode.success.sum()) == 3
        assert episode.success[-1]
        places = episode.obs["position"][1:][episode.success]
        assert np.linalg.norm(np.diff(places, axis=0), axis=1).min() > 0.02  # one after the other, not one for all
    environments.close()
    environments = make_vector(POINT_MASS, 2, EnvOptions(max_episode_steps=150))
    other = run_episodes(environments, Servo(), [5, 6], stop_on_success=True, goals_per_episode=3)
    for one, two in zip(episodes[1:], other, strict=True):  # whatever runs beside it
        np.testing.assert_array_equal(one.actions, two.actions)
    environments.close()


def test_an_agent_goes_for_the_goals_that_change(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    spy, policy = spy_policy(environments)
    run_episodes(environments, policy, [3, 15, 11], stop_on_success=True, goals_per_episode=2)
    # Row 1 gets another goal after 2 decisions and row 2 after 3, when row 0 is out of time.
    assert spy.goals == [[-3, -15, -11]] * 2 + [[-3, -115, -11]] + [[-115, -111]] * 2 + [[-111]]


def test_every_step_is_reported(fake_environments: Maker) -> None:
    reported: list[tuple[list[int], float]] = []

    def on_step(rows: Array, step: Step) -> None:
        reported.append((rows.tolist(), float(step.reward.max())))

    run_episodes(fake_environments(3), Constant([0.0, 0.0]), [0, 1], on_step=on_step)
    assert reported == [([0, 1], 1.0), ([0, 1], 2.0), ([0, 1], 3.0), ([1], 4.0)]


def test_episodes_do_not_share_memory(fake_environments: Maker) -> None:
    one, two = run_episodes(fake_environments(2), Constant([1.0, 0.25]), [0, 1])
    one.obs["position"][:] = one.actions[:] = 7
    assert two.obs["position"].max() <= 4
    assert two.actions.max() == 1.0


def test_an_episode_does_not_depend_on_those_beside_it(point_mass: VectorEnv) -> None:
    policy = RandomPolicy(point_mass.env_spec, max_hold=4)
    together = run_episodes(point_mass, policy, [5, 6, 7])
    (alone,) = run_episodes(point_mass, policy, [6])
    assert together[1].meta == alone.meta == {"seed": 6}
    for name, array in alone.arrays().items():
        np.testing.assert_array_equal(array, together[1].arrays()[name])
    assert len(alone.actions) == point_mass.env_spec.max_episode_steps
    assert (alone.truncated, alone.terminated) == (True, False)


# -- random actions ----------------------------------------------------------------------------------------------------


def random_actions(spec: EnvSpec, seeds: Sequence[int], max_hold: int) -> Array:
    """`[T, B, A]`"""
    policy = RandomPolicy(spec, max_hold)
    policy.reset(seeds, None)
    rows = np.arange(len(seeds))
    return np.stack([policy.act({}, rows) for _ in range(spec.max_episode_steps)])


def test_random_actions_follow_from_the_seed(toy_spec: Maker) -> None:
    spec = toy_spec()
    together = random_actions(spec, [3, 4, 5], 3)
    np.testing.assert_array_equal(random_actions(spec, [5], 3)[:, 0], together[:, 2])
    np.testing.assert_array_equal(random_actions(spec, [4, 3], 3)[:, 1], together[:, 0])
    assert not np.array_equal(together[:, 0], together[:, 1])


def test_random_actions_fill_the_bounds(toy_spec: Maker) -> None:
    spec = toy_spec()
    actions = random_actions(spec, range(200), 1).reshape(-1, 2)
    assert actions.dtype == np.float32
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    assert ((actions >= low) & (actions <= high)).all()
    np.testing.assert_allclose(actions.min(0), low, atol=0.01)
    np.testing.assert_allclose(actions.max(0), high, atol=0.01)
    np.testing.assert_allclose(actions.mean(0), (low + high) / 2, atol=0.05)


@pytest.mark.parametrize("max_hold", [1, 2, 5])
def test_random_actions_are_held_for_up_to_max_hold_decisions(toy_spec: Maker, max_hold: int) -> None:
    actions = random_actions(toy_spec(), range(100), max_hold)
    lengths = set()
    for episode in actions.transpose(1, 0, 2):
        changes = np.flatnonzero((np.diff(episode, axis=0) != 0).any(-1)) + 1
        lengths |= set(np.diff([0, *changes]).tolist())  # all but the last, which is cut off
    assert lengths == set(range(1, max_hold + 1))


# -- the agent as a policy ---------------------------------------------------------------------------------------------


class Spy:
    """In place of an agent: acts `(seed seen, 0.25)` and checks that observation, goal and carry belong together."""

    def __init__(self, spec: EnvSpec) -> None:
        self.model = SimpleNamespace(spec=spec, purpose="goal")
        self.device = torch.device("cpu")
        self.generator = torch.Generator().manual_seed(0)
        self.goals: list[list[float]] = []
        self.done: list[Tensor | None] = []
        self.left: list[list[int] | None] = []

    def init(self, batch_size: int) -> Carry:
        return Carry(planner=None, latent=None)

    def embed_goal(self, goal_obs: Mapping[str, Array]) -> Tensor:
        return torch.as_tensor(goal_obs["position"][:, :1])

    def act(
        self, obs: Mapping[str, Array], carry: Carry, goal: Tensor | None, left: Tensor | None = None
    ) -> tuple[Tensor, Carry, Plan | None]:
        self.left.append(None if left is None else left.tolist())
        seed = torch.as_tensor(obs["position"][:, :1])
        if carry.latent is not None:
            assert torch.equal(carry.latent, seed), "the carry belongs to other rows"
        assert goal is not None
        self.goals.append(goal[:, 0].tolist())
        self.done.append(carry.action)
        action = torch.cat([seed / 10, torch.full_like(seed, 0.25)], dim=1)
        return action, Carry(planner=None, latent=seed, action=action), None

    def limited(self, action: Tensor, carry: Carry) -> Tensor:
        return action


def test_random_actions_keep_the_limits_of_the_spec(toy_spec: Callable[..., EnvSpec]) -> None:
    spec = replace(toy_spec(), action_rate=(4.0, 1.0), action_acceleration=(60.0, 30.0))
    policy = RandomPolicy(spec, max_hold=4)
    policy.reset([3], None)
    path = np.concatenate([np.zeros((2, 2)), [policy.act({}, np.zeros(1, np.int64))[0] for _ in range(20)]])
    rate = np.diff(path, axis=0) / spec.control_dt
    assert (np.abs(rate) <= np.array([4.0, 1.0]) + 1e-5).all()
    assert (np.abs(np.diff(rate, axis=0)) / spec.control_dt <= np.array([60.0, 30.0]) + 1e-3).all()
    assert np.abs(rate).max() > 1.0


def spy_policy(environments: Any, **options: Any) -> tuple[Spy, AgentPolicy]:
    spy = Spy(environments.env_spec)
    return spy, AgentPolicy(cast(Agent, spy), **options)


@pytest.mark.parametrize(("beta", "persists"), [(0.0, False), (1.0, True), (2.0, True)])
def test_coloured_exploration_persists(fake_environments: Maker, beta: float, persists: bool) -> None:
    environments = fake_environments(32)
    _, policy = spy_policy(environments, noise=0.05, noise_beta=beta)
    spec = environments.env_spec
    spread = 0.05 * (spec.action_high[1] - spec.action_low[1]) / 2
    episodes = run_episodes(environments, policy, range(32))
    longest = max(len(e.actions) for e in episodes)
    noise = np.stack([e.actions[:, 1] for e in episodes if len(e.actions) == longest]) - 0.25
    assert noise.std() == pytest.approx(spread, rel=0.3)
    likeness = (noise[:, 1:] * noise[:, :-1]).mean() / noise.var()
    assert (likeness > 0.08) == persists


def test_carry_and_goals_follow_the_episodes_that_still_run(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    spy, policy = spy_policy(environments)
    for _ in range(2):  # the second time is like the first
        spy.goals.clear()
        episodes = run_episodes(environments, policy, [2, 0, 3])
        assert spy.goals == [[-2, 0, -3]] * 3 + [[-2, -3]] * 2 + [[-3]]
        assert [float(e.actions[0, 0]) for e in episodes] == pytest.approx([0.2, 0.0, 0.3])


def test_the_agent_is_told_how_much_time_is_left(fake_environments: Maker) -> None:
    """An episode is 7 decisions long at most, and each goal of several has as many."""
    environments = fake_environments(4)
    spy, policy = spy_policy(environments)
    run_episodes(environments, policy, [2, 0])  # 5 and 3 decisions
    assert spy.left == [[7, 7], [6, 6], [5, 5], [4], [3]]
    spy.left.clear()
    run_episodes(environments, policy, [2, 0], goals_per_episode=2)  # the second succeeds at its second decision
    assert spy.left[:3] == [[7, 7], [6, 6], [5, 7]]
    policy.limit = 2
    spy.left.clear()
    run_episodes(environments, policy, [2])
    assert spy.left == [[2], [1], None, None, None], "once it is overdue, nothing is known"


def test_nobody_is_told_of_time_where_goals_wander(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    spy, policy = spy_policy(environments, switch_every=2)
    run_episodes(environments, policy, [2])
    assert spy.left == [None] * 5


def test_goals_mean_nothing_to_an_agent_for_rewards(fake_environments: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    environments, goals = fake_environments(4), []
    spy, policy = spy_policy(environments, switch_every=2)
    act = spy.act

    def noted(obs: Mapping[str, Array], carry: Carry, goal: Tensor | None, left: Tensor | None = None) -> Any:
        goals.append(goal)
        return act(obs, carry, torch.zeros(len(obs["position"]), 1), left)

    monkeypatch.setattr(spy, "act", noted)
    spy.model.purpose = "reward"
    run_episodes(environments, policy, [2, 0])
    assert goals == [None] * 5


def test_a_goal_that_is_given_replaces_those_of_the_environments(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    spy, policy = spy_policy(environments, goal_obs={"position": np.array([7.0, 0.0], np.float32)})
    run_episodes(environments, policy, [2, 0])
    assert spy.goals == [[7, 7]] * 3 + [[7]] * 2


def test_goals_that_an_environment_moves_are_followed(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    spy, policy = spy_policy(environments)
    step = environments.step

    def moving(actions: Array, active: Array | None = None) -> Any:
        environments.goals[1] += 10
        return step(actions, active)

    environments.step = moving
    episodes = run_episodes(environments, policy, [2, 0])  # 5 and 3 decisions
    assert spy.goals == [[-2, 0], [-2, 10], [-2, 20], [-2], [-2]]
    assert spy.left == [[7, 7], [6, 6], [5, 5], [4], [3]], "there is no more time than there was"
    assert [e.goal["position"][0] for e in episodes if e.goal] == [-2, 0]


def test_exploration_between_plans_is_as_wide_as_the_last_plan(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    spy, policy = spy_policy(environments, plan_noise=1.0)
    act = spy.act

    def planned(*arguments: Any, **options: Any) -> Any:
        action, carry, _ = act(*arguments, **options)
        first, width = len(spy.goals) == 1, torch.tensor([0.0, 0.1])
        plan = SimpleNamespace(
            std=width, cost=width, best_costs=width[:, None], num_invalid=width, actions=action[None]
        )
        return action, replace(carry, horizon=1), plan if first else None

    spy.act = planned  # type: ignore[method-assign]
    still, moved = run_episodes(environments, policy, [2, 6])
    assert (still.actions[:, 1] == 0.25).all()
    assert (moved.actions[:, 1] != 0.25).all()


def test_rows_that_have_ended_are_not_recorded(fake_environments: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, add = list[int](), rollout._Recorder.add
    monkeypatch.setattr(
        rollout._Recorder, "add", lambda self, rows, *rest: (taken.append(len(rows)), add(self, rows, *rest))[1]
    )
    episodes = run_episodes(fake_environments(4), Constant([1.0, 0.25]), [2, 0, 3])
    assert taken == [3, 3, 3, 2, 2, 1]
    assert sum(taken) == sum(len(e.actions) for e in episodes)


def test_goals_wander_every_switch_every_decisions(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    spy, policy = spy_policy(environments, switch_every=2)
    run_episodes(environments, policy, [2, 6, 10])  # 5 decisions each
    assert spy.goals == [[-2, -6, -10]] * 2 + [[-10, -2, -6]] * 2 + [[-6, -10, -2]]
    spy.goals.clear()
    run_episodes(environments, policy, [2])
    assert spy.goals == [[-2]] * 5  # nowhere else to go


def test_noise_stays_in_bounds_and_comes_from_the_generator(fake_environments: Maker) -> None:
    def run(noise: float, seed: int = 0) -> Array:
        environments = fake_environments(4)
        spy, policy = spy_policy(environments, noise=noise)
        spy.generator.manual_seed(seed)
        return np.concatenate([e.actions for e in run_episodes(environments, policy, [2, 6, 10])])

    np.testing.assert_array_equal(run(0.3), run(0.3))
    assert not np.array_equal(run(0.3), run(0.3, seed=1))
    low, high = np.array([-1.0, 0.0]), np.array([3.0, 0.5])
    wild = run(5.0)
    assert ((wild >= low) & (wild <= high)).all()
    assert (wild == low.astype(np.float32)).any(0).all()
    assert (wild == high.astype(np.float32)).any(0).all()
    # in units of the half-range of each dimension, 2 and 0.25
    spread = np.std((run(0.1) - run(0.0)) / np.array([2.0, 0.25]), axis=0)
    np.testing.assert_allclose(spread, 0.1, rtol=0.6)


def test_the_belief_hears_what_was_done(fake_environments: Maker) -> None:
    environments = fake_environments(2)
    spy, policy = spy_policy(environments, noise=1.0)
    episodes = run_episodes(environments, policy, [2, 6])
    assert spy.done[0] is None
    for t, done in enumerate(spy.done[1:]):
        assert done is not None
        np.testing.assert_array_equal(done.numpy(), np.stack([e.actions[t] for e in episodes]))


@pytest.mark.parametrize("recurrence", ["none", "gru"])
def test_an_agent_lives_through_real_episodes(point_mass: VectorEnv, recurrence: str) -> None:
    spec = point_mass.env_spec
    options = WorldModelOptions(latent_dim=8, hidden_dim=16, recurrence=recurrence)
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    planner = make_planner("icem", low, high, horizon=3, num_samples=8, iterations=2, num_elites=2)
    results = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(0)
        agent = Agent(WorldModel(spec, options), planner, GoalObjective(GoalOptions()), AgentOptions(), generator)
        policy = AgentPolicy(agent, noise=0.1, switch_every=10)
        episodes = run_episodes(point_mass, policy, [1, 2, 3], stop_on_success=True)
        results.append(np.concatenate([e.actions for e in episodes]))
        for episode in episodes:
            episode.validate(spec)
        plans = max(len(e.actions) for e in episodes)
        assert len(policy.statistics.cost) == plans
        assert policy.statistics.summary()["plan/invalid"] == 0
    np.testing.assert_array_equal(*results)


# -- statistics, and the planner on the true simulator -----------------------------------------------------------------


def test_statistics_of_plans() -> None:
    statistics = PlanStatistics()
    assert statistics.summary() == {}
    for cost, horizon in ((1.0, 0), (3.0, 2)):  # 0: as long as the plan
        best = torch.tensor([[cost + 4, cost], [cost + 2, cost]])
        plan = Plan(
            torch.zeros(2, 3, 1), torch.tensor([cost, cost]), best, torch.tensor([1, 2]), torch.zeros(2), 2, 0.1
        )
        statistics.add(plan, 10 * cost, horizon=horizon)
    assert statistics.summary() == {
        "plan/cost": 2.0,
        "plan/improvement": 3.0,
        "plan/invalid": 6.0,
        "plan/horizon": 2.5,
        "plan/batch_ms": 20.0,
    }


def test_the_true_simulator_is_asked_about_running_episodes_and_their_goals(fake_environments: Maker) -> None:
    environments = fake_environments(4)
    asked: list[tuple[list[float], list[float]]] = []

    def costs(states: Array, actions: Array, goal: Mapping[str, Array]) -> Array:
        assert actions.dtype == np.float64
        asked.append((states[:, 0].tolist(), goal["position"][:, 0].tolist()))
        return np.square(actions - np.array([1.0, 0.4])).sum((-2, -1))

    low, high = (torch.tensor(b) for b in (environments.env_spec.action_low, environments.env_spec.action_high))
    planner = make_planner("icem", low, high, horizon=2, num_samples=64, iterations=4, num_elites=8)
    policy = SimulatorPolicy(costs, planner, environments, torch.Generator().manual_seed(0))
    episodes = run_episodes(environments, policy, [2, 0, 3])
    for seeds, goals in asked:
        assert goals == [-s for s in seeds]
    assert asked[0][0] == [2, 0, 3]
    assert asked[-1][0] == [3]
    assert len(policy.statistics.cost) == 6
    np.testing.assert_allclose(np.concatenate([e.actions for e in episodes]).mean(0), [1.0, 0.4], atol=0.1)
