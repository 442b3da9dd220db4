from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from forethought import UnknownNameError
from forethought.agent.memory.sampler import SamplerError, SequenceBatch, SequenceSampler
from forethought.agent.memory.store import Episode, EpisodeStore, MemoryOptions
from forethought.envs.spec import ArraySpec, EnvSpec

Maker = Callable[..., Episode]

# Every array of a traced episode tells where it comes from: state = (episode, time, length), image = time, and so on.
SPEC = EnvSpec(
    "Trace-v0",
    {"image": ArraySpec((2, 2, 3), "uint8"), "state": ArraySpec((3,), "float32")},
    action_low=(-1.0, -1.0),
    action_high=(1e6, 1e6),
    control_dt=0.05,
    max_episode_steps=1000,
)


def traced(number: int, length: int, terminated: bool = False) -> Episode:
    time = np.arange(length + 1)
    state = np.stack([np.full(length + 1, number), time, np.full(length + 1, length)], axis=1)
    return Episode(
        obs={
            "state": state.astype(np.float32),
            "image": np.broadcast_to((time % 256).astype(np.uint8)[:, None, None, None], (length + 1, 2, 2, 3)).copy(),
        },
        actions=state[:-1, :2].astype(np.float32),
        rewards=time[:-1].astype(np.float32),
        success=np.zeros(length, np.bool_),
        terminated=terminated,
        truncated=not terminated,
    )


@pytest.fixture
def store(folder: Path) -> Iterator[EpisodeStore]:
    with EpisodeStore.open(folder, "a", SPEC, MemoryOptions(sync=False)) as opened:
        yield opened


def fill(store: EpisodeStore, lengths: list[int]) -> None:
    store.append_many([traced(i, length, i % 2 == 0) for i, length in enumerate(lengths, start=len(store))])


def check(batch: SequenceBatch, length: int) -> None:
    """Each window comes from one episode, in order, and each goal from the same one, where its pair says."""
    state = batch.obs["state"]
    episode, start, total = state[:, 0, 0], state[:, 0, 1], state[:, 0, 2]
    steps = torch.arange(length + 1)
    assert (state[:, :, 0] == episode[:, None]).all()
    assert (state[:, :, 1] == start[:, None] + steps).all()
    assert (start + length <= total).all()
    assert (batch.obs["image"] == (state[:, :, 1] % 256)[..., None, None, None]).all()
    assert (batch.actions == state[:, :-1, :2]).all()
    assert (batch.rewards == state[:, :-1, 1]).all()
    assert not batch.terminated[:, :-1].any()
    at_end = (start + length == total) & (episode % 2 == 0)
    assert (batch.terminated[:, -1] == at_end).all()
    goal = batch.goal_obs["state"]
    assert (goal[..., 0] == episode[:, None]).all()
    assert (goal[..., 1] == start[:, None] + batch.goal_index + batch.goal_steps).all()
    assert (goal[..., 1] <= total[:, None]).all()
    assert (batch.goal_steps >= 0).all()
    assert ((batch.goal_index >= 0) & (batch.goal_index <= length)).all()
    assert (batch.goal_obs["image"] == (goal[..., 1] % 256)[..., None, None, None]).all()


def same(one: SequenceBatch, other: SequenceBatch) -> bool:
    for name in (f.name for f in fields(SequenceBatch)):
        a, b = getattr(one, name), getattr(other, name)
        pairs = [(a, b)] if isinstance(a, torch.Tensor) else [(a[k], b[k]) for k in a]
        if not all(torch.equal(x, y) for x, y in pairs):
            return False
    return True


