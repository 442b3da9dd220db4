"""The world model as one module: encode, step, and read out, behind the `Dynamics` contract."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from ... import ForethoughtError
from ...envs.spec import EnvSpec
from ..memory.normalizer import Normalizer
from ..memory.store import EpisodeStore
from .control import ControlHeads, episode_discount
from .distance import PairwiseDistance, Quasimetric
from .dynamics import EnsembleDynamics
from .encoders import (
    AugmentedEncoder,
    IdentityEncoder,
    ObsEncoder,
    PixelEncoder,
    SimNorm,
    flat_vectors,
    mlp,
    newest_frame,
    stacked_frames,
)
from .fused import Fused, Judge
from .heads import InverseDynamicsHead, Probe
from .macro import MacroModel
from .stacked import StackedMLP

SIMNORM_GROUP = 8


class WorldModelError(ForethoughtError):
    """World-model options that contradict each other or the environment."""


@dataclass
class WorldModelOptions:
    """Architecture of the latent world model."""

    encoder: str = "augmented"
    """`augmented` (the normalised state and, beside it, learned features), `learned` (features alone; the same for
    images) or `identity` (the normalised state alone). With recurrence a belief takes the place of the features."""
    latent_dim: int = 32
    """Learned features in z, or with recurrence numbers of the belief."""
    hidden_dim: int = 256
    """Width of every MLP."""
    encoder_layers: int = 2
    """Hidden layers of the state encoder."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Channels of the convolutions of the pixel encoder."""
    pooling: str = "flatten"
    """What of the last convolution becomes features: `flatten` (all of it) or `keypoints` (where each channel responds
    most: for things that can be anywhere in the picture, and turn)."""
    latent_norm: str = "none"
    """What bounds z: `none`, or with encoder=learned `layernorm` or `simnorm`."""
    dynamics_layers: int = 2
    """Hidden layers of the predictor."""
    ensemble_size: int = 2
    """Predictors that are trained side by side; their disagreement drives exploration and risk."""
    recurrence: str = "none"
    """`none`, or `gru` for a belief over partially observed states."""
    distance: str = "pairwise"
    """Steps to a goal: `pairwise` (a regression on pairs of one episode) or `quasimetric` (joins episodes together)."""
    distance_members: int = 2
    """Quasimetrics trained side by side; their disagreement says where a distance is not to be trusted."""
    macro_stride: int = 0
    """Decisions that one macro-action stands for, in a model beside this one that jumps so far at once, see
    agent.configurator.guide; 0 for no such model. A learner.window holds at least as many."""
    macro_dim: int = 4
    """Numbers of a macro-action."""
    distance_floor: bool = True
    """Whether a quasimetric is never shorter than the fastest moves that were seen would take straight to the goal."""
    probe: bool = True
    """Train a read-out of the measured state, which teaches the model nothing and makes imagination readable."""
    value_members: int = 2
    """Value functions trained side by side, for control by reward; more of them know better what they do not know."""
    bins: int = 65
    """Bins of the distributions that reward and value are regressed as."""
    discount: float | None = None
    """Worth of the next decision's reward; None takes it from the length of an episode."""

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise WorldModelError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise WorldModelError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.macro_stride != 0 and self.macro_stride < 2:
            raise WorldModelError(f"macro_stride must be 0, for none, or at least 2, got {self.macro_stride}")
        if not 2 <= self.bins <= 256:
            raise WorldModelError(f"bins must be between 2 and 256, got {self.bins}")
        if self.discount is not None and not 0 <= self.discount < 1:
            raise WorldModelError(f"discount must be at least 0 and below 1, got {self.discount}")
        if not self.channels or min(self.channels) < 1:
            raise WorldModelError(f"channels must be one or more positive numbers, got {self.channels}")
        if self.latent_norm == "simnorm" and self.latent_dim % SIMNORM_GROUP:
            raise WorldModelError(
                f"latent_dim must be a multiple of {SIMNORM_GROUP} with latent_norm=simnorm, got {self.latent_dim}"
            )
        if self.encoder != "learned" and self.latent_norm != "none":
            raise WorldModelError(
                f"latent_norm must be none with encoder={self.encoder}, where z holds the state itself, "
                f"got {self.latent_norm!r}; encoder=learned takes it"
            )
        if self.encoder == "identity" and self.recurrence != "none":
            raise WorldModelError(
                f"recurrence must be none with encoder=identity, where z is the state itself, got {self.recurrence!r}"
            )


_CALIBRATION_EPISODES, _CALIBRATION_STRIDE = 200, 5

