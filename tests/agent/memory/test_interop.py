"""Datasets of other tools: what is exported comes back whole, theirs read ours, and we read theirs."""

import json
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought.agent.memory.interop import (
    FORMATS,
    Format,
    InteropError,
    export_episodes,
    import_episodes,
    read_dataset,
)
from forethought.agent.memory.store import Episode, EpisodeStore, MemoryOptions
from forethought.envs.spec import ArraySpec, EnvSpec, GoalSpec

Maker = Callable[..., Episode]
Same = Callable[[Episode, Episode], None]
NEEDS = {"minari": "minari", "lerobot": "pyarrow"}
quick = MemoryOptions(sync=False)

ARRAYS = {
    "state": ArraySpec((3,), "float32"),
    "a/b": ArraySpec((1,), "float32"),
    "a/c": ArraySpec((2, 2), "float64"),
    "image": ArraySpec((36, 32, 3), "uint8"),  # from this size on Minari would use JPEG
    "stack": ArraySpec((4, 5, 6), "uint8"),
    "gray": ArraySpec((4, 4, 1), "uint8"),
    "bytes": ArraySpec((5,), "uint8"),
}
GOALS = (None, GoalSpec("observation"), GoalSpec("achieved", "state", 3))


@pytest.fixture(params=FORMATS)
def format(request: pytest.FixtureRequest) -> Format:
    pytest.importorskip(NEEDS[request.param])
    return request.param


def with_goal(episode: Episode, spec: EnvSpec) -> Episode:
    if spec.goal is None:
        return episode
    if spec.goal.kind == "observation":
        return replace(episode, goal={key: array[-1].copy() for key, array in episode.obs.items()})
    return replace(episode, goal={"desired_goal": np.arange(spec.goal.dim, dtype=np.float32)})


@settings(max_examples=20, deadline=None)
@given(
    format=st.sampled_from(FORMATS),
    keys=st.sets(st.sampled_from(sorted(ARRAYS)), min_size=1),
    goal=st.sampled_from(GOALS),
    action_dim=st.integers(1, 3),
    control_dt=st.sampled_from([0.05, 1 / 3, 2.5, float("nan")]),
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=4),
    data=st.data(),
)
def test_what_is_exported_comes_back_the_same(
    make_episode: Maker, assert_same: Same, format: Format, keys: set[str], goal: GoalSpec | None, action_dim: int,
    control_dt: float, lengths: list[int], data: st.DataObject,
) -> None:  # fmt: skip
    pytest.importorskip(NEEDS[format])
    obs = {key: ARRAYS[key] for key in sorted(keys)}
    spec = EnvSpec("Some/Arm-v0", obs, (-1.0,) * action_dim, (0.3,) * action_dim, control_dt, 9, goal)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with EpisodeStore.open(root / "one", "a", spec, quick) as store:
            for number, length in enumerate(lengths):
                episode = make_episode(
                    spec,
                    length,
                    number,
                    truncated=data.draw(st.booleans()),
                    meta={"seed": number, "deep": {"é": [1.5]}},
                )
                if data.draw(st.booleans()):
                    episode = with_goal(episode, spec)
                store.append(episode, data.draw(st.sampled_from([None, f"key/{number}"])))
            before = list(store)
            keys_before = [store.info(i)["key"] for i in store.ids()]
            export_episodes(store, store.ids().tolist(), root / "arm-v0", format)
        with EpisodeStore.open(root / "two", "a", options=quick) as store:
            assert import_episodes(read_dataset(root / "arm-v0", format), store) == (len(lengths), len(lengths))
            assert [spec.to_json() for spec in store.specs] == [spec.to_json()]
            for one, other in zip(before, store, strict=True):
                assert_same(one, other)
            for i, key in enumerate(keys_before):
                assert store.info(i)["key"] == key or (key is None and store.info(i)["key"].startswith("import/"))
            assert import_episodes(read_dataset(root / "arm-v0", format), store) == (len(lengths), 0)  # all are known


def test_two_datasets_of_one_shape_are_not_taken_for_one(
    format: Format, folder: Path, spec: EnvSpec, make_episode: Maker, tmp_path: Path
) -> None:
    for name, first in (("one", 0), ("two", 10)):
        with EpisodeStore.open(tmp_path / name, "a", spec, quick) as store:
            store.append_many([make_episode(spec, 5, first + i) for i in range(3)])
            export_episodes(store, [0, 1, 2], tmp_path / f"out-{name}" / "arm-v0", format)
    with EpisodeStore.open(folder, "a", options=quick) as store:
        for name in ("one", "two"):
            dataset = read_dataset(tmp_path / f"out-{name}" / "arm-v0", format)
            assert import_episodes(dataset, store) == (3, 3)
        assert import_episodes(read_dataset(tmp_path / "out-one" / "arm-v0", format), store) == (3, 0)