# What is drawn -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    length=st.integers(1, 12),
    num_goals=st.integers(0, 3),
    goal_power=st.floats(0.2, 6),
    cache_bytes=st.sampled_from([0, 2000, 1 << 30]),
)
def test_windows_never_cross_an_episode(
    lengths: list[int],
    length: int,
    num_goals: int,
    goal_power: float,
    cache_bytes: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("trace") / "memory"
    with EpisodeStore.open(folder, "a", SPEC, MemoryOptions(sync=False)) as store:
        fill(store, lengths)
        sampler = SequenceSampler(store, SPEC, length, num_goals, goal_power, cache_bytes=cache_bytes)
        assert sampler.num_windows == sum(max(t - length + 1, 0) for t in lengths)
        assert sampler.num_too_short == sum(t < length for t in lengths)
        if sampler.num_windows:
            check(sampler.sample(32, np.random.default_rng(0)), length)


def test_shapes_and_types(store: EpisodeStore) -> None:
    fill(store, [9, 9])
    batch = SequenceSampler(store, SPEC, 4, num_goals=5).sample(7, np.random.default_rng(0)).to("cpu")
    assert {k: (tuple(v.shape), v.dtype) for k, v in batch.obs.items()} == {
        "image": ((7, 5, 2, 2, 3), torch.uint8),
        "state": ((7, 5, 3), torch.float32),
    }
    assert {k: (tuple(v.shape), v.dtype) for k, v in batch.goal_obs.items()} == {
        "image": ((7, 5, 2, 2, 3), torch.uint8),
        "state": ((7, 5, 3), torch.float32),
    }
    for tensor, shape, dtype in (
        (batch.actions, (7, 4, 2), torch.float32),
        (batch.rewards, (7, 4), torch.float32),
        (batch.terminated, (7, 4), torch.bool),
        (batch.goal_index, (7, 5), torch.int64),
        (batch.goal_steps, (7, 5), torch.float32),
    ):
        assert (tuple(tensor.shape), tensor.dtype) == (shape, dtype)


def test_without_goals_the_goal_arrays_are_empty(store: EpisodeStore) -> None:
    fill(store, [9])
    batch = SequenceSampler(store, SPEC, 4).sample(3, np.random.default_rng(0))
    assert batch.goal_obs["state"].shape == (3, 0, 3)
    assert batch.goal_index.shape == batch.goal_steps.shape == (3, 0)


def test_windows_are_uniform(store: EpisodeStore) -> None:
    lengths = [3, 10, 1, 25, 4]
    fill(store, lengths)
    sampler = SequenceSampler(store, SPEC, 3)
    state = sampler.sample(20_000, np.random.default_rng(7)).obs["state"][:, 0]
    counts = {(e, t): 0 for e, total in enumerate(lengths) for t in range(total - 2)}
    for episode, time in state[:, :2].long().tolist():
        counts[episode, time] += 1
    assert len(counts) == sampler.num_windows == 34
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


@pytest.mark.parametrize("power", [1.0, 2.0, 4.0])
def test_goal_gaps_follow_the_power(power: float, store: EpisodeStore) -> None:
    """P(gap = g) = ((g+1)/(R+1))^(1/power) - (g/(R+1))^(1/power), with R transitions left."""
    fill(store, [20])
    batch = SequenceSampler(store, SPEC, 1, num_goals=1, goal_power=power).sample(60_000, np.random.default_rng(3))
    at = batch.obs["state"][:, 0, 1] + batch.goal_index[:, 0]
    gaps = batch.goal_steps[:, 0][at == 8].long()
    edges = (np.arange(14) / 13) ** (1 / power)
    observed = np.bincount(gaps.numpy(), minlength=13)
    assert len(observed) == 13
    assert stats.chisquare(observed, len(gaps) * np.diff(edges)).pvalue > 0.01
    assert stats.chisquare(np.bincount(batch.goal_index[:, 0].numpy(), minlength=2)).pvalue > 0.01


# Determinism and the cache -------------------------------------------------------------------------------------


def test_memory_and_disk_give_the_same_batches(store: EpisodeStore) -> None:
    fill(store, [20, 5, 31, 8, 50])
    rows = sum([20, 5, 31, 8, 50]) + 5
    samplers = [
        SequenceSampler(store, SPEC, 4, num_goals=2, cache_bytes=size)
        for size in (0, rows * (4 + 8), rows * (4 + 8 + 12), rows * (4 + 8 + 12 + 12))
    ]
    held = [sorted(sampler._rows._cached) for sampler in samplers]
    assert [len(names) for names in held] == [0, 2, 3, 4]
    batches = [sampler.sample(64, np.random.default_rng(1)) for sampler in samplers]
    check(batches[0], 4)
    assert all(same(batches[0], batch) for batch in batches[1:])
    assert not same(batches[0], samplers[0].sample(64, np.random.default_rng(2)))


def test_episodes_given_in_any_order_and_twice(store: EpisodeStore) -> None:
    fill(store, [20, 5, 31, 8, 50])
    one = SequenceSampler(store, SPEC, 4, episode_ids=[4, 0, 2, 2])
    other = SequenceSampler(store, SPEC, 4, episode_ids=iter([0, 2, 4]))
    assert same(one.sample(64, np.random.default_rng(1)), other.sample(64, np.random.default_rng(1)))


@pytest.mark.parametrize("cache_bytes", [0, 3000, 1 << 30])
def test_refresh_equals_a_new_sampler(cache_bytes: int, store: EpisodeStore) -> None:
    """Growing step by step, over the limit of the cache, dropping episodes and taking them back."""
    fill(store, [20, 3])
    growing = SequenceSampler(store, SPEC, 4, num_goals=2, episode_ids=[0, 1], cache_bytes=cache_bytes)
    for ids, new in (([0, 1], [9]), ([0, 1, 2], [40, 7]), ([1, 3, 4], []), ([0, 1, 2, 3], [60]), (range(6), [])):
        fill(store, new)
        growing.refresh(ids)
        fresh = SequenceSampler(store, SPEC, 4, num_goals=2, episode_ids=ids, cache_bytes=cache_bytes)
        batch = growing.sample(64, np.random.default_rng(1))
        check(batch, 4)
        assert same(batch, fresh.sample(64, np.random.default_rng(1)))
        assert set(batch.obs["state"][:, 0, 0].long().tolist()) <= set(ids)
        assert growing._rows._num_rows == fresh._rows._num_rows  # nothing is kept of episodes that were dropped


def test_only_new_episodes_are_read(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store, [20, 30])
    sampler = SequenceSampler(store, SPEC, 4)
    read: list[int] = []
    original = store._record
    monkeypatch.setattr(store, "_record", lambda txn, i, number: (read.append(i), original(txn, i, number))[1])
    fill(store, [40])
    sampler.refresh()
    sampler.sample(16, np.random.default_rng(0))
    assert set(read) == {2}


def test_only_new_episodes_are_read_where_old_ones_have_gone(
    store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store, [20, 30, 10])
    sampler = SequenceSampler(store, SPEC, 4)
    store.forget([0, 2])
    fill(store, [40])
    read: list[int] = []
    original = store._record
    with monkeypatch.context() as patch:
        patch.setattr(store, "_record", lambda txn, i, number: (read.append(i), original(txn, i, number))[1])
        sampler.refresh()
        batch = sampler.sample(16, np.random.default_rng(0))
    assert set(read) == {3}
    check(batch, 4)
    assert same(batch, SequenceSampler(store, SPEC, 4).sample(16, np.random.default_rng(0)))


def test_later_episodes_are_followed_when_all_were_asked_for(store: EpisodeStore) -> None:
    fill(store, [20])
    sampler = SequenceSampler(store, SPEC, 4)
    fill(store, [20])
    assert sampler.num_windows == 17
    sampler.refresh()
    assert sampler.num_windows == 34


def test_other_environments_are_left_out(store: EpisodeStore) -> None:
    fill(store, [20])
    store.append(traced(1, 20), spec=replace(SPEC, env_id="Other-v0"))
    assert SequenceSampler(store, SPEC, 4).num_windows == 17
    with pytest.raises(SamplerError, match="episode_ids must be episodes of Trace-v0, got 1"):
        SequenceSampler(store, SPEC, 4, episode_ids=[0, 1])


def test_keys_choose_observations(store: EpisodeStore) -> None:
    fill(store, [20])
    batch = SequenceSampler(store, SPEC, 4, num_goals=1, keys=["state"]).sample(2, np.random.default_rng(0))
    assert batch.obs.keys() == batch.goal_obs.keys() == {"state"}


def test_batches_do_not_share_memory_with_the_store(store: EpisodeStore) -> None:
    fill(store, [20])
    for cache_bytes in (0, 1 << 30):
        sampler = SequenceSampler(store, SPEC, 4, cache_bytes=cache_bytes)
        before = sampler.sample(8, np.random.default_rng(0))
        for tensor in (*before.obs.values(), before.actions, before.rewards):
            tensor.zero_()
        check(sampler.sample(8, np.random.default_rng(0)), 4)


# Misuse --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length must be at least 1, got 0"),
        ({"num_goals": -1}, "num_goals must be at least 0, got -1"),
        ({"goal_power": 0.0}, "goal_power must be positive, got 0.0"),
        ({"goal_power": float("nan")}, "goal_power must be positive, got nan"),
        ({"cache_bytes": -1}, "cache_bytes must be at least 0, got -1"),
        ({"episode_ids": [7]}, "episode_ids must be episodes of Trace-v0, got 7"),
    ],
)
def test_bad_options(options: dict[str, object], message: str, store: EpisodeStore) -> None:
    with pytest.raises(SamplerError, match=message):
        SequenceSampler(store, SPEC, **{"length": 4, **options})


