"""The learner: gradient steps on the world model from sampled windows."""

import dataclasses
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ... import ForethoughtError
from ..compilation import CHOICES, compiled, worth_compiling
from ..memory.sampler import SequenceBatch
from ..threads import threads_for
from ..world_model import losses
from ..world_model.control import ControlHeads
from ..world_model.distance import PairwiseDistance, Quasimetric
from ..world_model.model import WorldModel
from .augmentation import drop_vectors, shift_images


class LearnerError(ForethoughtError):
    """Learner options out of range, or a loss that is no longer finite."""


@dataclass
class LearnerOptions:
    """Losses and optimisation of the world model."""

    batch_size: int = 256
    """Windows per update."""
    window: int = 8
    """Steps of latent prediction per window; as long as the plans that the model is used for."""
    burn_in: int = 0
    """Steps at the start of each window that only warm up the recurrent belief."""
    prediction_steps: int | None = None
    """Steps of latent prediction, which then begins at moments of the window that are drawn at random, as many as fill
    it, so that a belief can be taught by windows longer than plans. None predicts all of it from its first moment."""
    cache_bytes: int = 1 << 30
    """Observations up to this size are kept in RAM for sampling; larger ones are read from the memory map."""
    focus_share: float = 0.0
    """Share of the windows that are drawn from those in which more happens than on average, for what is rare: reward,
    or for goals that are stated as `desired_goal` movement of what is to get there."""
    even_share: float = 0.0
    """Share of the windows that are drawn evenly over what was seen, however often it was: over what is to get to the
    goal where that is stated as `desired_goal`, or else over whole observations. For what is rarely come to."""
    image_shift: int = 0
    """Pictures are moved at random by up to this many pixels: all of a window alike, and its goals alike."""
    vector_dropout: float = 0.0
    """Probability that the encoder sees the pictures of a window without the vectors beside them, so that it can do
    without; drawn again for the window's goals. For env_options.observation=both and world_model.encoder=learned."""
    goals_per_window: int = 4
    """Hindsight pairs per window for the pairwise distance."""
    goal_power: float = 2.0
    """Gaps of pairs are drawn as u^goal_power times the remaining steps; 1 is uniform, larger prefers near goals."""
    learning_rate: float = 1e-3
    """Peak step size of AdamW."""
    weight_decay: float = 1e-5
    """Decoupled weight decay."""
    grad_clip: float = 10.0
    """Largest gradient norm."""
    warmup: int = 100
    """Updates of linear warm-up."""
    cosine: bool = True
    """Let the step size fall along a cosine to a tenth at the end of training."""
    rho: float = 1.0
    """Weight decay per prediction step."""
    prediction: float = 1.0
    """Weight of multi-step latent prediction."""
    inverse_dynamics: float = 1.0
    """Weight of inverse dynamics, the cheapest cure for collapse."""
    variance: float = 1.0
    """Weight of VICReg's variance hinge."""
    covariance: float = 0.04
    """Weight of VICReg's covariance term; it whitens z: more learned features than needed do harm."""
    sigreg: float = 0.0
    """Weight of SIGReg."""
    straightening: float = 0.0
    """Weight of temporal straightening."""
    time_to_goal: float = 1.0
    """Weight of the steps to a goal, be they learned from pairs or as a quasimetric."""
    goal_gradient: float = 0.0
    """Part of the time-to-goal gradient that reaches the encoder; 0 stops it at the latents."""
    log_time: bool = False
    """Regress log(1 + steps) of pairs instead of steps: sharper next to the goal, blunter far from it."""
    expectile: float = 0.5
    """Expectile of the steps of pairs; below 0.5 leans toward the shortest ways that were seen."""
    far: float | None = None
    """Steps beyond which a quasimetric hardly tells distances apart; None takes the length of an episode."""
    macro: float = 1.0
    """Weight of the macro-action model, where there is one; what it learns from z does not reach the encoder."""
    achieved: float = 1.0
    """Weight of the achieved-goal regression, for environments that only state a desired goal."""
    reward: float = 0.1
    """Weight of the reward, as a cross-entropy."""
    value: float = 0.1
    """Weight of the value functions, as a cross-entropy against one-step targets."""
    termination: float = 1.0
    """Weight of termination, once an episode has ended by itself."""
    entropy: float = 1e-4
    """Worth of the policy prior's entropy, beside values in units of their spread."""
    saturation: float = 1e-2
    """Price of the policy prior's squared mean before tanh, whose gradient vanishes far out."""
    distillation: float = 0.1
    """Worth of being like what the planner did, where that has the higher value."""
    target_decay: float = 0.99
    """Decay of the moving average of the value functions that targets are taken from."""
    compile: str = "never"
    """`auto` computes losses and gradients with compiled code, where this machine has what that needs (a C++
    compiler); the first update then waits up to a minute for it. Not with `sigreg`. `never` does without."""
    ema_target: float = 0.0
    """Decay of an exponential moving average encoder for the targets; 0 takes the encoder itself."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "window", "goals_per_window"):
            if getattr(self, name) < 1:
                raise LearnerError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.burn_in < self.window:
            raise LearnerError(f"burn_in must be between 0 and window-1={self.window - 1}, got {self.burn_in}")
        steps = self.prediction_steps
        if steps is not None and not 1 <= steps <= self.window - self.burn_in:
            raise LearnerError(
                f"prediction_steps must be between 1 and window - burn_in = {self.window - self.burn_in}, got {steps}"
            )
        if self.straightening and self.window - self.burn_in < 2:
            raise LearnerError(
                f"window - burn_in must be at least 2 with straightening, got {self.window - self.burn_in}"
            )
        if self.compile not in CHOICES:
            raise LearnerError(f"compile must be one of {', '.join(CHOICES)}, got {self.compile!r}")
        for name in ("focus_share", "even_share", "vector_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise LearnerError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.ema_target < 1:
            raise LearnerError(f"ema_target must be in [0, 1), got {self.ema_target}")
        if not 0 <= self.target_decay < 1:
            raise LearnerError(f"target_decay must be in [0, 1), got {self.target_decay}")
        if not 0 < self.expectile < 1:
            raise LearnerError(f"expectile must be in (0, 1), got {self.expectile}")
        if not 0 < self.rho <= 1:
            raise LearnerError(f"rho must be in (0, 1], got {self.rho}")
        for name in ("learning_rate", "grad_clip", "goal_power", "far"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise LearnerError(f"{name} must be positive, got {getattr(self, name)}")
        for name in _WEIGHTS:
            if not getattr(self, name) >= 0:
                raise LearnerError(f"{name} must be at least 0, got {getattr(self, name)}")


_WEIGHTS = [
    "image_shift",
    "goal_gradient",
    "weight_decay",
    "warmup",
    "prediction",
    "inverse_dynamics",
    "variance",
    "covariance",
    "sigreg",
    "straightening",
    "time_to_goal",
    "macro",
    "achieved",
    "reward",
    "value",
    "termination",
    "entropy",
    "saturation",
    "distillation",
]


def _check_augmentation(model: WorldModel, options: LearnerOptions) -> None:
    """Refuse augmentation where it would do nothing or harm."""
    smallest = min((side for key in model.image_keys for side in model.spec.obs[key].shape[:2]), default=0)
    if options.image_shift and not options.image_shift < smallest:
        what = f"below the {smallest} pixels of an image" if model.image_keys else "0 where nothing seen is an image"
        raise LearnerError(f"image_shift must be {what}, got {options.image_shift}")
    if not options.vector_dropout:
        return
    if not model.image_keys or not model.vector_keys:
        raise LearnerError(
            "vector_dropout must be 0 unless both vectors and images are seen (env_options.observation=both), "
            f"got {options.vector_dropout} with {sorted(model.spec.obs)}"
        )
    if model.measured_dim:
        raise LearnerError(
            f"vector_dropout must be 0 with encoder={model.options.encoder}, where z holds the vectors themselves and "
            f"nothing else could stand there, got {options.vector_dropout}; encoder=learned takes it"
        )


def _check_stride(model: WorldModel, options: LearnerOptions) -> None:
    """Refuse windows that are too short for a macro-action."""
    longest = options.window - options.burn_in
    if model.macro is not None and options.macro and longest < model.macro.stride:
        raise LearnerError(
            f"window - burn_in must be at least world_model.macro_stride={model.macro.stride}, got {longest}; with "
            f"learner.prediction_steps={options.window}, latent prediction stays as long as it is"
        )


class Learner:
    """One optimiser over one world model.

    Args:
        model: trained in place.
        options: losses and optimisation.
        total_updates: length of training, for the learning-rate schedule.
        generator: every random draw.

    Raises:
        LearnerError: the options do not fit the model.
    """

    def __init__(
        self, model: WorldModel, options: LearnerOptions, total_updates: int, generator: torch.Generator
    ) -> None:
        _check_augmentation(model, options)
        _check_stride(model, options)
        self.model, self.options, self.generator = model, options, generator
        self.total_updates = max(total_updates, 1)
        self.updates = 0
        # The projections of SIGReg come from an explicit generator, which cannot be traced.
        self._compile = not options.sigreg and worth_compiling(options.compile, self.device)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        heads: list[nn.Module] = [model.time_to_goal] if isinstance(model.time_to_goal, Quasimetric) else []
        heads += [] if model.control is None else [model.control.policy]
        heads += [] if model.macro is None else [model.macro]
        apart = [list(head.parameters()) for head in heads]
        known = {id(p) for group in apart for p in group}
        self._clipped = [[p for p in model.parameters() if p.requires_grad and id(p) not in known], *apart]
        self.target: AveragedModel | None = None
        if options.ema_target > 0:
            average = get_ema_multi_avg_fn(options.ema_target)  # type: ignore[no-untyped-call]
            self.target = AveragedModel(model, multi_avg_fn=average)

    @property
    def device(self) -> torch.device:
        """Where the model lives."""
        return next(self.model.parameters()).device

    def learning_rate(self) -> float:
        """Step size of the next update: linear warm-up, then constant or cosine to a tenth."""
        scale = min(1.0, (self.updates + 1) / max(self.options.warmup, 1))
        if self.options.cosine:
            done = min(1.0, self.updates / self.total_updates)
            scale *= 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))
        return self.options.learning_rate * scale

    def update(self, batch: SequenceBatch) -> dict[str, Tensor]:
        """One gradient step; returns detached scalars by name.

        Raises:
            LearnerError: the gradient is not finite; the weights are left as they were.
        """
        model, windows = self.model, len(batch.actions)
        with threads_for(math.inf if model.image_keys else model.product_size(model.members * windows)):
            return self._update(batch)

    def _update(self, batch: SequenceBatch) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self._follow_scales()
        compute = compiled(Learner._total) if self._compile else Learner._total
        fixed = (*self._circumstances(batch), self._macro_noise(batch))
        total, terms, spread = compute(self, batch, self._seen(batch), *fixed)
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        norm = self._clip()
        if not bool(torch.isfinite(norm)):
            values = {name: float(value.detach()) for name, value in terms.items()}
            raise LearnerError(f"gradient norm must be finite, got {float(norm)} at update {self.updates}: {values}")
        self.optimizer.step()
        if self.target is not None:
            self.target.update_parameters(self.model)
        if self.model.control is not None:
            self.model.control.follow(self.options.target_decay)
        self.updates += 1
        metrics = {f"loss/{name}": value.detach() for name, value in terms.items()}
        metrics["loss/total"] = total.detach()
        metrics["optim/grad_norm"] = norm.detach()
        if spread is not None:
            metrics["latent/batch_std"] = spread
        if isinstance(self.model.time_to_goal, Quasimetric):
            metrics["distance/price"] = self.model.time_to_goal.get_buffer("price").clone()
        return metrics

    def _seen(self, batch: SequenceBatch) -> SequenceBatch:
        """The batch as the encoder is shown it: pictures moved, vectors dropped. What losses aim at stays as it was."""
        options, windows = self.options, len(batch.actions)
        if not options.image_shift and not options.vector_dropout:
            return batch
        obs, goal_obs = batch.obs, batch.goal_obs
        if options.image_shift:
            k = options.image_shift
            shifts = torch.randint(-k, k + 1, (2, windows, 2), generator=self.generator, device=self.generator.device)
            images = self.model.image_keys
            obs = {**obs, **{key: shift_images(obs[key], shifts[0]) for key in images}}
            goal_obs = {**goal_obs, **{key: shift_images(goal_obs[key], shifts[1]) for key in images}}
        if options.vector_dropout:
            unknown = self.model.normalizer.unknown()
            drawn = torch.rand(2, windows, generator=self.generator, device=self.generator.device)
            dropped = (drawn < options.vector_dropout).to(self.device)
            obs, goal_obs = drop_vectors(obs, unknown, dropped[0]), drop_vectors(goal_obs, unknown, dropped[1])
        return dataclasses.replace(batch, obs=obs, goal_obs=goal_obs)

    def _circumstances(self, batch: SequenceBatch) -> tuple[Tensor | None, Tensor | None, bool]:
        """What the losses depend on beside batch and weights: random draws, and whether episodes end.

        Drawn are moments `[B, P]` after the burn-in at which prediction begins, unless it begins at the first of them;
        and noise `[2, E, B, L, A]` for control by reward, for a quasimetric which other window `[B]` each window is put
        beside, and nothing for a pairwise distance.
        """
        options, heads = self.options, self.model.control
        windows, steps = len(batch.actions), batch.actions.shape[1] - options.burn_in
        begins: Tensor | None = None
        if options.prediction_steps is not None:
            length, pieces, device = options.prediction_steps, steps // options.prediction_steps, self.generator.device
            # Those that would stick out of the window are moved inside: its ends, where episodes are won, would be met
            # far more rarely than its middle otherwise.
            begins = torch.randint(1 - length, steps, (windows, pieces), generator=self.generator, device=device)
            begins = begins.clamp(0, steps - length).to(self.device)
            windows, steps = windows * pieces, length
        if isinstance(self.model.time_to_goal, Quasimetric):
            order = torch.randperm(len(batch.actions), generator=self.generator, device=self.generator.device)
            return order.to(self.device), begins, False
        if heads is None:
            return None, begins, False
        shape = (2, self.model.members, windows, steps, heads.action_dim)
        noise = torch.randn(shape, generator=self.generator, device=self.generator.device)
        return noise.to(self.device), begins, heads.terminates

    def _macro_noise(self, batch: SequenceBatch) -> Tensor | None:
        """Standard normal `[B, L-K+1, M]` for the macro-actions of all stretches of the windows."""
        macro = self.model.macro
        if macro is None or not self.options.macro:
            return None
        stretches = batch.actions.shape[1] - self.options.burn_in - macro.stride + 1
        shape = (len(batch.actions), stretches, macro.macro_dim)
        return torch.randn(shape, generator=self.generator, device=self.generator.device).to(self.device)

    def _total(
        self,
        batch: SequenceBatch,
        seen: SequenceBatch,
        drawn: Tensor | None,
        begins: Tensor | None,
        terminates: bool,
        macro_noise: Tensor | None,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The loss, its unweighted terms, and the spread of learned latents: the piece to be compiled."""
        terms, z = self._losses(batch, seen, drawn, begins, terminates, macro_noise)
        total = sum((getattr(self.options, name, 1.0) * value for name, value in terms.items()), torch.zeros(()))
        learned = z.detach()[..., self.model.measured_dim :].flatten(0, 1)
        return total, terms, learned.std(dim=0).mean() if learned.shape[-1] else None

    def losses(self, batch: SequenceBatch) -> tuple[dict[str, Tensor], Tensor]:
        """Every loss term that has a weight, unweighted, and the latents `[B, L+1, Z]` of the windows."""
        self._follow_scales()
        return self._losses(batch, self._seen(batch), *self._circumstances(batch), self._macro_noise(batch))

    @torch.no_grad()
    def _follow_scales(self) -> None:
        """Let the target see observations in the scales that the model sees them in, which collections change."""
        if self.target is not None:
            for kept, now in zip(self.target.module.buffers(), self.model.buffers(), strict=True):
                kept.copy_(now)

    def _losses(
        self,
        batch: SequenceBatch,
        seen: SequenceBatch,
        drawn: Tensor | None,
        begins: Tensor | None,
        terminates: bool,
        macro_noise: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        options, model = self.options, self.model
        z = model.encode_sequence(seen.obs, batch.actions)
        start = options.burn_in
        z, actions = z[:, start:], batch.actions[:, start:]
        terms: dict[str, Tensor] = {}
        if options.prediction or model.control is not None:
            terms |= self._imagined(batch, seen, z, drawn, begins, terminates)
        if options.inverse_dynamics:
            guess = model.inverse(z[:, :-1], z[:, 1:])
            terms["inverse_dynamics"] = F.mse_loss(guess, model.normalize_action(actions))
        flat = z.flatten(0, 1)
        if options.variance:
            terms["variance"] = losses.variance_loss(flat, model.target_std)
        if options.covariance:
            terms["covariance"] = losses.covariance_loss(flat)
        if options.sigreg:
            terms["sigreg"] = losses.sigreg_loss(flat, self.generator)
        if options.straightening:
            terms["straightening"] = losses.straightening_loss(z)
        if options.achieved and model.achieved is not None:
            assert model.spec.goal is not None
            reached = model.normalize_achieved(batch.obs[model.spec.goal.achieved_key or ""][:, start:])
            terms["achieved"] = F.mse_loss(model.goal_point(z), reached)
        if options.time_to_goal and isinstance(model.time_to_goal, Quasimetric):
            assert drawn is not None
            terms["time_to_goal"] = self._quasimetric(model.time_to_goal, batch, seen, z, drawn)
        elif options.time_to_goal and isinstance(model.time_to_goal, PairwiseDistance):
            terms["time_to_goal"] = self._pairwise(model.time_to_goal, batch, seen, z, start)
        if model.macro is not None and macro_noise is not None:
            terms["macro"] = model.macro.loss(z.detach(), model.normalize_action(actions), macro_noise)
        if model.probe is not None:
            target = model.probe_target(batch.obs)[:, start:]
            terms["probe"] = F.mse_loss(model.probe(z), target)
        return terms, z

    def _imagined(
        self,
        batch: SequenceBatch,
        seen: SequenceBatch,
        z: Tensor,
        drawn: Tensor | None,
        begins: Tensor | None,
        terminates: bool,
    ) -> dict[str, Tensor]:
        """Losses along what the model imagines from latents `z [B, L+1, Z]` of windows, whole or in pieces."""
        options, model, start = self.options, self.model, self.options.burn_in
        terms: dict[str, Tensor] = {}
        steps = batch.actions.shape[1] - start if options.prediction_steps is None else options.prediction_steps
        actions, latents = _pieces(batch.actions[:, start:], begins, steps), _pieces(z, begins, steps + 1)
        predicted = model.rollout(latents[:, 0].expand(model.members, -1, -1), actions)
        if options.prediction:
            target = _pieces(self._target(seen, z), begins, steps)
            terms["prediction"] = losses.prediction_loss(predicted, target, options.rho)
        if model.control is not None and drawn is not None:
            rewards, terminated = (_pieces(x[:, start:], begins, steps) for x in (batch.rewards, batch.terminated))
            terms |= self._control(model.control, latents, predicted, actions, rewards, terminated, drawn, terminates)
        return terms

    def _clip(self) -> Tensor:
        """Limit the gradient; heads of another scale on their own. Returns the whole norm."""
        norms = [nn.utils.clip_grad_norm_(group, self.options.grad_clip) for group in self._clipped]
        return torch.stack(norms).square().sum().sqrt()

    def _control(
        self,
        heads: ControlHeads,
        z: Tensor,
        predicted: Tensor,
        actions: Tensor,
        rewards: Tensor,
        terminated: Tensor,
        noise: Tensor,
        terminates: bool,
    ) -> dict[str, Tensor]:
        """Losses of reward, value, termination and policy, along imagined latents as the planner will meet them.

        Args:
            heads: what is trained.
            z: encoded latents `[B, L+1, Z]`.
            predicted: imagined ones from the first of them on, `[E, B, L, Z]`.
            actions: in real units, `[B, L, A]`.
            rewards: `[B, L]`.
            terminated: `[B, L]`.
            noise: standard normal `[2, E, B, L, A]`.
            terminates: whether termination is to be foreseen.
        """
        options, members = self.options, len(predicted)
        imagined = torch.cat([z[None, :, :1].expand(members, -1, -1, -1), predicted[:, :, :-1]], dim=2)
        done = self.model.normalize_action(actions).expand(members, -1, -1, -1)
        taken = torch.cat([imagined, done], dim=-1)
        weights = options.rho ** torch.arange(done.shape[2], dtype=z.dtype, device=z.device)
        weights = weights / weights.mean()
        terms: dict[str, Tensor] = {}
        if options.reward:
            error = heads.twohot.loss(heads.reward_logits(taken), rewards)
            terms["reward"] = (error * weights).mean()
        logits = heads.value_logits(taken)  # [K, E, B, L, bins]
        if options.value:
            target = self._value_target(heads, z[:, 1:].detach(), rewards, terminated, noise[0, 0])
            terms["value"] = (heads.twohot.loss(logits, target) * weights).mean()
        if options.termination and terminates:
            p = heads.alive(predicted)
            terms["termination"] = F.binary_cross_entropy(p, (~terminated).to(p.dtype).expand_as(p))
        known = heads.expected(logits.detach()).mean(dim=0)
        terms["policy"] = self._policy(heads, imagined.detach(), done, known, weights, noise[1])
        return terms

    @torch.no_grad()
    def _value_target(
        self, heads: ControlHeads, z: Tensor, rewards: Tensor, terminated: Tensor, noise: Tensor
    ) -> Tensor:
        """Reward and discounted value of the next latents `z [B, L, Z]`, by the most doubtful member; `[B, L]`."""
        action = heads.act(z, noise)
        ahead = heads.expected(heads.value_logits(torch.cat([z, action], dim=-1), which="target")).amin(dim=0)
        return rewards + heads.discount * (~terminated).to(ahead.dtype) * ahead

    def _policy(
        self, heads: ControlHeads, z: Tensor, done: Tensor, known: Tensor, weights: Tensor, noise: Tensor
    ) -> Tensor:
        """Loss of the policy prior at latents `z [E, B, L, Z]` where `done [E, B, L, A]` had the value `known`."""
        options = self.options
        chosen = heads.choose(z, noise)
        value = heads.expected(heads.value_logits(torch.cat([z, chosen.action], dim=-1), which="frozen")).mean(dim=0)
        with torch.no_grad():  # values in units of their spread, so that entropy means the same in every task
            low, high = torch.quantile(value.flatten(), value.new_tensor([0.05, 0.95]))
            scale = heads.get_buffer("scale")
            scale.lerp_((high - low).clamp(min=1.0), 1 - options.target_decay)
        loss = options.entropy * chosen.log_p + options.saturation * chosen.raw.square().sum(dim=-1) - value / scale
        if options.distillation:
            # Imitation of better actions only (Wang et al., "Critic regularized regression", 2020).
            better = (known > value).to(value.dtype).detach()
            loss = loss + options.distillation * better * (chosen.mean - done).square().sum(dim=-1)
        return (loss * weights).mean()

    def _target(self, seen: SequenceBatch, z: Tensor) -> Tensor:
        if self.target is None:
            return z[:, 1:]
        with torch.no_grad():
            target = cast(WorldModel, self.target.module).encode_sequence(seen.obs, seen.actions)
        return target[:, self.options.burn_in + 1 :]

    def _quasimetric(
        self, head: Quasimetric, batch: SequenceBatch, seen: SequenceBatch, z: Tensor, order: Tensor
    ) -> Tensor:
        """Loss of a quasimetric on encoded latents `z [B, L+1, Z]`; window `order[i]` has the goals for window `i`.

        Not on imagined ones: what imagination takes for a way through a wall would become one.
        """
        model, z = self.model, self._throttled(z)
        encoded = head.embed(z)
        goals, point = encoded, model.goal_point(z).detach()
        if head.goal is not None:
            assert model.spec.goal is not None
            reached = batch.obs[model.spec.goal.achieved_key or ""][:, self.options.burn_in :]
            point = model.normalize_achieved(reached)
            goals = head.embed_goal(point)
        elif model.sees_motion:
            obs = {k: v[:, self.options.burn_in :] for k, v in seen.obs.items()}
            goals = head.embed_goal(self._throttled(model.embed_goal(obs)))
        same = None if goals is encoded else torch.stack([encoded, goals])
        head.keep_pace(point)
        far = self.options.far or float(model.spec.max_episode_steps)
        return head.loss(encoded[:, :, :-1], encoded[:, :, 1:], same, goals[:, order, :-1], far)

    def _pairwise(
        self, head: PairwiseDistance, batch: SequenceBatch, seen: SequenceBatch, z: Tensor, start: int
    ) -> Tensor:
        """Regression of the steps between the pairs of a batch, on latents `z [B, L+1, Z]`."""
        options = self.options
        index = (batch.goal_index - start).clamp(min=0)
        z = self._throttled(z)
        states = torch.gather(z, 1, index.unsqueeze(-1).expand(-1, -1, z.shape[-1]))  # [B, P, Z]
        model = self.model
        with torch.set_grad_enabled(options.goal_gradient > 0):
            point = model.goal_point(states)
            if model.achieved is None:
                goal = self._throttled(model.embed_goal(seen.goal_obs))
            else:
                assert model.spec.goal is not None
                goal = model.normalize_achieved(batch.goal_obs[model.spec.goal.achieved_key or ""])
        # States before the end of the burn-in have no warm belief: their pairs do not count.
        weight = (batch.goal_index >= start).to(z.dtype)
        predicted = head(states, point, goal)
        if options.log_time:
            guess, truth = predicted.log1p(), batch.goal_steps.log1p()
        else:
            guess, truth = predicted / head.SCALE, batch.goal_steps / head.SCALE
        error = F.smooth_l1_loss(guess, truth, reduction="none")
        too_long = (predicted > batch.goal_steps).to(z.dtype)
        weight = weight * 2 * (too_long * (1 - options.expectile) + (1 - too_long) * options.expectile)
        loss: Tensor = (error * weight).sum() / weight.sum().clamp(min=1)
        return loss

    def _throttled(self, z: Tensor) -> Tensor:
        """The same latents, with `goal_gradient` of their gradient."""
        part = self.options.goal_gradient
        return z.detach().lerp(z, part) if part else z.detach()


def _pieces(x: Tensor, begins: Tensor | None, length: int) -> Tensor:
    """Pieces `[B * P, length, ...]` of windows `[B, T, ...]` that begin at `begins [B, P]`; None leaves them whole."""
    if begins is None:
        return x
    times = begins.unsqueeze(-1) + torch.arange(length, device=x.device)
    rows = torch.arange(len(x), device=x.device)[:, None, None]
    return x[rows, times].flatten(0, 1)