def test_some_are_exported_and_a_failure_leaves_nothing(
    format: Format, folder: Path, spec: EnvSpec, make_episode: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = folder.with_name("toy-v0")
    with EpisodeStore.open(folder, "a", spec, quick) as store:
        store.append_many([make_episode(spec, 3, i) for i in range(4)])
        store.append(make_episode(spec, 3, 4), spec=replace(spec, env_id="Other-v0"))
        with pytest.raises(InteropError, match="of one environment and time limit, got Toy-v0 and Other-v0"):
            export_episodes(store, [0, 4], out, format)
        with pytest.raises(InteropError, match="got none"):
            export_episodes(store, [], out, format)
        store.append(make_episode(spec, 3, 5), spec=replace(spec, control_dt=9.0))
        with pytest.raises(InteropError, match=r"with control_dt=None and 9\.0; --episodes chooses"):
            export_episodes(store, [0, 5], out, format)
        with monkeypatch.context() as patch:
            patch.setattr(EpisodeStore, "get", lambda self, i: make_episode(spec, 3, i) if i == 1 else 1 / 0)
            with pytest.raises(ZeroDivisionError):
                export_episodes(store, [1, 3], out, format)
        assert [path.name for path in folder.parent.iterdir()] == [folder.name]
        (folder.parent / ".toy-v0.partial" / "data").mkdir(parents=True)  # as an export that was killed leaves it
        monkeypatch.chdir(folder.parent)
        export_episodes(store, [1, 3], Path("toy-v0"), format)
        with pytest.raises(InteropError, match="exists already"):
            export_episodes(store, [1, 3], out, format)
    with EpisodeStore.open(folder.with_name("two"), "a", options=quick) as store:
        assert import_episodes(read_dataset(out, format), store) == (2, 2)
        assert [store.info(i)["meta"] for i in store.ids()] == [{"seed": 1}, {"seed": 3}]


def test_what_cannot_be_imported(format: Format, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with EpisodeStore.open(folder, "a", options=quick) as store:
        with pytest.raises(InteropError, match=r"cannot import .*gone"):
            import_episodes(read_dataset(tmp_path / "gone", format), store)
        monkeypatch.setitem(sys.modules, NEEDS[format], None)
        monkeypatch.setitem(sys.modules, "minari.dataset.minari_storage", None)
        (tmp_path / "meta").mkdir()
        (tmp_path / "meta" / "info.json").write_text('{"codebase_version": "v3.0"}')
        with pytest.raises(InteropError, match=r"pip install 'forethought\[interop\]'"):
            import_episodes(read_dataset(tmp_path, format), store)


def test_other_versions_are_refused(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "meta").mkdir()
    with EpisodeStore.open(folder, "a", options=quick) as store:
        for info, message in (
            ({"codebase_version": "v2.1"}, "the format is 'v2.1', this release reads 'v3.0'"),
            (
                {"codebase_version": "v3.0", "forethought": {"version": 2}},
                "exported in version 2; this release",
            ),
        ):
            (tmp_path / "meta" / "info.json").write_text(json.dumps(info))
            with pytest.raises(InteropError, match=message):
                import_episodes(read_dataset(tmp_path, "lerobot"), store)


# -- Minari -----------------------------------------------------------------------------------------------------------


def test_minari_reads_what_we_export(
    folder: Path, spec: EnvSpec, make_episode: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    minari = pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder.parent))
    episodes = [with_goal(make_episode(spec, 4 + i, i, terminated=i == 1), spec) for i in range(3)]
    with EpisodeStore.open(folder, "a", spec, quick) as store:
        store.append_many(episodes)
        with pytest.raises(InteropError, match="such as no version-v0, got 'no version'"):
            export_episodes(store, [0], folder.with_name("no version"), "minari")
        export_episodes(store, [0, 1, 2], folder.with_name("toy-v0"), "minari")
    dataset = minari.load_dataset("toy-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 15)
    np.testing.assert_array_equal(dataset.action_space.high, np.float32(spec.action_high))
    for found, episode in zip(dataset.iterate_episodes(), episodes, strict=True):
        for key, array in episode.obs.items():
            np.testing.assert_array_equal(found.observations[key], array)
        np.testing.assert_array_equal(found.actions, episode.actions)
        np.testing.assert_array_equal(found.rewards, episode.rewards)
        assert found.terminations.tolist() == [False] * (len(episode) - 1) + [episode.terminated]
        np.testing.assert_array_equal(found.infos["success"][1:], episode.success)
        np.testing.assert_array_equal(found.infos["goal"]["state"][2], episode.goal["state"])
        assert dataset.observation_space.contains({key: value[0] for key, value in found.observations.items()})


def foreign_minari(name: str, env: Any, steps: int, monkeypatch: pytest.MonkeyPatch, root: Path) -> list[Any]:
    """A dataset that Minari makes from an environment; returns its episodes as raw lists."""
    minari = pytest.importorskip("minari")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    env.action_space.seed(0)
    buffers = []
    for seed in range(2):
        obs, info = env.reset(seed=seed)
        rows: dict[str, list[Any]] = {name: [] for name in ("actions", "rewards", "terminations", "truncations")}
        seen, infos = [obs], [info]
        for _ in range(steps):
            rows["actions"].append(env.action_space.sample())
            obs, reward, terminated, truncated, info = env.step(rows["actions"][-1])
            seen.append(obs)
            infos.append(info)
            for key, value in (("rewards", reward), ("terminations", terminated), ("truncations", truncated)):
                rows[key].append(value)
        stacked = {k: np.stack([o[k] for o in seen]) for k in seen[0]} if isinstance(seen[0], dict) else np.stack(seen)
        successes = {"is_success": np.array([i.get("is_success", False) for i in infos])}
        buffers.append(EpisodeBuffer(seed=seed, observations=stacked, infos=successes, **rows))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of authors and addresses that are not given
        minari.create_dataset_from_buffers(name, buffers, env=env)
    return buffers


def test_a_dataset_that_minari_made_is_imported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gymnasium

    env = gymnasium.make("Pendulum-v1", max_episode_steps=30)
    buffers = foreign_minari("pendulum/random-v0", env, 30, monkeypatch, tmp_path)
    with EpisodeStore.open(folder, "a", options=quick) as store:
        assert import_episodes(read_dataset(tmp_path / "pendulum" / "random-v0", "minari"), store) == (2, 2)
        spec = store.specs[0]
        assert (spec.env_id, spec.max_episode_steps, spec.goal) == ("Pendulum-v1", 30, None)
        assert spec.obs == {"observation": ArraySpec((3,), "float32")}
        assert (spec.action_low, spec.action_high) == ((-2.0,), (2.0,))
        for i, raw in enumerate(buffers):
            episode = store.get(i)
            np.testing.assert_array_equal(episode.obs["observation"], raw.observations)
            np.testing.assert_array_equal(episode.actions, raw.actions)
            np.testing.assert_allclose(episode.rewards, raw.rewards, rtol=1e-6)
            assert (episode.terminated, episode.truncated) == (False, True)
            assert episode.meta == {"dataset": "pendulum/random-v0", "episode": i, "seed": i}


def test_a_dataset_with_goals_that_minari_made_is_imported(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gymnasium
    from gymnasium.spaces import Box, Dict

    class Reach(gymnasium.Env[Any, Any]):
        observation_space = Dict(
            {name: Box(-9, 9, (2,), np.float64) for name in ("achieved_goal", "desired_goal")}
            | {"observation": Box(-9, 9, (3,), np.float64), "camera": Box(0, 255, (40, 40, 3), np.uint8)}
        )
        action_space = Box(-np.inf, np.inf, (2,), np.float32)

        def see(self) -> dict[str, Any]:
            picture = np.full((40, 40, 3), 10 * self.t, np.uint8)
            at = np.full(2, self.t / 2)
            return {"achieved_goal": at, "desired_goal": np.ones(2), "observation": np.ones(3), "camera": picture}

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            self.t = 0
            return self.see(), {"is_success": False}

        def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.t += 1
            return self.see(), -1.0, self.t == 2, False, {"is_success": self.t == 2}

    buffers = foreign_minari("reach-v0", Reach(), 2, monkeypatch, tmp_path)
    with EpisodeStore.open(folder, "a", options=quick) as store:
        import_episodes(read_dataset(tmp_path / "reach-v0", "minari"), store)
        spec, episode = store.specs[0], store.get(1)
        assert spec.goal == GoalSpec("achieved", "achieved_goal", 2)
        assert list(spec.obs) == ["achieved_goal", "camera", "observation"]
        assert spec.obs["camera"].is_image
        taken = np.concatenate([raw.actions for raw in buffers])
        np.testing.assert_allclose(spec.action_high, taken.max(axis=0))
        assert (spec.env_id, spec.max_episode_steps) == ("reach-v0", 2)
        assert episode.goal is not None
        assert episode.goal["desired_goal"].tolist() == [1, 1]
        assert episode.obs["achieved_goal"].tolist() == [[0, 0], [0.5, 0.5], [1, 1]]
        assert abs(episode.obs["camera"].astype(int) - np.array([0, 10, 20])[:, None, None, None]).max() <= 2  # JPEG
        assert (episode.success.tolist(), episode.terminated) == ([False, True], True)


# -- LeRobot ----------------------------------------------------------------------------------------------------------


def test_lerobot_reads_what_we_export(folder: Path, make_episode: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(folder.with_name("cache")))
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    spec = EnvSpec("Arm-v0", dict(sorted(ARRAYS.items())), (-1.0, -2.0), (1.0, 2.0), 0.05, 9)
    episodes = [make_episode(spec, 4 + i, i) for i in range(3)]
    with EpisodeStore.open(folder, "a", spec, quick) as store:
        store.append_many(episodes)
        export_episodes(store, [0, 1, 2], folder.with_name("arm"), "lerobot")
    dataset = module.LeRobotDataset("local/arm", root=folder.with_name("arm"))
    assert (dataset.num_episodes, dataset.num_frames, len(dataset), dataset.fps) == (3, 15, 15, 20)
    assert [row["length"] for row in dataset.meta.episodes] == [4, 5, 6]
    assert set(dataset.meta.image_keys) == {f"observation.images.{k}" for k in ("image", "stack.0", "stack.1")}
    row = 0
    for number, episode in enumerate(episodes):
        for t in range(len(episode)):
            item = dataset[row]
            assert (item["episode_index"], item["frame_index"], item["task"]) == (number, t, "Arm-v0")
            np.testing.assert_array_equal(item["action"], episode.actions[t])
            np.testing.assert_array_equal(item["observation.state"], episode.obs["state"][t])
            np.testing.assert_array_equal(item["observation.a.c"], episode.obs["a/c"][t].reshape(-1))
            for name, frame in (("image", episode.obs["image"][t]), ("stack.1", episode.obs["stack"][t][..., 3:])):
                picture = np.asarray(item[f"observation.images.{name}"]).transpose(1, 2, 0)
                np.testing.assert_array_equal(np.rint(255 * picture), frame)
            assert item["next.reward"] == pytest.approx(episode.rewards[t])
            assert bool(item["next.success"]) == episode.success[t]
            assert bool(item["next.done"]) == (t == len(episode) - 1)
            row += 1
    seen = np.concatenate([episode.obs["state"][:-1] for episode in episodes])
    np.testing.assert_allclose(dataset.meta.stats["observation.state"]["std"], seen.std(axis=0), rtol=1e-5)
    assert dataset.meta.stats["observation.images.image"]["mean"].shape == (3, 1, 1)
    window = module.LeRobotDataset("local/arm", root=folder.with_name("arm"), delta_timestamps={"action": [0, 0.05]})
    np.testing.assert_array_equal(window[0]["action"], episodes[0].actions[:2])


@pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning")  # of LeRobot's, with numpy below 2.4
def test_a_dataset_that_lerobot_made_is_imported(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    features = {
        "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
        "observation.images.cam": {"dtype": "image", "shape": (32, 48, 3), "names": ["height", "width", "channels"]},
        "observation.images.film": {"dtype": "video", "shape": (64, 96, 3), "names": ["height", "width", "channels"]},
        "action": {"dtype": "float32", "shape": (2,), "names": ["dx", "dy"]},
        "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    }
    made = module.LeRobotDataset.create(
        "local/theirs", fps=10, features=features, root=tmp_path / "theirs", vcodec="h264"
    )
    for number in range(2):
        for t in range(5):
            value = 20 * t + 100 * number
            made.add_frame(
                {
                    "observation.state": np.float32([t, number]),
                    "observation.images.cam": np.full((32, 48, 3), value, np.uint8),
                    "observation.images.film": np.full((64, 96, 3), value, np.uint8),
                    "action": np.float32([t, -t]),
                    "next.reward": np.float32([t / 2]),
                    "task": "push",
                }
            )
        made.save_episode()
    made.finalize()
    with EpisodeStore.open(folder, "a", options=quick) as store:
        assert import_episodes(read_dataset(tmp_path / "theirs", "lerobot"), store) == (2, 2)
        spec = store.specs[0]
        assert (spec.env_id, spec.control_dt, spec.max_episode_steps) == ("theirs", 0.1, 5)
        assert spec.obs["cam"] == ArraySpec((32, 48, 3), "uint8")
        assert (spec.action_low, spec.action_high) == ((0.0, -4.0), (4.0, 0.0))
        for number in range(2):
            episode = store.get(number)
            assert len(episode) == 4  # what came of the fifth action is not told
            assert episode.obs["state"][:, 0].tolist() == [0, 1, 2, 3, 4]
            assert episode.rewards.tolist() == [0, 0.5, 1, 1.5]
            expected = (20 * np.arange(5) + 100 * number)[:, None, None, None]
            assert (episode.obs["cam"] == expected).all()
            assert abs(episode.obs["film"].astype(int) - expected).max() <= 4  # videos lose
            assert episode.meta == {"dataset": "theirs", "episode": number, "tasks": ["push"]}
            assert (episode.terminated, episode.truncated, episode.goal) == (False, True, None)