def test_unknown_keys(store: EpisodeStore) -> None:
    with pytest.raises(UnknownNameError, match="did you mean state"):
        SequenceSampler(store, SPEC, 4, keys=["stat"])


def test_nothing_to_draw_from(store: EpisodeStore) -> None:
    fill(store, [3, 2])
    sampler = SequenceSampler(store, SPEC, 4)
    with pytest.raises(SamplerError, match=r"no episode of Trace-v0 holds a window of length=4: 2 are shorter"):
        sampler.sample(1, np.random.default_rng(0))
    empty = SequenceSampler(store, SPEC, 2, episode_ids=[])
    with pytest.raises(SamplerError, match="no episode"):
        empty.sample(1, np.random.default_rng(0))
    empty.refresh([0])
    assert empty.num_windows == 2
    with pytest.raises(SamplerError, match="episode_ids must be given"):
        empty.refresh()
    with pytest.raises(SamplerError, match="batch_size must be at least 1, got 0"):
        empty.sample(0, np.random.default_rng(0))


# -- what is rare ------------------------------------------------------------------------------------------------------


def paid(length: int, *times: int) -> Episode:
    rewards = np.zeros(length, np.float32)
    rewards[list(times)] = 1.0
    return replace(traced(0, length), rewards=rewards)


def test_a_share_of_the_windows_holds_rare_rewards(store: EpisodeStore) -> None:
    rng = np.random.default_rng(0)
    store.append_many([paid(500), paid(500, 250), paid(500)])
    plain, skewed, all_ = (SequenceSampler(store, SPEC, 4, focus_share=share) for share in (0.0, 0.5, 1.0))
    rates = [float((s.sample(4000, rng).rewards.sum(1) > 0).float().mean()) for s in (plain, skewed, all_)]
    assert rates[0] < 0.02
    assert rates[1] == pytest.approx(0.5, abs=0.05)
    assert rates[2] == 1.0
    starts = all_.sample(4000, rng).obs["state"][:, 0, 1].unique(return_counts=True)
    assert starts[0].tolist() == [247, 248, 249, 250]  # every window that the reward is in, alike
    assert min(starts[1]) > 800


