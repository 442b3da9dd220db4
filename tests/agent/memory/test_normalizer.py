import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forethought import UnknownNameError
from forethought.agent.memory.normalizer import Normalizer, NormalizerError
from forethought.agent.memory.store import Episode, EpisodeStore, MemoryOptions, StoreError
from forethought.envs.spec import ArraySpec, EnvSpec

Maker = Callable[..., Episode]

SPEC = EnvSpec(
    "Vectors-v0",
    {
        "a": ArraySpec((2,), "float32"),
        "b/c.d": ArraySpec((2, 2), "float32"),
        "image": ArraySpec((2, 2, 3), "uint8"),
        "scalar": ArraySpec((), "float32"),
    },
    (-1.0,),
    (1.0,),
    0.1,
    100,
)


@pytest.fixture
def store(folder: Path, make_episode: Maker) -> Iterator[EpisodeStore]:
    with EpisodeStore.open(folder, "a", SPEC, MemoryOptions(sync=False)) as opened:
        for i in range(8):
            episode = make_episode(SPEC, 5 + 9 * i, i)
            episode.obs["a"] = episode.obs["a"] * np.float32([3.0, 0.0]) + np.float32([1000.0, 0.1])
            opened.append(episode)
        yield opened


def stacked(store: EpisodeStore, key: str) -> np.ndarray:
    return np.concatenate([episode.obs[key] for episode in store]).astype(np.float64)


def tensors(episode: Episode) -> dict[str, torch.Tensor]:
    return {key: torch.from_numpy(array) for key, array in episode.obs.items()}


def test_statistics_are_those_of_all_rows(store: EpisodeStore) -> None:
    normalizer = Normalizer(SPEC.obs)
    normalizer.update_from(store, store.ids())
    rows = np.concatenate([stacked(store, k).reshape(-1, SPEC.obs[k].size) for k in ("a", "b/c.d", "scalar")], axis=1)
    assert int(normalizer.count) == len(rows) == store.num_transitions + len(store)
    np.testing.assert_allclose(normalizer.mean, rows.mean(axis=0), rtol=1e-12, atol=1e-14)
    expected = rows.std(axis=0)
    expected[1] = 1.0  # the constant dimension
    np.testing.assert_allclose(normalizer.std, expected, rtol=1e-10)


def test_normalised_rows_have_mean_0_and_std_1(store: EpisodeStore) -> None:
    normalizer = Normalizer(SPEC.obs)
    normalizer.update_from(store, store.ids())
    out = [normalizer.normalize(tensors(episode)) for episode in store]
    for key in ("a", "b/c.d", "scalar"):
        rows = torch.cat([each[key] for each in out]).double()
        torch.testing.assert_close(rows.mean(dim=0), torch.zeros(SPEC.obs[key].shape).double(), atol=1e-4, rtol=0)
        expected = torch.tensor([1.0, 0.0]) if key == "a" else torch.ones(SPEC.obs[key].shape)
        torch.testing.assert_close(rows.std(dim=0, correction=0), expected.double(), atol=1e-4, rtol=0)
    assert torch.equal(out[0]["image"], tensors(store.get(0))["image"])


def test_a_constant_dimension_becomes_0_and_is_not_blown_up(store: EpisodeStore) -> None:
    normalizer = Normalizer(SPEC.obs)
    normalizer.update_from(store, store.ids())
    obs = tensors(store.get(0))
    assert (normalizer.normalize(obs)["a"][:, 1] == 0).all()
    obs["a"][:, 1] += 0.5
    torch.testing.assert_close(normalizer.normalize(obs)["a"][:, 1], torch.full((6,), 0.5))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), st.floats(-1e6, 1e6), st.integers(0, 99))
