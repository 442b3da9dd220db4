"""One gradient step: which loss teaches what, every option, schedules, targets, and errors."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from forethought.agent.memory.sampler import SequenceBatch, SequenceSampler
from forethought.agent.memory.store import Episode, EpisodeStore, MemoryOptions
from forethought.agent.training.learner import Learner, LearnerError, LearnerOptions
from forethought.agent.world_model import losses
from forethought.envs.spec import EnvSpec

Maker = Callable[..., Any]
EVERYTHING = {"covariance": 1.0, "sigreg": 1.0, "straightening": 1.0}
"""Weights of the losses that presets switch on and off."""


@pytest.fixture(scope="module")
def spec(toy_spec: Maker) -> EnvSpec:
    """With a learned head for achieved goals, so that every loss has something to do."""
    found: EnvSpec = toy_spec("state", "achieved")
    return found


@pytest.fixture(scope="module")
def make_learner(spec: EnvSpec, toy_model: Maker) -> Callable[..., Learner]:
    def make(
        spec: EnvSpec = spec, total_updates: int = 10, model: Mapping[str, Any] = MappingProxyType({}), **options: Any
    ) -> Learner:
        generator = torch.Generator().manual_seed(0)
        return Learner(toy_model(spec, **model), LearnerOptions(**options), total_updates, generator)

    return make


@pytest.fixture(scope="module")
def store(spec: EnvSpec, toy_batch: Maker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EpisodeStore]:
    """Ten episodes of noise."""
    noise: SequenceBatch = toy_batch(spec, batch=10, length=12)
    episodes = [
        Episode(
            obs={k: v[i].numpy() for k, v in noise.obs.items()},
            actions=noise.actions[i].numpy(),
            rewards=noise.rewards[i].numpy(),
            success=np.zeros(12, np.bool_),
            terminated=False,
            truncated=True,
        )
        for i in range(10)
    ]
    with EpisodeStore.open(tmp_path_factory.mktemp("memory"), "a", spec, MemoryOptions(sync=False)) as opened:
        opened.append_many(episodes)
        yield opened


def sampler_of(store: EpisodeStore, spec: EnvSpec, options: LearnerOptions) -> SequenceSampler:
    """As the training loop makes it."""
    return SequenceSampler(
        store,
        spec,
        options.window,
        num_goals=options.goals_per_window,
        goal_power=options.goal_power,
        cache_bytes=options.cache_bytes,
    )


def gradients(learner: Learner, batch: SequenceBatch, term: str) -> set[str]:
    """Parts of the model that get a gradient from one loss: `encoder`, `dynamics`, ..."""
    learner.model.zero_grad(set_to_none=True)
    learner.losses(batch)[0][term].backward()
    taught = {n for n, p in learner.model.named_parameters() if p.grad is not None and (p.grad != 0).any()}
    return {name.split(".")[0] for name in taught}


# -- who teaches whom --------------------------------------------------------------------------------------------------

TAUGHT = {
    "prediction": {"encoder", "dynamics"},
    "inverse_dynamics": {"encoder", "inverse"},
    "variance": {"encoder"},
    "covariance": {"encoder"},
    "sigreg": {"encoder"},
    "straightening": {"encoder"},
    "achieved": {"encoder", "achieved"},
    "time_to_goal": {"time_to_goal"},
    "probe": {"probe"},
}


@pytest.mark.parametrize("recurrence", ["none", "gru"])
@pytest.mark.parametrize("term", TAUGHT)
def test_losses_teach_what_they_should(
    term: str, recurrence: str, spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    learner = make_learner(model={"recurrence": recurrence}, **EVERYTHING)
    belief = {"recurrence"} if recurrence == "gru" and "encoder" in TAUGHT[term] else set()
    assert gradients(learner, toy_batch(spec), term) == TAUGHT[term] | belief


@pytest.mark.parametrize("goal", ["observation", "achieved"])
def test_time_to_goal_teaches_the_encoder_by_the_part_that_is_asked_for(
    goal: str, toy_spec: Maker, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    spec = toy_spec("state", goal)

    def encoder_gradient(part: float) -> Tensor:
        learner = make_learner(spec, goal_gradient=part)
        learner.losses(toy_batch(spec))[0]["time_to_goal"].backward()
        return torch.cat([p.grad.flatten() for p in learner.model.encoder.parameters() if p.grad is not None])

    whole = encoder_gradient(1.0)
    assert (whole != 0).any()
    assert torch.allclose(encoder_gradient(0.25), 0.25 * whole, rtol=1e-4, atol=1e-8)


def test_there_is_a_case_for_every_loss(spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker) -> None:
    terms, _ = make_learner(**EVERYTHING).losses(toy_batch(spec))
    assert terms.keys() == TAUGHT.keys()


@pytest.mark.parametrize("ema_target", [0.0, 0.9])
def test_prediction_sends_no_gradient_into_its_targets(
    ema_target: float, spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    batch: SequenceBatch = toy_batch(spec)
    obs = {k: v.clone().requires_grad_() for k, v in batch.obs.items()}
    terms, _ = make_learner(ema_target=ema_target).losses(dataclasses.replace(batch, obs=obs))
    terms["prediction"].backward()
    for value in obs.values():
        assert value.grad is not None
        assert (value.grad[:, 0] != 0).any()  # where the prediction starts
        assert (value.grad[:, 1:] == 0).all()  # what it is compared with


def test_losses_without_weight_are_not_computed(
    spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    off = dict.fromkeys(TAUGHT.keys() - {"probe"}, 0.0)
    terms, _ = make_learner(**off).losses(toy_batch(spec))
    assert terms.keys() == {"probe"}


def test_without_a_learned_goal_space_or_vectors_there_is_less_to_learn(
    toy_spec: Maker, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    terms, _ = make_learner(toy_spec("pixels"), **EVERYTHING).losses(toy_batch(toy_spec("pixels")))
    assert terms.keys() == TAUGHT.keys() - {"achieved", "probe"}


# -- values ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_prediction_is_open_loop_from_the_first_latent(
    spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    learner, batch = make_learner(rho=0.5), toy_batch(spec, length=3)
    model = learner.model
    terms, z = learner.losses(batch)
    assert torch.equal(z, model.encode_sequence(batch.obs, batch.actions))
    state = z[:, 0].expand(model.members, -1, -1)
    expected, weights = torch.zeros(()), [1.0, 0.5, 0.25]
    for t in range(3):
        state = model.step(state, batch.actions[:, t])
        expected += weights[t] * (state - z[:, t + 1]).square().mean()
    assert torch.allclose(terms["prediction"], expected / sum(weights), rtol=1e-4)


@torch.no_grad()
def test_inverse_dynamics_compares_normalised_actions(
    spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    learner, batch = make_learner(), toy_batch(spec)
    terms, z = learner.losses(batch)
    guess = learner.model.inverse(z[:, :-1], z[:, 1:])
    assert torch.allclose(terms["inverse_dynamics"], F.mse_loss(guess, learner.model.normalize_action(batch.actions)))


@torch.no_grad()
@pytest.mark.parametrize(
    ("variant", "std"),
    [({}, 1.0), ({"latent_norm": "layernorm"}, 1.0), ({"latent_norm": "simnorm"}, 0.1), ({"recurrence": "gru"}, 0.5)],
)
def test_latents_are_spread_as_far_as_their_architecture_lets_them(
    variant: dict[str, Any], std: float, spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    terms, z = make_learner(model=variant, covariance=1.0).losses(toy_batch(spec))
    latents = z.flatten(0, 1)
    assert terms["variance"] > 0
    assert torch.allclose(terms["variance"], losses.variance_loss(latents, std))
    assert torch.allclose(terms["covariance"], losses.covariance_loss(latents))


@torch.no_grad()
@pytest.mark.parametrize("log_time", [False, True])
@pytest.mark.parametrize("expectile", [0.5, 0.2])
@pytest.mark.parametrize("goal", ["observation", "achieved"])
def test_time_to_goal_by_hand(
    goal: str,
    expectile: float,
    log_time: bool,
    toy_spec: Maker,
    make_learner: Callable[..., Learner],
    toy_batch: Maker,
) -> None:
    spec = toy_spec("state", goal)
    learner = make_learner(spec, expectile=expectile, log_time=log_time)
    batch: SequenceBatch = toy_batch(spec, batch=5, pairs=4)
    terms, z = learner.losses(batch)
    total, weights = 0.0, 0.0
    for b in range(5):
        for p in range(4):
            obs = {k: v[b, p] for k, v in batch.goal_obs.items()}
            goal_obs = obs if goal == "observation" else {"desired_goal": obs["achieved_goal"]}
            state = z[b, batch.goal_index[b, p]]
            steps, true = learner.model.steps_to_goal(state, learner.model.embed_goal(goal_obs)), batch.goal_steps[b, p]
            error = abs(float(steps.log1p() - true.log1p() if log_time else (steps - true) / 10))
            weight = 2 * ((1 - expectile) if steps > true else expectile)
            total += weight * (error**2 / 2 if error < 1 else error - 0.5)
            weights += weight
    assert float(terms["time_to_goal"]) == pytest.approx(total / weights, rel=1e-3)


@torch.no_grad()
def test_burn_in_only_warms_the_belief(toy_spec: Maker, make_learner: Callable[..., Learner], toy_batch: Maker) -> None:
    spec = toy_spec()
    learner, batch = make_learner(spec, model={"recurrence": "gru"}, window=4, burn_in=2), toy_batch(spec, length=4)
    terms, z = learner.losses(batch)
    assert torch.equal(z, learner.model.encode_sequence(batch.obs, batch.actions)[:, 2:])
    state = z[:, 0].expand(learner.model.members, -1, -1)
    first = (learner.model.step(state, batch.actions[:, 2]) - z[:, 1]).square().mean()
    second = (
        learner.model.step(learner.model.step(state, batch.actions[:, 2]), batch.actions[:, 3]) - z[:, 2]
    ).square()
    assert torch.allclose(terms["prediction"], (first + second.mean()) / 2, rtol=1e-4)
    # pairs that begin before its end do not count
    cold = batch.goal_index < 2
    assert 0 < cold.sum() < cold.numel()
    moved = dataclasses.replace(batch, goal_steps=batch.goal_steps + 50 * cold)
    assert torch.equal(learner.losses(moved)[0]["time_to_goal"], terms["time_to_goal"])
    warm = dataclasses.replace(batch, goal_steps=batch.goal_steps + 50 * ~cold)
    assert not torch.equal(learner.losses(warm)[0]["time_to_goal"], terms["time_to_goal"])
    none = dataclasses.replace(batch, goal_index=torch.zeros_like(batch.goal_index))
    assert float(learner.losses(none)[0]["time_to_goal"]) == 0.0


@torch.no_grad()
@pytest.mark.parametrize("ema_target", [0.0, 0.9])
def test_prediction_begins_at_moments_that_are_drawn(
    ema_target: float, toy_spec: Maker, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    spec, belief = toy_spec(), {"recurrence": "gru"}
    cut = {"window": 8, "burn_in": 1, "prediction_steps": 3, "rho": 0.5, "ema_target": ema_target}
    learner, batch = make_learner(spec, model=belief, **cut), toy_batch(spec, length=8)
    _, begins, _ = learner._circumstances(batch)
    assert begins.shape == (6, 2)  # as many as there is room for
    many = torch.cat([learner._circumstances(batch)[1] for _ in range(50)]).flatten()
    shares = many.bincount(minlength=5) / len(many)
    assert torch.allclose(shares, torch.tensor([3, 1, 1, 1, 3]) / 9, atol=0.06)  # so that the ends are met as well
    terms, z = learner._losses(batch, batch, None, begins, terminates=False)
    assert z.shape[1] == 8  # everything else is learned from whole windows
    errors, weights = [], [4 / 7, 2 / 7, 1 / 7]
    for window, piece in itertools.product(range(6), range(2)):
        begin = int(begins[window, piece])
        state = z[window, begin].expand(learner.model.members, 1, -1)
        for step, weight in enumerate(weights):
            state = learner.model.step(state, batch.actions[window : window + 1, 1 + begin + step])
            errors.append(weight * (state - z[window, begin + step + 1]).square().mean())
    assert torch.allclose(terms["prediction"], torch.stack(errors).sum() / 12, rtol=1e-4)
    whole, at_once = (make_learner(spec, model=belief, **{**cut, "prediction_steps": s}) for s in (7, None))
    same = [made.losses(batch)[0] for made in (whole, at_once)]
    assert all(torch.equal(same[0][name], same[1][name]) for name in same[0])


# -- updates -----------------------------------------------------------------------------------------------------------


def test_an_update_reports_finite_scalars(
    spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    learner = make_learner(**EVERYTHING, variance=0.5)
    metrics = learner.update(toy_batch(spec))
    assert metrics.keys() == {f"loss/{name}" for name in TAUGHT} | {
        "loss/total",
        "optim/grad_norm",
        "latent/batch_std",
    }
    assert all(v.ndim == 0 and torch.isfinite(v) and not v.requires_grad for v in metrics.values())
    weights = {name: getattr(learner.options, name, 1.0) for name in TAUGHT}
    assert float(metrics["loss/total"]) == pytest.approx(
        sum(float(metrics[f"loss/{name}"]) * weight for name, weight in weights.items()), rel=1e-5
    )
    assert learner.updates == 1
    assert not learner.model.training


def test_updates_are_deterministic_and_leave_the_global_generator_alone(
    spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    before, results = torch.get_rng_state(), []
    for _ in range(2):
        learner = make_learner(**EVERYTHING)
        for seed in range(3):
            learner.update(toy_batch(spec, seed=seed))
        results.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert torch.equal(*results)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loss_that_is_not_finite_changes_nothing(
    spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    learner, batch = make_learner(), toy_batch(spec)
    learner.update(batch)
    before = [p.detach().clone() for p in learner.model.parameters()]
    bad = dataclasses.replace(batch, actions=torch.full_like(batch.actions, torch.nan))
    with pytest.raises(LearnerError, match=r"gradient norm must be finite, got nan at update 1: .*'prediction': nan"):
        learner.update(bad)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.model.parameters(), strict=True))
    assert learner.updates == 1
    learner.update(batch)  # and it can go on


@pytest.mark.parametrize("cosine", [True, False])
def test_learning_rate_warms_up_and_falls(cosine: bool, make_learner: Callable[..., Learner]) -> None:
    learner, rates = make_learner(learning_rate=0.5, warmup=10, cosine=cosine, total_updates=100), []
    for learner.updates in range(121):
        rates.append(learner.learning_rate())
    fall = [1 - 0.9 * (1 - np.cos(np.pi * t / 100)) / 2 if cosine else 1.0 for t in range(100)] + [
        0.1 if cosine else 1
    ] * 21
    assert rates == pytest.approx([0.5 * min(1, (t + 1) / 10) * fall[t] for t in range(121)])


def test_the_learning_rate_reaches_the_optimizer(
    spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    learner = make_learner(warmup=4, cosine=False, learning_rate=0.01)
    for expected in (0.0025, 0.005, 0.0075, 0.01, 0.01):
        learner.update(toy_batch(spec))
        assert [group["lr"] for group in learner.optimizer.param_groups] == pytest.approx([expected])


def test_the_target_sees_in_the_scales_of_the_model(
    spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker
) -> None:
    learner, batch = make_learner(ema_target=0.9), toy_batch(spec)
    assert learner.target is not None
    for updates in (0, 3):  # before the first, and once it follows
        for _ in range(updates):
            learner.update(batch)
        for name, buffer in learner.model.named_buffers():
            if name.endswith(("mean", "squares")):
                buffer.add_(1.0)
        learner.losses(batch)
        for (name, kept), now in zip(learner.target.module.named_buffers(), learner.model.buffers(), strict=True):
            assert torch.equal(kept, now), name


def test_the_target_follows_slowly(spec: EnvSpec, make_learner: Callable[..., Learner], toy_batch: Maker) -> None:
    learner, batch = make_learner(ema_target=0.9, warmup=0, window=4, burn_in=1), toy_batch(spec)

    def prediction(target: AveragedModel | None) -> Tensor:
        learner.target = target
        return learner.losses(batch)[0]["prediction"].detach()

    assert learner.target is not None
    learner.update(batch)
    average = learner.target
    target = dict(average.module.named_parameters())
    for name, parameter in learner.model.named_parameters():
        assert torch.equal(target[name], parameter)  # starts from the first weights that learned something
    assert torch.allclose(prediction(average), prediction(None))  # so that the targets are the same, step by step
    learner.target = average
    for seed in (1, 2):
        before = {k: v.clone() for k, v in target.items()}
        learner.update(toy_batch(spec, seed=seed))
        for name, parameter in learner.model.named_parameters():
            assert torch.allclose(target[name], 0.9 * before[name] + 0.1 * parameter, atol=1e-6), name
            assert target[name].grad is None
    assert not torch.allclose(prediction(average), prediction(None))


# -- options -----------------------------------------------------------------------------------------------------------

# field -> (a value that is not the default, options under which it matters)
CHANGES: dict[str, tuple[Any, dict[str, Any]]] = {
    "batch_size": (5, {}),
    "window": (5, {}),
    "burn_in": (1, {}),
    "prediction_steps": (2, {}),
    "goals_per_window": (2, {}),
    "goal_power": (1.0, {}),
    "learning_rate": (2e-3, {}),
    "weight_decay": (0.1, {}),
    "grad_clip": (0.01, {}),
    "warmup": (2, {}),
    "cosine": (False, {}),
    "rho": (0.5, {}),
    "prediction": (0.5, {}),
    "inverse_dynamics": (0.5, {}),
    "variance": (0.5, {}),
    "covariance": (0.5, {}),
    "sigreg": (0.5, {}),
    "straightening": (0.5, {}),
    "time_to_goal": (0.5, {}),
    "goal_gradient": (0.5, {}),
    "log_time": (True, {}),
    "expectile": (0.2, {}),
    "far": (5.0, {"distance": "quasimetric"}),
    "achieved": (0.5, {}),
    "ema_target": (0.9, {}),
}


ELSEWHERE = {
    "cache_bytes", "focus_share", "even_share", "reward", "value", "termination", "entropy", "saturation",
    "distillation", "target_decay", "image_shift", "vector_dropout", "macro",
}  # fmt: skip
"""Tested below, in test_learner_control.py, test_augmentation.py, world_model/test_macro.py and, both shares, in
memory/test_sampler.py."""
SAME = {"compile"}
"""Computes the same faster, see test_compilation.py."""


@pytest.mark.parametrize(
    "option", [f.name for f in dataclasses.fields(LearnerOptions) if f.name not in ELSEWHERE | SAME]
)
def test_every_option_changes_the_result(
    option: str, spec: EnvSpec, make_learner: Callable[..., Learner], store: EpisodeStore
) -> None:
    assert option in CHANGES, f"add {option} to CHANGES, with a value that changes the result"

    def run(distance: str = "pairwise", **options: Any) -> Tensor:
        options = {"batch_size": 4, "window": 4, **options}
        learner = make_learner(**options, total_updates=3, model={"distance": distance})
        sampler, rng = sampler_of(store, spec, learner.options), np.random.default_rng(0)
        for _ in range(3):
            learner.update(sampler.sample(learner.options.batch_size, rng))
        return torch.cat([p.detach().flatten() for p in learner.model.parameters()])

    value, context = CHANGES[option]
    base = run(**context)
    assert torch.equal(base, run(**context)), "the comparison must be deterministic"
    assert not torch.equal(base, run(**{**context, option: value}))


def test_cache_bytes_changes_where_batches_come_from_and_nothing_else(
    spec: EnvSpec, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    samplers = [sampler_of(store, spec, LearnerOptions(window=4, cache_bytes=size)) for size in (1 << 20, 0)]
    reads, reading = [], EpisodeStore.reading
    monkeypatch.setattr(EpisodeStore, "reading", lambda self: reads.append(1) or reading(self))
    batches, counts = [], []
    for sampler in samplers:
        batches.append(sampler.sample(8, np.random.default_rng(0)))
        counts.append(len(reads))
    assert counts[0] == 0 < counts[1]
    assert torch.equal(batches[0].actions, batches[1].actions)
    assert all(torch.equal(batches[0].obs[k], batches[1].obs[k]) for k in spec.obs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"goals_per_window": 0}, "goals_per_window must be at least 1, got 0"),
        ({"window": 4, "burn_in": 4}, "burn_in must be between 0 and window-1=3, got 4"),
        ({"burn_in": -1}, "burn_in must be between 0 and window-1=7, got -1"),
        ({"prediction_steps": 0}, "prediction_steps must be between 1 and window - burn_in = 8, got 0"),
        ({"burn_in": 2, "prediction_steps": 7}, "prediction_steps must be between 1 and window - burn_in = 6, got 7"),
        (
            {"window": 3, "burn_in": 2, "straightening": 0.1},
            "window - burn_in must be at least 2 with straightening, got 1",
        ),
        ({"vector_dropout": 1.1}, "vector_dropout must be in [0, 1], got 1.1"),
        ({"ema_target": 1.0}, "ema_target must be in [0, 1), got 1.0"),
        ({"expectile": 0.0}, "expectile must be in (0, 1), got 0.0"),
        ({"expectile": 1.0}, "expectile must be in (0, 1), got 1.0"),
        ({"rho": 0.0}, "rho must be in (0, 1], got 0.0"),
        ({"rho": 1.1}, "rho must be in (0, 1], got 1.1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive, got 0.0"),
        ({"grad_clip": 0.0}, "grad_clip must be positive, got 0.0"),
        ({"goal_power": float("nan")}, "goal_power must be positive, got nan"),
        *(
            ({name: -0.1}, f"{name} must be at least 0, got -0.1")
            for name in [*sorted(TAUGHT.keys() - {"probe"}), "weight_decay", "warmup", "image_shift"]
        ),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(LearnerError) as error:
        LearnerOptions(**options)
    assert str(error.value) == message
