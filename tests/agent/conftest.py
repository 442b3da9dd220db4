"""Small environment specs, models, observations and batches that follow from a seed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from forethought.agent.memory.sampler import SequenceBatch
from forethought.agent.memory.store import Episode
from forethought.agent.training.rollout import Array, Environments
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.envs.spec import ArraySpec, EnvSpec, GoalSpec

SpecMaker = Callable[..., EnvSpec]
ModelMaker = Callable[..., WorldModel]
ObsMaker = Callable[..., dict[str, Tensor]]
BatchMaker = Callable[..., SequenceBatch]

SMALL: dict[str, Any] = {"encoder": "learned", "latent_dim": 16, "hidden_dim": 24, "channels": (4, 8)}


@pytest.fixture(scope="session")
def toy_spec() -> SpecMaker:
    """Two vectors (one of them a matrix), an image, or both; asymmetric action bounds."""

    def make(observation: str = "state", goal: str | None = "observation") -> EnvSpec:
        obs = {}
        if observation in ("state", "both"):
            obs |= {"grid": ArraySpec((2, 2), "float32"), "position": ArraySpec((3,), "float32")}
        if observation in ("pixels", "both"):
            obs["image"] = ArraySpec((16, 16, 3), "uint8")
        if goal == "achieved":
            obs["achieved_goal"] = ArraySpec((2,), "float32")
        goals = {
            None: None,
            "observation": GoalSpec("observation"),
            "achieved": GoalSpec("achieved", "achieved_goal", 2),
        }
        return EnvSpec(
            env_id="Toy-v0",
            obs=dict(sorted(obs.items())),
            action_low=(-1.0, 0.0),
            action_high=(3.0, 0.5),
            control_dt=0.1,
            max_episode_steps=20,
            goal=goals[goal],
        )

    return make


@pytest.fixture(scope="session")
def toy_model(toy_spec: SpecMaker) -> ModelMaker:
    def make(spec: EnvSpec | None = None, seed: int = 0, **options: Any) -> WorldModel:
        return WorldModel(spec or toy_spec(), WorldModelOptions(**{**SMALL, **options}), generator_seed=seed).eval()

    return make


@pytest.fixture(scope="session")
def toy_obs() -> ObsMaker:
    def make(spec: EnvSpec, lead: Sequence[int], seed: int = 0) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {
            key: torch.randint(256, (*lead, *array.shape), generator=generator, dtype=torch.uint8)
            if array.is_image
            else torch.randn((*lead, *array.shape), generator=generator)
            for key, array in spec.obs.items()
        }

    return make


@pytest.fixture(scope="session")
def toy_actions() -> Callable[..., Tensor]:
    def make(spec: EnvSpec, lead: Sequence[int], seed: int = 0) -> Tensor:
        low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
        noise = torch.rand((*lead, spec.action_dim), generator=torch.Generator().manual_seed(seed))
        return low + noise * (high - low)

    return make


@pytest.fixture(scope="session")
def toy_batch(toy_obs: ObsMaker, toy_actions: Callable[..., Tensor]) -> BatchMaker:
    """Noise in the form of a batch: enough for everything that is not about learning something true."""

    def make(spec: EnvSpec, batch: int = 6, length: int = 4, pairs: int = 3, seed: int = 0) -> SequenceBatch:
        generator = torch.Generator().manual_seed(seed)
        return SequenceBatch(
            obs=toy_obs(spec, (batch, length + 1), seed),
            actions=toy_actions(spec, (batch, length), seed),
            rewards=torch.zeros(batch, length),
            terminated=torch.zeros(batch, length, dtype=torch.bool),
            goal_obs=toy_obs(spec, (batch, pairs), seed + 1),
            goal_index=torch.randint(length + 1, (batch, pairs), generator=generator),
            goal_steps=torch.randint(9, (batch, pairs), generator=generator).float(),
        )

    return make


FAKE_SPEC = EnvSpec(
    env_id="Fake-v0",
    obs={"position": ArraySpec((2,), "float32")},
    action_low=(-1.0, 0.0),
    action_high=(3.0, 0.5),
    control_dt=0.1,
    max_episode_steps=7,
    goal=GoalSpec("observation"),
)


@dataclass
class FakeStep:
    obs: dict[str, Array]
    reward: Array
    terminated: Array
    truncated: Array
    success: Array


@dataclass
class FakeEnvironments(Environments):
    """Episodes that follow from their seed s, whatever is done: `position` is (s, time), the goal (-s, 0).

    They last 3 + s % 4 decisions, terminate if s is odd and are truncated if it is even; decision 2 + s % 5 is a
    success (where the episode lasts that long) and every reward is the time. Another goal is (-100 - s, -time).
    """

    num_envs: int
    actions: list[tuple[Array, Array]] = field(default_factory=list)
    changes: list[tuple[list[float], list[int]]] = field(default_factory=list)
    env_spec: EnvSpec = FAKE_SPEC

    def __post_init__(self) -> None:
        self.state = np.zeros((self.num_envs, 2), np.float32)
        self.goals = np.zeros((self.num_envs, 2), np.float32)
        self.running = np.zeros(self.num_envs, bool)

    def reset(self, seeds: Sequence[int], indices: Sequence[int] | None = None) -> tuple[Any, Any]:
        rows = list(range(self.num_envs)) if indices is None else list(indices)
        assert len(seeds) == len(rows)
        self.running[:] = False
        for row, seed in zip(rows, seeds, strict=True):
            self.state[row], self.running[row], self.goals[row] = (seed, 0), True, (-seed, 0)
        return {"position": self.state.copy()}, self.goal

    def step(self, actions: Array, active: Array | None = None) -> FakeStep:
        active = np.ones(self.num_envs, bool) if active is None else active
        assert self.running[active].all(), "a row was stepped that is not running"
        self.actions.append((actions.copy(), active.copy()))
        self.state[active, 1] += 1
        seed, time = self.state.T
        over = active & (time == 3 + seed % 4)
        self.running &= ~over
        return FakeStep(
            {"position": self.state.copy()},
            np.where(active, time, 0).astype(np.float32),
            over & (seed % 2 == 1),
            over & (seed % 2 == 0),
            active & (time == 2 + seed % 5),
        )

    @property
    def goal(self) -> dict[str, Array]:
        return {"position": self.goals.copy()}

    def change_goals(self, seeds: Sequence[int], indices: Sequence[int]) -> dict[str, Array]:
        assert self.running[list(indices)].all()
        assert len(set(seeds)) == len(seeds) == len(indices)
        self.changes.append((self.state[list(indices), 1].tolist(), list(indices)))
        self.goals[list(indices)] = -self.state[list(indices)] - (100, 0)
        return self.goal

    def simulator_states(self) -> Array | None:
        return self.state.astype(np.float64)

    def simulator_goals(self) -> dict[str, Array]:
        return {"position": -self.state}  # the seed, negated, as of the goals that `reset` gives

    def render(self, index: int, goal: bool = True) -> Array:
        return np.full((2, 2, 3), self.state[index, 1], np.uint8)


@pytest.fixture
def fake_environments() -> Callable[[int], FakeEnvironments]:
    return FakeEnvironments


# -- a plane on which everything is known ------------------------------------------------------------------------------

PLANE = EnvSpec(
    env_id="Plane-v0",
    obs={"position": ArraySpec((2,), "float32")},
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
    control_dt=0.1,
    max_episode_steps=100,
    goal=GoalSpec("observation"),
)


class ExactSteps(nn.Module):
    """Steps on the plane along its axes, one for each unit of length; downwards `back` times as many."""

    def __init__(self, back: float) -> None:
        super().__init__()
        self.back = back

    @override
    def forward(self, z: Tensor, point: Tensor, goal: Tensor) -> Tensor:
        gap = goal - z
        steps: Tensor = (gap.relu() + self.back * (-gap).relu()).sum(dim=-1)
        return steps


@pytest.fixture(scope="session")
def plane_model() -> ModelMaker:
    """A model of the plane whose latents are positions, and whose distance and predictions are exact."""

    def rollout(z: Tensor, actions: Tensor, correction: Tensor | None = None) -> Tensor:
        return z.unsqueeze(2) + actions.cumsum(dim=1)

    def make(back: float = 1.0) -> WorldModel:
        options = WorldModelOptions(encoder="identity", hidden_dim=8, ensemble_size=1, probe=False)
        model = WorldModel(PLANE, options).eval()
        model.normalizer.clip = None
        model.time_to_goal = ExactSteps(back)  # type: ignore[assignment]
        model.rollout = rollout  # type: ignore[method-assign]
        return model

    return make


@pytest.fixture(scope="session")
def walk() -> Callable[[Any], Episode]:
    """An episode through these positions `[T+1, 2]`; actions are the way between them."""

    def make(positions: Any) -> Episode:
        position = np.asarray(positions, np.float32)
        length = len(position) - 1
        return Episode(
            obs={"position": position},
            actions=np.diff(position, axis=0),
            rewards=np.zeros(length, np.float32),
            success=np.zeros(length, bool),
            terminated=False,
            truncated=True,
        )

    return make