def test_merging_parts_equals_the_whole(sizes: list[int], shift: float, seed: int) -> None:
    rows = torch.randn(sum(sizes), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift
    parts, whole = (Normalizer({"x": ArraySpec((3,), "float32")}) for _ in range(2))
    for part in rows.split(sizes):
        parts._merge(part)
    whole._merge(rows)
    assert int(parts.count) == int(whole.count)
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(parts.squares, whole.squares, rtol=1e-6, atol=1e-6)


def test_updates_add_up(store: EpisodeStore) -> None:
    stepwise, at_once = Normalizer(SPEC.obs), Normalizer(SPEC.obs)
    for ids in ([3], [0, 1, 2], [4, 5, 6, 7]):
        stepwise.update_from(store, ids)
    at_once.update_from(store, store.ids())
    for key, value in at_once.state_dict().items():
        torch.testing.assert_close(stepwise.state_dict()[key], value, rtol=1e-10, atol=1e-10)


def test_denormalize_inverts_normalize(store: EpisodeStore) -> None:
    normalizer = Normalizer(SPEC.obs, clip=None)
    normalizer.update_from(store, store.ids())
    obs = tensors(store.get(3))
    back = normalizer.denormalize(normalizer.normalize(obs))
    for key, value in obs.items():
        torch.testing.assert_close(back[key], value, rtol=1e-5, atol=1e-5)


def test_clip_bounds_what_comes_out(store: EpisodeStore) -> None:
    far = {"scalar": torch.tensor([1e9, -1e9])}
    for clip, expected in ((10.0, [10.0, -10.0]), (2.5, [2.5, -2.5])):
        normalizer = Normalizer(SPEC.obs, clip=clip)
        normalizer.update_from(store, [0])
        assert normalizer.normalize(far)["scalar"].tolist() == expected
    unbounded = Normalizer(SPEC.obs, clip=None)
    unbounded.update_from(store, [0])
    assert float(unbounded.normalize(far)["scalar"][0]) > 1e8


def test_before_the_first_update_nothing_changes() -> None:
    obs = {"a": torch.tensor([[3.0, -4.0]]), "scalar": torch.tensor([2.0])}
    out = Normalizer(SPEC.obs).normalize(obs)
    assert all(torch.equal(out[key], obs[key]) for key in obs)


def test_state_round_trip(store: EpisodeStore) -> None:
    normalizer, other = Normalizer(SPEC.obs), Normalizer(SPEC.obs)
    normalizer.update_from(store, store.ids())
    other.load_state_dict({key: value.clone() for key, value in normalizer.state_dict().items()})
    obs = tensors(store.get(2))
    for one in (other, copy.deepcopy(normalizer)):
        assert all(torch.equal(one.normalize(obs)[k], normalizer.normalize(obs)[k]) for k in obs)
    with pytest.raises(RuntimeError, match="size mismatch"):
        Normalizer({"a": SPEC.obs["a"]}).load_state_dict(normalizer.state_dict())


def test_precision_survives_a_cast_of_the_model(store: EpisodeStore) -> None:
    normalizer = Normalizer(SPEC.obs)
    normalizer.update_from(store, store.ids())
    before = normalizer.normalize(tensors(store.get(0)))["a"]
    model = torch.nn.Sequential(normalizer, torch.nn.Linear(2, 2)).to(torch.bfloat16)
    assert model[1].weight.dtype == torch.bfloat16
    assert normalizer.mean.dtype == torch.float64
    assert torch.equal(normalizer.normalize(tensors(store.get(0)))["a"], before)
    assert model.to("meta")[0].mean.device.type == "meta"


def test_other_keys_pass_through_and_keys_may_be_missing(store: EpisodeStore) -> None:
    normalizer = Normalizer({"a": SPEC.obs["a"]})
    normalizer.update_from(store, store.ids())
    obs = {"scalar": torch.tensor([5.0]), "image": torch.zeros(1, 2, 2, 3, dtype=torch.uint8)}
    assert all(normalizer.normalize(obs)[key] is value for key, value in obs.items())


def test_only_images_is_fine(store: EpisodeStore) -> None:
    normalizer = Normalizer({"image": SPEC.obs["image"]})
    normalizer.update_from(store, store.ids())
    assert int(normalizer.count) == 0
    assert normalizer.std.shape == (0,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, "clip must be positive or None, got 0.0"),
        ({"min_std": 0.0}, "min_std must be positive, got 0.0"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(NormalizerError, match=message):
        Normalizer(SPEC.obs, **options)


def test_bad_episodes(store: EpisodeStore) -> None:
    with pytest.raises(StoreError, match="episode_id must be between 0 and 7, got 8"):
        Normalizer(SPEC.obs).update_from(store, [8])
    with pytest.raises(UnknownNameError, match="obs/other"):
        Normalizer({"other": ArraySpec((1,), "float32")}).update_from(store, [0])
