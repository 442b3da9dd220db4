from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought import UnknownNameError
from forethought.agent.memory.episode import Episode, EpisodeError, EpisodeHeader
from forethought.envs.spec import ArraySpec, EnvSpec, GoalSpec

shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


@st.composite
def episodes(draw: st.DrawFn) -> tuple[EnvSpec, Episode]:
    obs = draw(
        st.dictionaries(
            st.text("ab/._é", min_size=1, max_size=4),
            st.one_of(
                shapes.map(lambda s: ArraySpec(s, "float32")),
                st.tuples(st.integers(1, 4), st.integers(1, 4), st.just(3)).map(lambda s: ArraySpec(s, "uint8")),
            ),
            min_size=1,
            max_size=3,
        )
    )
    action_dim, length = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    spec = EnvSpec("E-v0", obs, (-1.0,) * action_dim, (1.0,) * action_dim, 0.1, 9, GoalSpec("observation"))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def array(item: ArraySpec, *lead: int) -> np.ndarray:
        if item.is_image:
            return rng.integers(0, 256, (*lead, *item.shape), dtype=np.uint8)
        return rng.normal(size=(*lead, *item.shape)).astype(np.float32)

    return spec, Episode(
        obs={k: array(v, length + 1) for k, v in obs.items()},
        actions=rng.normal(size=(length, action_dim)).astype(np.float32),
        rewards=rng.normal(size=length).astype(np.float32),
        success=rng.random(length) < 0.5,
        terminated=draw(st.booleans()),
        truncated=draw(st.booleans()),
        goal=draw(st.none() | st.just({k: array(v) for k, v in obs.items()})),
        meta=draw(st.dictionaries(st.text(max_size=3), st.none() | st.integers() | st.text(max_size=5), max_size=3)),
    )


def reader(records: list[memoryview]) -> tuple[EpisodeHeader, Callable[[int], memoryview]]:
    header = EpisodeHeader.parse(records[0])
    return header, lambda number: header.layout.part(number, records[number])


@settings(deadline=None, max_examples=100)
@given(episodes(), st.sampled_from([64, 128, 1024, 1 << 18]))
def test_records_round_trip(
    assert_same: Callable[[Episode, Episode], None], case: tuple[EnvSpec, Episode], block_bytes: int
) -> None:
    spec, episode = case
    episode.validate(spec)
    records = episode.to_records(spec.env_id, "key", block_bytes)
    header, block = reader(records)
    for number, record in enumerate(records):
        header.layout.check(number, record)
    assert_same(header.episode(block), episode)
    assert header.values["env_id"] == spec.env_id
    assert header.values["key"] == "key"
    assert (header.layout.start + 16) % 64 == 0
    assert all(offset % 64 == 0 for _, _, offset in header.layout.fields.values())
    assert all(len(block(number)) <= block_bytes for number in range(len(records)))
    start, stop = len(episode) // 3, len(episode)
    for name, array in episode.arrays().items():
        if not name.startswith("goal/"):
            np.testing.assert_array_equal(header.layout.rows(name, start, stop, block), array[start:stop])