def test_rewards_of_new_episodes_count(store: EpisodeStore) -> None:
    rng = np.random.default_rng(0)
    store.append(paid(50))
    sampler = SequenceSampler(store, SPEC, 4, focus_share=1.0)
    assert float(sampler.sample(8, rng).rewards.sum()) == 0.0  # none is above the average: all alike
    store.append(paid(50, 10))
    sampler.refresh()
    assert bool((sampler.sample(64, rng).rewards.sum(1) == 1).all())


def test_a_share_of_the_windows_holds_rare_movement(store: EpisodeStore) -> None:
    still = replace(traced(0, 200), obs={**traced(0, 200).obs, "state": np.zeros((201, 3), np.float32)})
    moving = np.zeros((201, 3), np.float32)
    moving[101:] = 3.0  # all at once, in transition 100
    store.append_many([still, replace(still, obs={**still.obs, "state": moving})])
    sampler = SequenceSampler(store, SPEC, 4, focus="state", focus_share=1.0)
    batch = sampler.sample(200, np.random.default_rng(0))
    assert bool((batch.obs["state"][:, 0, 0] < batch.obs["state"][:, -1, 0]).all())
    with pytest.raises(UnknownNameError, match="hand"):
        SequenceSampler(store, SPEC, 4, focus="hand", focus_share=1.0)


def test_a_share_is_a_share(store: EpisodeStore) -> None:
    with pytest.raises(SamplerError, match=r"focus_share must be between 0 and 1, got 1\.5"):
        SequenceSampler(store, SPEC, 4, focus_share=1.5)
    with pytest.raises(SamplerError, match=r"even_share must be between 0 and 1, got -1"):
        SequenceSampler(store, SPEC, 4, even_share=-1)
    with pytest.raises(UnknownNameError, match="hand"):
        SequenceSampler(store, SPEC, 4, where=["hand"])


def lingering(length: int, *places: float) -> Episode:
    """At 0, but for a moment at each of the places."""
    state = np.zeros((length + 1, 3), np.float32)
    state[10 : 10 + len(places), 0] = places
    return replace(traced(0, length), obs={**traced(0, length).obs, "state": state})


def test_a_share_of_the_windows_is_drawn_evenly_over_where_they_begin(store: EpisodeStore) -> None:
    rng = np.random.default_rng(0)
    store.append_many([lingering(400, 1.0, 2.0, 3.0), lingering(400)])
    plain, half, even = (SequenceSampler(store, SPEC, 4, where=["state"], even_share=s) for s in (0.0, 0.5, 1.0))
    rates = []
    for sampler in (plain, half, even):
        begins = sampler.sample(4000, rng).obs["state"][:, 0, 0]
        rates.append([float((begins == place).float().mean()) for place in range(4)])
    assert min(rates[0][1:]) < 0.01
    assert rates[1] == pytest.approx([5 / 8, 1 / 8, 1 / 8, 1 / 8], abs=0.03)
    assert rates[2] == pytest.approx([1 / 4] * 4, abs=0.03)
    store.append(lingering(400, 5.0))
    even.refresh()
    assert float((even.sample(4000, rng).obs["state"][:, 0, 0] == 5).float().mean()) == pytest.approx(0.2, abs=0.03)