_COUNTS = (
    "latent_dim",
    "hidden_dim",
    "encoder_layers",
    "dynamics_layers",
    "ensemble_size",
    "value_members",
    "distance_members",
    "macro_dim",
)

_CHOICES: dict[str, tuple[str, ...]] = {
    "encoder": ("augmented", "learned", "identity"),
    "pooling": ("flatten", "keypoints"),
    "latent_norm": ("none", "layernorm", "simnorm"),
    "recurrence": ("none", "gru"),
    "distance": ("pairwise", "quasimetric"),
}


class Dynamics(Protocol):
    """What imagination needs of a world model."""

    def encode(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Raw observations `{key: [..., *shape]}` to latents `[..., Z]`, as at the start of an episode."""
        ...

    def rollout(self, z: Tensor, actions: Tensor, correction: Tensor | None = None) -> Tensor:
        """Steps ahead by the first `e` ensemble members, open loop.

        Args:
            z: latents `[e, n, Z]`, one row of `n` for each member.
            actions: `[n, H, A]` in real units, the same for all members.
            correction: `[B, A, Z]`, what the normalised action adds to every step beside what is predicted, for `n / B`
                rows each; None for nothing.

        Returns:
            latents `[e, n, H, Z]` after each of the actions.
        """
        ...


class WorldModel(nn.Module):
    """Encoder, predictor ensemble and heads for one `EnvSpec`.

    Latents are `z [..., Z]`. With `recurrence="gru"` the learned part of z is a belief that also depends on the past:
    call `observe` with the last latents and action instead of `encode`. Goals live in a goal space of `goal_dim`
    numbers: the latent space itself where goals are whole observations, the normalised achieved goal where the
    environment only states a `desired_goal`; there a learned head takes latents to that space. Statistics of the
    observations (`normalizer`) are part of the weights.

    Args:
        spec: the environment.
        options: architecture.
        generator_seed: seed of the initial weights.
        purpose: `goal` or `reward`; which heads there are.

    Raises:
        WorldModelError: the options do not fit the environment.
    """

    action_centre: Tensor
    action_half_range: Tensor

    def __init__(
        self, spec: EnvSpec, options: WorldModelOptions, generator_seed: int = 0, purpose: str = "goal"
    ) -> None:
        super().__init__()
        if purpose not in ("goal", "reward"):
            raise WorldModelError(f"purpose must be one of goal, reward, got {purpose!r}")
        if options.macro_stride and purpose != "goal":
            raise WorldModelError(
                f"macro_stride must be 0 with objective={purpose}, where nothing goes by it, got {options.macro_stride}"
            )
        self.spec, self.options, self.purpose = spec, options, purpose
        self.vector_keys = sorted(k for k, array in spec.obs.items() if not array.is_image)
        self.image_keys = [k for k in spec.obs if k not in self.vector_keys]
        self.state_dim = sum(spec.obs[key].size for key in self.vector_keys)
        if options.encoder == "identity" and self.image_keys:
            raise WorldModelError(f"encoder=identity reads vectors only, but {self.image_keys[0]!r} is an image")
        for key in self.image_keys:
            side, least = min(spec.obs[key].shape[:2]), PixelEncoder.least_side(options.channels, options.pooling)
            if side < least:
                raise WorldModelError(
                    f"images must be at least {least} pixels wide and high for {len(options.channels)} "
                    f"channels, got {side} in {key!r}"
                )
        with torch.random.fork_rng(devices=[]):  # layers draw their first weights from the global generator
            torch.manual_seed(generator_seed)
            self._build(spec, options)
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        self.register_buffer("action_centre", (low + high) / 2, persistent=False)
        self.register_buffer("action_half_range", (high - low) / 2, persistent=False)

    def _build(self, spec: EnvSpec, options: WorldModelOptions) -> None:
        hidden, actions = options.hidden_dim, spec.action_dim
        self.normalizer = Normalizer({k: spec.obs[k] for k in self.vector_keys})
        self.encoder: IdentityEncoder | ObsEncoder
        if options.encoder == "identity":
            self.encoder, self.latent_dim = IdentityEncoder(spec.obs), self.state_dim
        else:
            augmented, features = options.encoder == "augmented", options.latent_dim
            kind = AugmentedEncoder if augmented else ObsEncoder
            self.encoder = kind(spec.obs, hidden, options.encoder_layers, options.channels, features, options.pooling)
            self.latent_dim = features + self.state_dim * augmented
        self.norm: nn.Module = nn.Identity()
        if options.latent_norm == "simnorm":
            self.norm = SimNorm(SIMNORM_GROUP)
        elif options.latent_norm == "layernorm":
            self.norm = nn.LayerNorm(self.latent_dim, elementwise_affine=False)
        self.recurrence: nn.GRUCell | None = None
        if options.recurrence == "gru":
            self.recurrence = nn.GRUCell(self.latent_dim + actions, options.latent_dim)
        self.dynamics = EnsembleDynamics(
            self.latent_dim, actions, hidden, options.dynamics_layers, options.ensemble_size
        )
        self.inverse = InverseDynamicsHead(self.latent_dim, actions, hidden)
        achieved = spec.goal is not None and spec.goal.kind == "achieved"
        self.goal_dim = spec.obs[spec.goal.achieved_key or ""].size if spec.goal and achieved else self.latent_dim
        self.achieved: nn.Module | None = mlp([self.latent_dim, hidden, self.goal_dim]) if achieved else None
        self.time_to_goal: PairwiseDistance | Quasimetric | None = None
        self.control: ControlHeads | None = None
        if self.purpose == "goal":
            if options.distance == "quasimetric":
                apart = self.goal_dim if achieved else None
                self.time_to_goal = Quasimetric(self.latent_dim, apart, hidden, options.distance_members)
            else:
                self.time_to_goal = PairwiseDistance(self.latent_dim, self.goal_dim, hidden)
        else:
            discount = episode_discount(spec.max_episode_steps) if options.discount is None else options.discount
            self.control = ControlHeads(self.latent_dim, actions, hidden, options.bins, options.value_members, discount)
        self.probe: Probe | None = (
            Probe(self.latent_dim, self.state_dim, hidden) if self.state_dim and options.probe else None
        )
        self.judge: Judge | None = None
        """What candidates are worth by reward in one call, by the first member of the ensemble.

        None if the model is not frozen with fused networks, latents are normalised, or episodes may end by themselves.
        """
        self.macro: MacroModel | None = None  # last, so that with it the others begin as without it
        if options.macro_stride:
            size = (options.macro_stride, options.macro_dim)
            self.macro = MacroModel(self.latent_dim, actions, hidden, *size, self.norm)

    def frozen(self, dtype: torch.dtype, *, fused: bool = False) -> Self:
        """A copy for planning, in another precision, whose weights never change again and take no gradients.

        Args:
            dtype: of the networks, or where these are fused of their products alone.
            fused: evaluate networks by one call each, see `fused.supports`.
        """
        copied = copy.deepcopy(self)
        if not fused:
            copied.to(dtype)
            for name in ("action_centre", "action_half_range"):  # rounded, they would be other bounds
                getattr(copied, name).data = getattr(self, name).clone()
        copied.requires_grad_(requires_grad=False)
        if isinstance(self.time_to_goal, Quasimetric):
            copied.time_to_goal = None  # frozen by itself, below
        for module in copied.modules():
            if isinstance(module, ControlHeads):
                module.freeze()
            elif isinstance(module, StackedMLP):
                module.freeze(dtype if fused else None)
            elif isinstance(module, PairwiseDistance) and fused:
                module.freeze(dtype)
        if isinstance(self.time_to_goal, Quasimetric):
            copied.time_to_goal = self.time_to_goal.frozen(fused=fused)
        if fused and isinstance(copied.achieved, nn.Sequential):
            copied.achieved = Fused(copied.achieved, dtype)
        if fused and isinstance(copied.encoder, ObsEncoder) and isinstance(copied.encoder.state, nn.Sequential):
            copied.encoder.state = Fused(copied.encoder.state, torch.float32)  # what is seen is seen as it is
        copied.judge = copied._judge()
        return copied

    def _judge(self) -> Judge | None:
        heads = self.control
        if heads is None or heads.terminates or not isinstance(self.norm, nn.Identity):
            return None
        dynamics, reward, policy, value = (
            net.fused() for net in (self.dynamics.net, heads.reward, heads.policy, heads.value)
        )
        if dynamics is None or reward is None or policy is None or value is None:
            return None
        if len(dynamics.sizes) != len(value.sizes):
            return None  # layers can be chosen for the dynamics
        scales = (self.action_centre, self.action_half_range)
        return Judge(dynamics, reward, policy, value, heads.twohot.limit, heads.discount, *scales)

    @property
    def members(self) -> int:
        """Ensemble size, `E`."""
        return self.options.ensemble_size

    @property
    def measured_dim(self) -> int:
        """How many of the first numbers of z are the measured state itself; the others are learned."""
        return 0 if self.options.encoder == "learned" else self.state_dim

    @property
    def sees_motion(self) -> bool:
        """Whether pictures are stacked, so that a latent differs from the embedding of its state as a goal."""
        return any(stacked_frames(self.spec.obs[key].shape[-1]) > 1 for key in self.image_keys)

    @property
    def target_std(self) -> float:
        """Standard deviation that latents of this architecture can reach; SimNorm and a GRU bound theirs."""
        if self.options.latent_norm == "simnorm":
            return 0.1
        return 0.5 if self.recurrence is not None else 1.0

    def product_size(self, rows: int) -> int:
        """Multiply-adds of the largest matrix product on `rows` latents; see `threads_for`."""
        return rows * self.options.hidden_dim**2

    def calibrate(self, store: EpisodeStore, ids: Sequence[int], scales: bool = True) -> None:
        """Take in the statistics of new episodes: running ones of vectors, and once those of images.

        Episodes that the store has given up already say nothing.

        Args:
            store: holds the episodes.
            ids: of the episodes.
            scales: whether vectors are seen on another scale from now on.
        """
        ids = store.kept(ids).tolist()
        if not ids:
            return
        if scales:
            self.normalizer.update_from(store, ids)
        if self.control is not None and store.terminated(ids).any():
            self.control.get_buffer("has_terminated").fill_(True)
        if isinstance(self.encoder, IdentityEncoder):
            return
        for key in self.image_keys:
            encoder = cast(PixelEncoder, self.encoder.pixels[key])
            if bool(encoder.get_buffer("calibrated")):
                continue  # nothing would come of reading the pictures again
            with store.reading() as reader:
                some = [reader.array(i, f"obs/{key}")[::_CALIBRATION_STRIDE] for i in ids[:_CALIBRATION_EPISODES]]
                encoder.calibrate(torch.from_numpy(np.concatenate(some)))

    def normalize_action(self, action: Tensor) -> Tensor:
        """Real units to [-1, 1], per dimension."""
        return (action - self.action_centre) / self.action_half_range

    def denormalize_action(self, action: Tensor) -> Tensor:
        """[-1, 1] to real units, per dimension."""
        return torch.addcmul(self.action_centre, action, self.action_half_range)

    def features(self, obs: Mapping[str, Tensor]) -> Tensor:
        """Raw observations `{key: [..., *shape]}` to features `[..., Z]`, before any recurrence."""
        normalized = self.normalizer.normalize(obs)
        z: Tensor = self.norm(self.encoder(normalized))
        return z

    def encode(self, obs: Mapping[str, Tensor]) -> Tensor:
        """See `Dynamics.encode`; a goal observation is embedded by this too."""
        features = self.features(obs)
        if self.recurrence is None:
            return features
        first = features.new_zeros(*features.shape[:-1], self.spec.action_dim)
        return self._believe(None, first, features)

    def observe(self, belief: Tensor | None, last_action: Tensor | None, obs: Mapping[str, Tensor]) -> Tensor:
        """Latents `[B, Z]` of what is seen now, given the belief before and the action `[B, A]` in between.

        Without recurrence this is `encode`; `belief=None` starts an episode.

        Args:
            belief: latents `[B, Z]` that this returned last.
            last_action: in real units.
            obs: what is seen now.
        """
        if self.recurrence is None or belief is None or last_action is None:
            return self.encode(obs)
        return self._believe(belief, self.normalize_action(last_action), self.features(obs))

    def _believe(self, belief: Tensor | None, action: Tensor, features: Tensor) -> Tensor:
        assert self.recurrence is not None
        lead = features.shape[:-1]
        x = torch.cat([features, action], dim=-1).reshape(-1, self.recurrence.input_size)
        measured = self.measured_dim  # is seen anew, and need not be remembered
        h = None if belief is None else belief.reshape(-1, self.latent_dim)[:, measured:]
        out: Tensor = self.norm(self.recurrence(x, h)).reshape(*lead, self.recurrence.hidden_size)
        return torch.cat([features[..., :measured], out], dim=-1) if measured else out

    def encode_sequence(self, obs: Mapping[str, Tensor], actions: Tensor) -> Tensor:
        """Latents `[B, L+1, Z]` of windows `{key: [B, L+1, ...]}` with `actions [B, L, A]` between them."""
        features = self.features(obs)
        if self.recurrence is None:
            return features
        beliefs = [self._believe(None, torch.zeros_like(actions[:, 0]), features[:, 0])]
        normalized = self.normalize_action(actions)
        for t in range(actions.shape[1]):
            beliefs.append(self._believe(beliefs[-1], normalized[:, t], features[:, t + 1]))
        return torch.stack(beliefs, dim=1)

    def step(self, z: Tensor, action: Tensor) -> Tensor:
        """One step of `rollout`: latents `[e, n, Z]` and `action [n, A]` to latents `[e, n, Z]`."""
        return self.rollout(z, action.unsqueeze(1))[:, :, 0]

    def rollout(self, z: Tensor, actions: Tensor, correction: Tensor | None = None) -> Tensor:
        """See `Dynamics.rollout`."""
        normalized, latents = self.normalize_action(actions).to(z.dtype), []
        added: Tensor | None = None
        if correction is not None:
            problems = normalized.reshape(len(correction), -1, normalized.shape[-1])
            added = (problems @ correction).reshape(*actions.shape[:2], -1)
        elif isinstance(self.norm, nn.Identity):
            whole = self.dynamics.roll_out(z, normalized)
            if whole is not None:
                return whole
        for t, action in enumerate(normalized.unbind(dim=1)):
            z = self.norm(self.dynamics(z, action))
            if added is not None:
                z = z + added[:, t]
            latents.append(z)
        return torch.stack(latents, dim=2)

    def goal_point(self, z: Tensor) -> Tensor:
        """Latents `[..., Z]` to goal space `[..., G]`."""
        if self.achieved is None:
            return z
        point: Tensor = self.achieved(z.to(next(self.achieved.parameters()).dtype)).to(z.dtype)
        return point

    def embed_goal(self, goal_obs: Mapping[str, Tensor]) -> Tensor:
        """A goal as the environment states it, to goal space `[..., G]`.

        Stacked pictures show motion, but a goal is a place: its newest picture stands for it, as it does where the
        environment draws a goal. What passes there has been there.

        Args:
            goal_obs: a whole observation, or `{"desired_goal": [..., G]}`.
        """
        if self.achieved is None:
            return self.encode({**goal_obs, **{k: newest_frame(goal_obs[k]) for k in self.image_keys}})
        return self.normalize_achieved(goal_obs["desired_goal"])

    def embed_reached(self, obs: Mapping[str, Tensor]) -> Tensor:
        """What is observed, `{key: [..., *shape]}`, as the goal of being there, in goal space `[..., G]`."""
        if self.achieved is None:
            return self.embed_goal(obs)
        assert self.spec.goal is not None
        return self.normalize_achieved(obs[self.spec.goal.achieved_key or ""])

    def normalize_achieved(self, achieved: Tensor) -> Tensor:
        """Achieved or desired goals `[..., G]` in the units of the goal space."""
        assert self.spec.goal is not None
        assert self.spec.goal.achieved_key is not None
        key = self.spec.goal.achieved_key
        return self.normalizer.normalize({key: achieved})[key]

    def steps_to_goal(self, z: Tensor, goal: Tensor) -> Tensor:
        """Predicted steps `[M, ...]` from latents `[..., Z]` to goal embeddings broadcastable to `[..., G]`.

        Args:
            z: latents.
            goal: goal embeddings.

        Returns:
            what each of `M` heads says; one, unless `distance=quasimetric`.

        Raises:
            WorldModelError: the model was made for rewards.
        """
        if self.time_to_goal is None:
            raise WorldModelError(f"purpose must be goal to know the steps to a goal, got {self.purpose}")
        if not isinstance(self.time_to_goal, Quasimetric):
            steps: Tensor = self.time_to_goal(z, self.goal_point(z), goal)
            return steps.unsqueeze(0)
        steps = self.time_to_goal(z, goal).to(z.dtype)
        if self.options.distance_floor:
            steps = torch.maximum(steps, self.time_to_goal.floor(self.goal_point(z), goal))
        return steps

    def goal_distance(self, z: Tensor, goal: Tensor) -> Tensor:
        """Mean squared distance in goal space, `[...]`."""
        return F.mse_loss(self.goal_point(z), goal.expand(*z.shape[:-1], -1), reduction="none").mean(dim=-1)

    def probe_target(self, obs: Mapping[str, Tensor]) -> Tensor:
        """The normalised vector observations `[..., D]` that the probe reads out, in the order of `vector_keys`."""
        vectors = {k: self.spec.obs[k] for k in self.vector_keys}
        return flat_vectors(self.normalizer.normalize({k: obs[k] for k in vectors}), vectors)

    @override
    def forward(self, obs: Mapping[str, Tensor]) -> Tensor:
        return self.encode(obs)