def test_only_the_blocks_of_a_window_are_touched(spec: EnvSpec, make_episode: Callable[..., Episode]) -> None:
    episode = make_episode(spec, 100)
    header, block = reader(episode.to_records(spec.env_id, None, 512))
    touched: list[int] = []
    rows = header.layout.rows("obs/image", 50, 55, lambda number: (touched.append(number), block(number))[1])
    np.testing.assert_array_equal(rows, episode.obs["image"][50:55])
    first = header.layout.fields["obs/image"][2] + 50 * 48
    assert sorted(set(touched)) == list(range(first // 512, (first + 5 * 48 - 1) // 512 + 1))


def test_rows_in_one_block_are_read_in_place(spec: EnvSpec, make_episode: Callable[..., Episode]) -> None:
    header, block = reader(make_episode(spec).to_records(spec.env_id, None))
    data = bytearray(block(0))
    rows = header.layout.rows("obs/state", 2, 4, lambda _: data)
    rows[0, 1] = 7.0
    assert header.layout.array("obs/state", lambda _: data)[2, 1] == 7.0


def test_every_flipped_byte_is_found(spec: EnvSpec, make_episode: Callable[..., Episode]) -> None:
    records = [bytearray(r) for r in make_episode(spec, length=2).to_records(spec.env_id, "key", 256)]
    assert len(records) > 1

    def check() -> None:
        layout = EpisodeHeader.parse(records[0]).layout
        for number, record in enumerate(records):
            layout.check(number, record)

    check()
    for record in records:
        for position in range(len(record)):
            record[position] ^= 0x10
            with pytest.raises(EpisodeError, match="damaged"):
                check()
            record[position] ^= 0x10
    check()


def test_unknown_array_is_named(spec: EnvSpec, make_episode: Callable[..., Episode]) -> None:
    header, block = reader(make_episode(spec).to_records(spec.env_id, None))
    with pytest.raises(UnknownNameError, match="did you mean obs/state"):
        header.layout.array("obs/stat", block)


def test_short_records_are_damaged() -> None:
    with pytest.raises(EpisodeError, match="damaged header: 3 bytes"):
        EpisodeHeader.parse(b"abc")


def nan(array: np.ndarray) -> np.ndarray:
    return np.where(np.arange(array.size).reshape(array.shape) == 1, np.nan, array).astype(array.dtype)


BAD: dict[str, tuple[Callable[[Episode], Episode], str]] = {
    "empty": (lambda e: replace(e, actions=e.actions[:0]), "at least 1 transition, got 0"),
    "missing obs": (
        lambda e: replace(e, obs={"state": e.obs["state"]}),
        r"obs must have the keys \['image', 'state'\]",
    ),
    "short obs": (
        lambda e: replace(e, obs=e.obs | {"state": e.obs["state"][:-1]}),
        r"obs/state must have shape \(6, 3\)",
    ),
    "wide obs": (lambda e: replace(e, obs=e.obs | {"state": np.zeros((6, 4), "f4")}), "obs/state must have shape"),
    "float64": (
        lambda e: replace(e, obs=e.obs | {"state": e.obs["state"].astype("f8")}),
        "obs/state must be a float32",
    ),
    "float image": (lambda e: replace(e, obs=e.obs | {"image": e.obs["image"].astype("f4")}), "image must be a uint8"),
    "nan obs": (lambda e: replace(e, obs=e.obs | {"state": nan(e.obs["state"])}), "obs/state must be finite, got nan"),
    "nan reward": (lambda e: replace(e, rewards=nan(e.rewards)), "rewards must be finite"),
    "inf action": (lambda e: replace(e, actions=e.actions / np.float32(0)), "actions must be finite, got -?inf"),
    "narrow actions": (lambda e: replace(e, actions=e.actions[:, :1]), r"actions must have shape \(5, 2\)"),
    "long rewards": (lambda e: replace(e, rewards=np.zeros(6, "f4")), r"rewards must have shape \(5,\), got \(6,\)"),
    "int success": (lambda e: replace(e, success=np.zeros(5, int)), "success must be a bool array, got int64"),
    "list": (lambda e: replace(e, rewards=[0.0] * 5), "rewards must be a float32 array, got <class 'list'>"),
    "goal keys": (lambda e: replace(e, goal={"desired_goal": np.zeros(3, "f4")}), "goal must have the keys"),
}


@pytest.mark.filterwarnings("ignore:divide by zero")
@pytest.mark.parametrize("case", BAD)
def test_bad_episodes_are_refused(case: str, spec: EnvSpec, make_episode: Callable[..., Episode]) -> None:
    change, message = BAD[case]
    good = make_episode(spec)
    good.validate(spec)
    with pytest.raises(EpisodeError, match=message):
        change(good).validate(spec)


def test_goals_follow_the_spec(spec: EnvSpec, make_episode: Callable[..., Episode]) -> None:
    goal = {"desired_goal": np.zeros(2, np.float32)}
    episode = make_episode(spec, goal=goal)
    episode.validate(replace(spec, goal=GoalSpec("achieved", "state", 2)))
    with pytest.raises(EpisodeError, match=r"goal/desired_goal must have shape \(3,\)"):
        episode.validate(replace(spec, goal=GoalSpec("achieved", "state", 3)))
    with pytest.raises(EpisodeError, match="Toy-v0 has no goals"):
        episode.validate(replace(spec, goal=None))


@pytest.mark.parametrize("meta", [{"a": object()}, {"a": float("nan")}, {"a": np.zeros(2)}])
def test_meta_must_be_json(meta: dict[str, object], spec: EnvSpec, make_episode: Callable[..., Episode]) -> None:
    with pytest.raises(EpisodeError, match="meta must hold JSON values only"):
        make_episode(spec, meta=meta).to_records(spec.env_id, None)
