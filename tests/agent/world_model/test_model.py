"""The contract of world models, for every variant; what single variants promise beyond it; and every option."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from forethought.agent.memory.store import Episode, EpisodeStore, MemoryOptions
from forethought.agent.world_model.distance import Quasimetric
from forethought.agent.world_model.encoders import ObsEncoder, PixelEncoder
from forethought.agent.world_model.model import WorldModel, WorldModelError, WorldModelOptions
from forethought.envs.spec import ArraySpec, EnvSpec, GoalSpec

Maker = Callable[..., Any]

# name -> what is observed, how goals are stated, options of the model
VARIANTS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    "learned": ("state", "observation", {}),
    "identity": ("state", "observation", {"encoder": "identity"}),
    "identity, achieved": ("state", "achieved", {"encoder": "identity"}),
    "augmented": ("state", "observation", {"encoder": "augmented"}),
    "augmented, pixels, gru": ("both", "achieved", {"encoder": "augmented", "recurrence": "gru"}),
    "layernorm": ("state", "observation", {"latent_norm": "layernorm"}),
    "simnorm": ("state", "observation", {"latent_norm": "simnorm"}),
    "gru": ("state", "observation", {"recurrence": "gru"}),
    "gru, layernorm": ("state", "achieved", {"recurrence": "gru", "latent_norm": "layernorm"}),
    "gru, simnorm, pixels": ("pixels", "observation", {"recurrence": "gru", "latent_norm": "simnorm"}),
    "one member": ("state", "observation", {"ensemble_size": 1}),
    "three members": ("both", None, {"ensemble_size": 3}),
    "pixels": ("pixels", "observation", {}),
    "pixels, achieved": ("pixels", "achieved", {"ensemble_size": 1}),
    "both": ("both", "observation", {}),
    "both, gru, achieved": ("both", "achieved", {"recurrence": "gru", "ensemble_size": 3}),
    "no goal": ("state", None, {}),
    "quasimetric": ("state", "observation", {"distance": "quasimetric"}),
    "quasimetric, achieved": ("both", "achieved", {"distance": "quasimetric"}),
}
NORMS = [name for name, (_, _, options) in VARIANTS.items() if "latent_norm" in options]


@dataclass
class Case:
    spec: EnvSpec
    model: WorldModel
    obs: Callable[..., dict[str, Tensor]]
    actions: Callable[..., Tensor]

    def goal_obs(self, lead: tuple[int, ...], seed: int = 5) -> dict[str, Tensor]:
        if self.model.achieved is None:
            return self.obs(lead, seed)
        return {"desired_goal": torch.randn(*lead, 2, generator=torch.Generator().manual_seed(seed))}


@pytest.fixture(scope="module")
def make_case(toy_spec: Maker, toy_model: Maker, toy_obs: Maker, toy_actions: Maker) -> Callable[[str], Case]:
    def make(name: str) -> Case:
        observation, goal, options = VARIANTS[name]
        spec = toy_spec(observation, goal)
        return Case(
            spec,
            toy_model(spec, **options),
            lambda lead, seed=0: toy_obs(spec, lead, seed),
            lambda lead, seed=0: toy_actions(spec, lead, seed),
        )

    return make


@pytest.fixture(scope="module", params=VARIANTS)
def case(request: pytest.FixtureRequest, make_case: Callable[[str], Case]) -> Case:
    return make_case(request.param)


@pytest.mark.parametrize("lead", [(), (5,), (2, 3)])
@torch.no_grad()
def test_shapes(case: Case, lead: tuple[int, ...]) -> None:
    model, z = case.model, case.model.encode(case.obs(lead))
    assert z.shape == (*lead, model.latent_dim)
    assert z.dtype == torch.float32
    assert torch.isfinite(z).all()
    assert torch.equal(model(case.obs(lead)), z)
    goal = model.embed_goal(case.goal_obs(lead))
    assert goal.shape == model.goal_point(z).shape == (*lead, model.goal_dim)
    assert model.steps_to_goal(z, goal).shape[1:] == model.goal_distance(z, goal).shape == lead
    assert (model.steps_to_goal(z, goal) >= 0).all()
    assert model.inverse(z, z).shape == (*lead, case.spec.action_dim)
    vectors = sum(array.size for array in case.spec.obs.values() if not array.is_image)
    if model.probe is None:
        assert vectors == 0
    else:
        assert model.probe(z).shape == model.probe_target(case.obs(lead)).shape == (*lead, vectors)


@torch.no_grad()
def test_goals_broadcast_over_candidates(case: Case) -> None:
    z = case.model.encode(case.obs((2, 3, 4)))
    goal = case.model.embed_goal(case.goal_obs((2,)))
    for read in (case.model.steps_to_goal, case.model.goal_distance):
        shared = read(z, goal[:, None, None])
        assert shared.shape[-3:] == (2, 3, 4)
        assert torch.allclose(shared, read(z, goal[:, None, None].expand(2, 3, 4, -1)), atol=1e-5)


@torch.no_grad()
def test_step_with_fewer_members_is_the_first_rows(case: Case) -> None:
    model, actions = case.model, case.actions((5,))
    z = model.encode(case.obs((5,))).expand(model.members, -1, -1)
    everyone = model.step(z, actions)
    assert everyone.shape == (model.members, 5, model.latent_dim)
    for members in range(1, model.members):
        assert torch.allclose(model.step(z[:members], actions), everyone[:members], atol=1e-5)
    if model.members > 1:
        assert not torch.allclose(everyone[0], everyone[1], atol=1e-4)


@torch.no_grad()
def test_rows_do_not_see_each_other(case: Case) -> None:
    model, obs, actions, flip = case.model, case.obs((4,)), case.actions((4,)), torch.arange(3, -1, -1)
    z = model.encode(obs)
    turned = model.encode({k: v[flip] for k, v in obs.items()})
    assert torch.allclose(turned, z[flip], atol=1e-5)
    belief = model.observe(z, actions, obs)
    assert torch.allclose(model.observe(z[:1], actions[:1], {k: v[:1] for k, v in obs.items()}), belief[:1], atol=1e-5)
    ahead = model.step(z[None], actions)
    assert torch.allclose(model.step(z[None, 2:], actions[2:]), ahead[:, 2:], atol=1e-5)


@torch.no_grad()
def test_encode_sequence_is_repeated_observe(case: Case) -> None:
    obs, actions = case.obs((3, 5)), case.actions((3, 4))
    whole = case.model.encode_sequence(obs, actions)
    assert whole.shape == (3, 5, case.model.latent_dim)
    belief, last = None, None
    for t in range(5):
        belief = case.model.observe(belief, last, {k: v[:, t] for k, v in obs.items()})
        assert torch.allclose(whole[:, t], belief, atol=1e-5), t
        last = actions[:, t] if t < 4 else None


def test_initial_weights_follow_from_the_seed_alone(case: Case) -> None:
    before = torch.get_rng_state()
    one, two, other = (WorldModel(case.spec, case.model.options, generator_seed=seed) for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before), "the global generator must not move"
    for name, value in one.named_parameters():
        assert torch.equal(value, two.get_parameter(name))
    weights = {n: v for n, v in one.named_parameters() if n.endswith("weight") and v.ndim > 1}
    assert weights
    assert not any(torch.equal(v, other.get_parameter(n)) for n, v in weights.items())


@torch.no_grad()
def test_bfloat16_is_the_same_but_coarser(case: Case) -> None:
    half = WorldModel(case.spec, case.model.options).to(torch.bfloat16)
    half.load_state_dict(case.model.state_dict())

    def cast(obs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: v.bfloat16() if v.is_floating_point() else v for k, v in obs.items()}

    obs, goal_obs, actions = case.obs((8,)), case.goal_obs((8,)), case.actions((8,))
    z, z16 = case.model.encode(obs), half.encode(cast(obs))
    goal, goal16 = case.model.embed_goal(goal_obs), half.embed_goal(cast(goal_obs))
    pairs = [
        (z, z16),
        (goal, goal16),
        (case.model.step(z[None], actions), half.step(z16[None], actions.bfloat16())),
        (case.model.observe(z, actions, obs), half.observe(z16, actions.bfloat16(), cast(obs))),
        (case.model.steps_to_goal(z, goal), half.steps_to_goal(z16, goal16)),
    ]
    for fine, coarse in pairs:
        assert coarse.dtype == torch.bfloat16
        assert (fine - coarse.float()).abs().mean() < 0.05 * (1 + fine.abs().mean())


@torch.no_grad()
def test_extra_arrays_and_order_of_keys_do_not_matter(case: Case) -> None:
    obs = case.obs((3,))
    shuffled = {"unknown": torch.zeros(3, 7), **dict(reversed(obs.items()))}
    assert torch.equal(case.model.encode(shuffled), case.model.encode(obs))


@torch.no_grad()
def test_every_input_matters(case: Case) -> None:
    obs, actions = case.obs((3,)), case.actions((3,))
    z = case.model.encode(obs)
    for key, value in obs.items():
        assert not torch.allclose(case.model.encode({**obs, key: value.flip(0)})[0], z[0], atol=1e-5), key
    ahead = case.model.step(z[None], actions)
    for dim in range(actions.shape[1]):
        changed = actions.clone()
        changed[:, dim] = case.spec.action_high[dim]
        assert not torch.allclose(case.model.step(z[None], changed), ahead, atol=1e-6), dim


# -- units -------------------------------------------------------------------------------------------------------------


def test_bounds_are_not_rounded_in_a_copy_for_planning(toy_spec: Maker) -> None:
    spec = dataclasses.replace(
        toy_spec("state", "observation"), action_low=(1000.0, 100.0), action_high=(1010.0, 100.5)
    )
    model = WorldModel(spec, WorldModelOptions(latent_dim=8, hidden_dim=16))
    copied = model.frozen(torch.bfloat16)
    for action in (spec.action_low, spec.action_high):
        given = torch.tensor(action)
        assert torch.equal(copied.normalize_action(given), model.normalize_action(given))
        assert torch.equal(copied.denormalize_action(model.normalize_action(given)), given)


def test_actions_are_normalised_by_asymmetric_bounds(toy_model: Maker) -> None:
    normalize = toy_model().normalize_action
    assert torch.allclose(normalize(torch.tensor([-1.0, 0.0])), torch.tensor([-1.0, -1.0]))
    assert torch.allclose(normalize(torch.tensor([3.0, 0.5])), torch.tensor([1.0, 1.0]))
    assert torch.allclose(normalize(torch.tensor([1.0, 0.25])), torch.tensor([0.0, 0.0]))
    assert torch.allclose(normalize(torch.tensor([[2.0, 0.125]])), torch.tensor([[0.5, -0.5]]))


@pytest.mark.parametrize("recurrence", ["none", "gru"])
@torch.no_grad()
def test_only_normalised_actions_reach_the_networks(
    toy_spec: Maker, toy_model: Maker, toy_obs: Maker, recurrence: str
) -> None:
    spec = toy_spec()
    other = dataclasses.replace(spec, action_low=(-10.0, -1.0), action_high=(10.0, 1.0))
    one, two = toy_model(spec, recurrence=recurrence), toy_model(other, recurrence=recurrence)
    obs = toy_obs(spec, (1,))
    z, action, same = one.encode(obs), torch.tensor([[3.0, 0.25]]), torch.tensor([[10.0, 0.0]])
    assert torch.allclose(one.step(z[None], action), two.step(z[None], same), atol=1e-6)
    assert torch.allclose(one.observe(z, action, obs), two.observe(z, same, obs), atol=1e-6)


@torch.no_grad()
def test_a_belief_stands_beside_what_is_measured(
    toy_spec: Maker, toy_model: Maker, toy_obs: Maker, toy_actions: Maker
) -> None:
    spec = toy_spec("both")
    model = toy_model(spec, encoder="augmented", recurrence="gru", latent_dim=5)
    assert (model.measured_dim, model.latent_dim) == (7, 12)
    obs, actions = toy_obs(spec, (4, 3)), toy_actions(spec, (4, 2))
    z = model.encode_sequence(obs, actions)
    assert torch.equal(z[..., :7], model.probe_target(obs))  # is seen anew at every step, whatever was before
    last = model.observe(z[:, 1], actions[:, 1], {k: v[:, 2] for k, v in obs.items()})
    assert torch.allclose(last, z[:, 2], atol=1e-6)
    forgotten = model.encode({k: v[:, 2] for k, v in obs.items()})
    assert torch.equal(forgotten[:, :7], last[:, :7])
    assert not torch.isclose(forgotten[:, 7:], last[:, 7:]).all(dim=-1).any()
    # nothing but the belief is remembered
    other = torch.cat([z[:, 1, :7] + 1, z[:, 1, 7:]], dim=-1)
    assert torch.equal(model.observe(other, actions[:, 1], {k: v[:, 2] for k, v in obs.items()}), last)


@torch.no_grad()
def test_observations_and_goals_are_normalised_by_the_statistics(toy_spec: Maker, toy_model: Maker) -> None:
    spec = toy_spec("state", "achieved")
    model, scaled = toy_model(spec), toy_model(spec)
    mean, std, count = torch.arange(9.0).double(), 1 + torch.arange(9.0).double(), 100
    scaled.normalizer.load_state_dict({"count": torch.tensor(count), "mean": mean, "squares": std**2 * count})
    shift = {"achieved_goal": (mean[:2], std[:2]), "grid": (mean[2:6], std[2:6]), "position": (mean[6:], std[6:])}
    plain = {k: torch.rand(4, *array.shape) for k, array in spec.obs.items()}
    moved = {
        k: v * shift[k][1].view(spec.obs[k].shape).float() + shift[k][0].view(spec.obs[k].shape).float()
        for k, v in plain.items()
    }
    assert torch.allclose(scaled.encode(moved), model.encode(plain), atol=1e-4)
    flat = torch.cat([plain[k].flatten(1) for k in ("achieved_goal", "grid", "position")], dim=1)
    assert torch.allclose(scaled.probe_target(moved), flat, atol=1e-5)
    assert torch.allclose(
        scaled.embed_goal({"desired_goal": moved["achieved_goal"]}), plain["achieved_goal"], atol=1e-5
    )


@torch.no_grad()
def test_statistics_come_from_the_store(toy_spec: Maker, toy_model: Maker, toy_batch: Maker, tmp_path: Path) -> None:
    spec = toy_spec("both")
    noise = toy_batch(spec, batch=3, length=5)
    episodes = [
        Episode(
            obs={k: v[i].numpy() for k, v in noise.obs.items()},
            actions=noise.actions[i].numpy(),
            rewards=np.zeros(5, np.float32),
            success=np.zeros(5, np.bool_),
            terminated=False,
            truncated=True,
        )
        for i in range(3)
    ]
    model = toy_model(spec)
    pixels = model.encoder.pixels["image"]
    with EpisodeStore.open(tmp_path / "memory", "a", spec, MemoryOptions(sync=False)) as store:
        ids = store.append_many(episodes)
        model.calibrate(store, ids[:2])
        background = pixels.background.clone()
        model.calibrate(store, ids[2:])
    assert (background - 0.5).abs().mean() > 0.05
    assert pixels.contrast != 1
    assert torch.equal(pixels.background, background)  # pictures once, from what came first
    assert int(model.normalizer.count) == 18  # vectors always
    assert torch.allclose(model.normalizer.mean.float()[4:], noise.obs["position"].mean(dim=(0, 1)), atol=1e-5)


# -- what variants promise ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_identity_latents_are_the_normalised_state(make_case: Callable[[str], Case]) -> None:
    case = make_case("identity")
    obs = case.obs((3,))
    assert torch.equal(case.model.encode(obs), torch.cat([obs["grid"].flatten(1), obs["position"]], dim=1))
    assert case.model.latent_dim == 7
    assert case.model.goal_dim == 7


@torch.no_grad()
def test_augmented_latents_begin_with_the_normalised_state(make_case: Callable[[str], Case], toy_model: Maker) -> None:
    case = make_case("augmented")
    obs = case.obs((3,))
    z = case.model.encode(obs)
    assert torch.equal(z[:, :7], torch.cat([obs["grid"].flatten(1), obs["position"]], dim=1))
    assert torch.equal(z[:, 7:], toy_model(case.spec).encode(obs))  # the features that a learned encoder has alone
    assert case.model.latent_dim == case.model.goal_dim == 7 + 16


@torch.no_grad()
def test_augmented_latents_of_pictures_are_learned_features(toy_spec: Maker, toy_model: Maker, toy_obs: Maker) -> None:
    spec = toy_spec("pixels")
    obs = toy_obs(spec, (3,))
    assert torch.equal(toy_model(spec, encoder="augmented").encode(obs), toy_model(spec).encode(obs))


@pytest.mark.parametrize("name", NORMS)
@torch.no_grad()
def test_latents_are_bounded_wherever_they_come_from(make_case: Callable[[str], Case], name: str) -> None:
    case = make_case(name)
    model, obs, actions = case.model, case.obs((3,)), case.actions((3,))
    z = model.encode(obs)
    for latents in (z, model.step(z[None], actions), model.observe(z, actions, obs)):
        if model.options.latent_norm == "simnorm":
            groups = latents.unflatten(-1, (8, -1))
            assert (groups >= 0).all()
            assert torch.allclose(groups.sum(-2), torch.ones(()))
        else:
            assert torch.allclose(latents.mean(-1), torch.zeros(()), atol=1e-5)
            assert torch.allclose(latents.var(-1, unbiased=False), torch.ones(()), atol=1e-2)


@torch.no_grad()
def test_only_a_recurrent_belief_depends_on_the_past(make_case: Callable[[str], Case]) -> None:
    for name, depends in (("learned", False), ("gru", True)):
        case = make_case(name)
        obs, actions, z = case.obs((2,)), case.actions((2,)), case.model.encode(case.obs((2,), 3))
        belief = case.model.observe(z, actions, obs)
        assert torch.equal(belief, case.model.encode(obs)) != depends
        assert torch.equal(belief, case.model.observe(z + 1, actions, obs)) != depends
        assert torch.equal(belief, case.model.observe(z, actions.flip(0), obs)) != depends


@torch.no_grad()
def test_goal_space(make_case: Callable[[str], Case]) -> None:
    case = make_case("learned")
    z = case.model.encode(case.obs((3,)))
    assert torch.equal(case.model.goal_point(z), z)
    assert torch.equal(case.model.embed_goal(case.obs((3,))), z)
    assert torch.equal(case.model.goal_distance(z, z), torch.zeros(3))
    assert torch.allclose(case.model.goal_distance(z, z + 2), torch.full((3,), 4.0))
    case = make_case("both, gru, achieved")
    assert case.model.goal_dim == 2
    goal = torch.tensor([[0.5, -1.0]])
    assert torch.equal(case.model.embed_goal({"desired_goal": goal}), goal)  # no statistics yet


# -- options -----------------------------------------------------------------------------------------------------------

# field -> a value that is not the default
CHANGES: dict[str, Any] = {
    "encoder": "identity",
    "latent_dim": 32,
    "hidden_dim": 20,
    "encoder_layers": 1,
    "channels": (4,),
    "pooling": "keypoints",
    "latent_norm": "layernorm",
    "dynamics_layers": 1,
    "ensemble_size": 3,
    "recurrence": "gru",
    "probe": False,
    "distance": "quasimetric",
    "distance_members": 3,
    "distance_floor": False,
}


ELSEWHERE = {"value_members", "bins", "discount", "macro_stride", "macro_dim"}
"""Tested in test_learner_control.py and test_macro.py."""


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(WorldModelOptions) if f.name not in ELSEWHERE])
@torch.no_grad()
def test_every_option_changes_the_result(
    field: str, toy_spec: Maker, toy_model: Maker, toy_obs: Maker, toy_actions: Maker
) -> None:
    assert field in CHANGES, f"add {field} to CHANGES, with a value that changes the result"
    spec = toy_spec("state" if field == "encoder" else "both")

    def run(**options: Any) -> list[Tensor]:
        model = toy_model(spec, **options)
        if isinstance(model.time_to_goal, Quasimetric):
            model.time_to_goal.get_buffer("pace").fill_(1e-3)
        z = model.encode(toy_obs(spec, (2,)))
        readable = torch.tensor(model.probe is not None)
        steps = model.steps_to_goal(z, z.flip(0))
        return [z, model.step(z.expand(model.members, -1, -1), toy_actions(spec, (2,))), readable, steps]

    context = {"distance": "quasimetric"} if field in ("distance_members", "distance_floor") else {}
    base, same, changed = run(**context), run(**context), run(**{**context, field: CHANGES[field]})
    assert all(torch.equal(a, b) for a, b in zip(base, same, strict=True)), "the comparison must be deterministic"
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(base, changed, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "conv"}, "encoder must be one of augmented, learned, identity, got 'conv'"),
        ({"pooling": "mean"}, "pooling must be one of flatten, keypoints, got 'mean'"),
        ({"latent_norm": "batch"}, "latent_norm must be one of none, layernorm, simnorm, got 'batch'"),
        ({"recurrence": "lstm"}, "recurrence must be one of none, gru, got 'lstm'"),
        ({"latent_dim": 0}, "latent_dim must be at least 1, got 0"),
        ({"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ({"encoder_layers": 0}, "encoder_layers must be at least 1, got 0"),
        ({"dynamics_layers": 0}, "dynamics_layers must be at least 1, got 0"),
        ({"ensemble_size": 0}, "ensemble_size must be at least 1, got 0"),
        ({"channels": ()}, r"channels must be one or more positive numbers, got ()"),
        ({"channels": (4, 0)}, r"channels must be one or more positive numbers, got (4, 0)"),
        (
            {"encoder": "learned", "latent_dim": 20, "latent_norm": "simnorm"},
            "latent_dim must be a multiple of 8 with latent_norm=simnorm, got 20",
        ),
        (
            {"encoder": "identity", "latent_norm": "layernorm"},
            "latent_norm must be none with encoder=identity, where z holds the state itself, got 'layernorm'; "
            "encoder=learned takes it",
        ),
        (
            {"encoder": "augmented", "latent_norm": "layernorm"},
            "latent_norm must be none with encoder=augmented, where z holds the state itself, got 'layernorm'; "
            "encoder=learned takes it",
        ),
        (
            {"encoder": "identity", "recurrence": "gru"},
            "recurrence must be none with encoder=identity, where z is the state itself, got 'gru'",
        ),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldModelError) as error:
        WorldModelOptions(**options)
    assert str(error.value) == message


def test_options_that_do_not_fit_the_environment_are_refused(toy_spec: Maker) -> None:
    with pytest.raises(WorldModelError, match="encoder=identity reads vectors only, but 'image' is an image"):
        WorldModel(toy_spec("both"), WorldModelOptions(encoder="identity"))
    with pytest.raises(WorldModelError, match="images must be at least 32 pixels wide and high for 4 channels, got 16"):
        WorldModel(toy_spec("pixels"), WorldModelOptions(channels=(4, 4, 4, 4)))
    WorldModel(toy_spec("pixels"), WorldModelOptions(channels=(4, 4, 4)))  # just fits
    WorldModel(toy_spec("pixels"), WorldModelOptions(channels=(4, 4, 4, 4), pooling="keypoints"))  # the first quarters


@pytest.mark.parametrize("pooling", ["flatten", "keypoints"])
def test_a_goal_picture_stands_still(pooling: str) -> None:
    spec = EnvSpec(
        "Toy-v0", {"pixels": ArraySpec((16, 16, 6), "uint8")}, (-1.0,), (1.0,), 0.1, 10, GoalSpec("observation")
    )
    options = WorldModelOptions(encoder="learned", latent_dim=4, hidden_dim=8, channels=(4,), pooling=pooling)
    model = WorldModel(spec, options)
    frames = torch.randint(0, 256, (5, 16, 16, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    still = torch.cat([frames[..., 3:], frames[..., 3:]], dim=-1)
    encoder = model.encoder
    assert isinstance(encoder, ObsEncoder)
    cast(PixelEncoder, encoder.pixels["pixels"]).calibrate(frames)
    torch.testing.assert_close(model.embed_goal({"pixels": frames}), model.encode({"pixels": still}))
    torch.testing.assert_close(model.embed_reached({"pixels": frames}), model.embed_goal({"pixels": still}))
    assert model.sees_motion
    assert not torch.allclose(model.encode({"pixels": frames}), model.encode({"pixels": still}))
