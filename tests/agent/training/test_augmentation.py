"""What the encoder is shown in training: moved pictures, missing vectors; and that vectors can then be done without."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from forethought.agent.memory.sampler import SequenceBatch
from forethought.agent.training.augmentation import drop_vectors, shift_images
from forethought.agent.training.learner import Learner, LearnerError, LearnerOptions
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.envs.spec import ArraySpec, EnvSpec

Maker = Callable[..., Any]


# -- the pieces --------------------------------------------------------------------------------------------------------


@given(
    height=st.integers(4, 9), width=st.integers(4, 9), channels=st.sampled_from([3, 6]), seed=st.integers(0, 2**32),
    shift=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=4),
)  # fmt: skip
def test_a_moved_picture_shows_what_was_aside_and_repeats_its_border(
    height: int, width: int, channels: int, seed: int, shift: list[tuple[int, int]]
) -> None:
    shape = (len(shift), 3, height, width, channels)
    frames = torch.randint(256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    before = frames.clone()
    moved = shift_images(frames, torch.tensor(shift))
    assert torch.equal(frames, before)
    assert moved.dtype == torch.uint8
    for b, (down, right) in enumerate(shift):
        rows = (torch.arange(height) - down).clamp(0, height - 1)
        columns = (torch.arange(width) - right).clamp(0, width - 1)
        assert torch.equal(moved[b], frames[b][:, rows][:, :, columns])


def test_dropped_windows_hold_what_stands_for_unknown() -> None:
    obs = {"image": torch.ones(3, 2, 4, 4, 3), "grid": torch.randn(3, 2, 2, 2), "position": torch.randn(3, 2, 3)}
    unknown = {"grid": torch.randn(2, 2), "position": torch.randn(3)}
    dropped = drop_vectors(obs, unknown, torch.tensor([False, True, False]))
    assert dropped["image"] is obs["image"]
    for key, value in unknown.items():
        assert torch.equal(dropped[key][[0, 2]], obs[key][[0, 2]])
        assert torch.equal(dropped[key][1], value.expand_as(obs[key][1]))


# -- in the learner ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make_learner(toy_spec: Maker, toy_model: Maker) -> Callable[..., Learner]:
    def make(
        observation: str = "both", goal: str = "observation", model: dict[str, Any] | None = None, **options: Any
    ) -> Learner:
        made = toy_model(toy_spec(observation, goal), **(model or {}))
        return Learner(made, LearnerOptions(**options), 10, torch.Generator().manual_seed(0))

    return make


def weights(learner: Learner) -> Tensor:
    return torch.cat([p.detach().flatten() for p in learner.model.parameters()])


@pytest.mark.parametrize("option", [{"image_shift": 2}, {"image_shift": 3}, {"vector_dropout": 0.5}])
def test_either_changes_the_result_and_follows_from_the_generator(
    option: dict[str, Any], make_learner: Maker, toy_batch: Maker
) -> None:
    def run(**options: Any) -> Tensor:
        learner = make_learner(**options)
        for seed in range(3):
            learner.update(toy_batch(learner.model.spec, seed=seed))
        return weights(learner)

    assert torch.equal(run(**option), run(**option))
    assert not torch.equal(run(**option), run())
    if "image_shift" in option:
        assert not torch.equal(run(**option), run(image_shift=1))


def test_without_either_nothing_is_drawn(make_learner: Maker, toy_batch: Maker) -> None:
    learner = make_learner()
    before = learner.generator.get_state()
    learner.update(toy_batch(learner.model.spec))
    assert torch.equal(learner.generator.get_state(), before)


@torch.no_grad()
@pytest.mark.parametrize("ema_target", [0.0, 0.9])
def test_the_encoder_does_without_and_losses_aim_at_the_truth(
    ema_target: float, make_learner: Maker, toy_batch: Maker
) -> None:
    """With every vector dropped, what the vectors are is the same to z and to goals, but not to what is aimed at."""
    learner = make_learner("both", "observation", vector_dropout=1.0, ema_target=ema_target)
    batch: SequenceBatch = toy_batch(learner.model.spec)
    vectors = learner.model.vector_keys

    def other(obs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {key: value + 1 if key in vectors else value for key, value in obs.items()}

    changed = dataclasses.replace(batch, obs=other(batch.obs), goal_obs=other(batch.goal_obs))
    (terms, z), (others, z_other) = learner.losses(batch), learner.losses(changed)
    assert torch.equal(z, z_other)
    assert {name for name in terms if not torch.equal(terms[name], others[name])} == {"probe"}
    assert set(batch.obs) == set(learner.model.spec.obs)  # and the batch is left alone


@torch.no_grad()
def test_achieved_goals_are_aimed_at_also_where_they_are_dropped(make_learner: Maker, toy_batch: Maker) -> None:
    learner = make_learner("both", "achieved", vector_dropout=1.0)
    batch: SequenceBatch = toy_batch(learner.model.spec)
    moved = dataclasses.replace(batch, obs={**batch.obs, "achieved_goal": batch.obs["achieved_goal"] + 1})
    assert not torch.equal(learner.losses(batch)[0]["achieved"], learner.losses(moved)[0]["achieved"])


@torch.no_grad()
def test_windows_and_their_goals_are_drawn_apart(make_learner: Maker, toy_batch: Maker) -> None:
    learner = make_learner(vector_dropout=0.5, image_shift=2)
    batch: SequenceBatch = toy_batch(learner.model.spec, batch=200)
    seen = learner._seen(batch)
    for key in ("position", "image"):
        window = (seen.obs[key] != batch.obs[key]).flatten(1).any(dim=1)
        goals = (seen.goal_obs[key] != batch.goal_obs[key]).flatten(1).any(dim=1)
        assert not torch.equal(window, goals)
    dropped = (seen.obs["position"] != batch.obs["position"]).flatten(1)
    assert torch.equal(dropped.any(dim=1), dropped.all(dim=1))  # the whole window or nothing of it
    assert 60 < int(dropped.any(dim=1).sum()) < 140


@pytest.mark.parametrize(
    ("observation", "model", "options", "message"),
    [
        ("state", {}, {"image_shift": 1}, "image_shift must be 0 where nothing seen is an image, got 1"),
        ("pixels", {}, {"image_shift": 16}, "image_shift must be below the 16 pixels of an image, got 16"),
        ("state", {}, {"vector_dropout": 0.1}, "must be 0 unless both vectors and images are seen"),
        ("pixels", {}, {"vector_dropout": 0.1}, r"got 0.1 with \['image'\]"),
        ("both", {"encoder": "augmented"}, {"vector_dropout": 0.1}, "must be 0 with encoder=augmented, where z holds"),
        ("both", {"encoder": "augmented", "recurrence": "gru"}, {"vector_dropout": 0.1}, "must be 0 with encoder=augm"),
    ],
)
def test_augmentation_that_does_nothing_or_harm_is_refused(
    observation: str, model: dict[str, Any], options: dict[str, Any], message: str, make_learner: Maker
) -> None:
    with pytest.raises(LearnerError, match=message):
        make_learner(observation, "observation", model, **options)


def test_a_belief_may_lack_vectors(make_learner: Maker, toy_batch: Maker) -> None:
    learner = make_learner(model={"encoder": "learned", "recurrence": "gru"}, vector_dropout=0.5)
    learner.update(toy_batch(learner.model.spec))


# -- what it is for ----------------------------------------------------------------------------------------------------

DOT = EnvSpec(
    "Dot-v0", {"pixels": ArraySpec((16, 16, 3), "uint8"), "position": ArraySpec((2,), "float32")},
    (-1.0, -1.0), (1.0, 1.0), control_dt=0.1, max_episode_steps=20,
)  # fmt: skip


def dots(count: int, steps: int, generator: torch.Generator) -> SequenceBatch:
    """Walks of a dot in a noisy picture, with its position beside it."""
    actions = torch.rand(count, steps, 2, generator=generator) * 2 - 1
    path = [torch.rand(count, 2, generator=generator) * 1.6 - 0.8]
    for t in range(steps):
        path.append((path[-1] + 0.2 * actions[:, t]).clamp(-1, 1))
    position, grid = torch.stack(path, dim=1), torch.linspace(-1, 1, 16)
    distance = (grid[:, None] - position[..., 0, None, None]) ** 2 + (grid - position[..., 1, None, None]) ** 2
    noise = torch.rand(distance.shape, generator=generator)
    picture = (135 * torch.exp(-distance / 0.08) + 120 * noise).to(torch.uint8)
    obs = {"pixels": picture.unsqueeze(-1).repeat(1, 1, 1, 1, 3), "position": position}
    nothing = torch.zeros(count, steps)
    return SequenceBatch(obs, actions, nothing, nothing > 0, obs, torch.zeros(count, steps + 1).long(), nothing)


def read_without_vectors(vector_dropout: float) -> Tensor:
    """R^2 `[2]` of the position that a trained model's own read-out finds in latents of pictures alone.

    A read-out fitted anew to such latents would find more, also without dropout: convolutions that were taught nothing
    still pass on where a dot is. Seeds differ; bounds are those of this one, with room.
    """
    generator = torch.Generator().manual_seed(1)
    options = WorldModelOptions(encoder="learned", latent_dim=8, hidden_dim=32, channels=(8,), ensemble_size=1)
    model = WorldModel(DOT, options, generator_seed=1)
    first = dots(200, 4, generator).obs
    model.normalizer._merge(first["position"].flatten(0, 1).double())
    model.encoder.pixels["pixels"].calibrate(first["pixels"].flatten(0, 1))
    learning = LearnerOptions(learning_rate=5e-3, warmup=10, time_to_goal=0.0, vector_dropout=vector_dropout)
    learner = Learner(model, learning, 120, generator)
    for _ in range(120):
        learner.update(dots(24, 3, generator))
    with torch.no_grad():
        held_out = dots(300, 1, generator).obs
        truth = model.probe_target(held_out)
        unknown = model.normalizer.unknown()["position"].expand_as(held_out["position"])
        assert model.probe is not None
        read = model.probe(model.encode({**held_out, "position": unknown}))
        return 1 - (read - truth).square().mean(dim=(0, 1)) / (truth - truth.mean(dim=(0, 1))).square().mean(dim=(0, 1))


def test_with_dropout_a_model_knows_from_pictures_what_vectors_would_say() -> None:
    assert read_without_vectors(0.5).min() > 0.75
    assert read_without_vectors(0.0).max() < 0.6  # its read-out relies on the vectors
