"""The one configuration of a run, composed from the option dataclasses that stand beside each component."""

from dataclasses import dataclass, field
from typing import Any

from .. import ForethoughtError, UnknownNameError
from ..agent.agent import AgentOptions
from ..agent.bench.runner import BenchOptions
from ..agent.memory.store import MemoryOptions
from ..agent.realtime import DriveOptions
from ..agent.sweep import SweepOptions
from ..agent.training.evaluate import MAX_SEED, EvaluationOptions
from ..agent.training.learner import LearnerOptions
from ..agent.training.loop import TrainingOptions
from ..agent.world_model.model import WorldModelOptions
from ..envs.spec import EnvOptions, LinkOptions, ShiftOptions


class ConfigError(ForethoughtError):
    """A key or value of the configuration that is not accepted."""


@dataclass
class Config:
    """What `forethought train` takes; every key can be overridden as `key=value` or `group.key=value`."""

    env: str = "???"
    """Environment id: any Gymnasium id, `dm_control/<domain>-<task>-v0`, or `module:EnvId`."""
    steps: int = 20_000
    """Decisions to collect in all; whole episodes, so it can be a few more. Frames are decisions x
    env_options.action_repeat."""
    out: str = "runs/${now:%Y-%m-%d_%H-%M-%S}"
    """Run folder."""
    init: str | None = None
    """Folder of a run whose weights, and scales of observations, to begin with; None begins from nothing."""
    resume: str = "auto"
    """`auto` continues the run that is in `out`, `never` refuses a folder that holds one."""
    seed: int = 0
    """Seed of everything that is random."""
    device: str = "cpu"
    """Where the world model and the planner compute (`cpu`, `cuda`, `cuda:1`)."""
    threads: int = 2
    """CPU threads; resuming is exact for the same number."""
    env_options: EnvOptions = field(default_factory=EnvOptions)
    world_model: WorldModelOptions = field(default_factory=WorldModelOptions)
    learner: LearnerOptions = field(default_factory=LearnerOptions)
    training: TrainingOptions = field(default_factory=TrainingOptions)
    agent: AgentOptions = field(default_factory=AgentOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    objective: Any = "???"
    planner: Any = "???"
    defaults: list[Any] = field(
        default_factory=lambda: [{"planner": "icem"}, {"objective": "goal"}, "_self_", {"preset": "default"}]
    )

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("seed", 0), ("threads", 1)):
            _at_least(name, getattr(self, name), least)
        if self.seed > MAX_SEED:
            raise ConfigError(f"seed must be at most {MAX_SEED}, got {self.seed}")
        if self.resume not in ("auto", "never"):
            raise UnknownNameError("resume", self.resume, ("auto", "never"))


@dataclass
class EvalEnvOptions:
    """What an evaluation may change of the environment; the rest is what the agent was trained for."""

    skill: str | None = None
    """Where the skill that acts below lies now; None for where it lay. It must be the one that the run knows."""
    shift: ShiftOptions = field(default_factory=ShiftOptions)
    """Changes of the physical world, to see how an agent stands them; for environments on MuJoCo."""
    link: LinkOptions = field(default_factory=LinkOptions)
    """Latency, jitter and losses between the agent and a simulated robot."""
    goal_ahead: int | None = None
    """Environment steps ahead along an episode of its own that each goal lies, twice as many being the time limit; None
    takes the goals that the environment states."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor that differ from those it was trained with: another maze, say."""


@dataclass
class EvalConfig:
    """What `forethought eval` takes; planner, agent, objective and env_options are the run's unless overridden."""

    run: str = "???"
    """Run folder, as `forethought train` left it."""
    checkpoint: str = "best"
    """`best` or `last`."""
    memory: str | None = None
    """Folder of the memory that the agent goes by, where agent.configurator.mode or agent.retrieval.seeds says so;
    None for the run's own."""
    device: str = "cpu"
    """Where the world model and the planner compute."""
    threads: int = 2
    """CPU threads."""
    env_options: EvalEnvOptions = field(default_factory=EvalEnvOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    agent: AgentOptions = field(default_factory=AgentOptions)
    objective: Any = "???"
    planner: Any = "???"
    defaults: list[Any] = field(default_factory=lambda: [{"planner": "icem"}, {"objective": "goal"}, "_self_"])

    def __post_init__(self) -> None:
        _at_least("threads", self.threads, 1)


@dataclass
class BenchConfig(BenchOptions):
    """What `forethought bench planners` takes."""

    tasks: list[str] = field(default_factory=lambda: ["default"])
    """Tasks by name, as `forethought bench tasks` lists them, or groups of them: default, quick, analytic, mujoco, all,
    none."""
    models: list[str] = field(default_factory=list)
    """Run folders of `forethought train`: the planners also plan in what these have learned."""
    tuned: bool = False
    """Play every planner a second time, as `<planner>_tuned`, with the options that were searched for each task; the
    tasks for which there are none are left out."""
    out: str = "runs/bench"
    """Folder of the results; a comparison that is there already goes on."""
    threads: int = 2
    """CPU threads of PyTorch; simulations take as many as there are CPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("threads", self.threads, 1)


@dataclass
class SweepConfig:
    """What `--multirun` takes beside the options of what it repeats."""

    out: str = "runs/sweep"
    """Folder of the sweep, `trials` among it; a sweep that is there already goes on."""
    sweep: SweepOptions = field(default_factory=SweepOptions)


@dataclass
class DriveEnvOptions(EvalEnvOptions):
    """What a drive may change of the environment, beside what an evaluation may."""

    action_rate: list[float] = field(default_factory=list)
    """Most that each action may change per second, in its units; one number for all or one for each."""
    action_acceleration: list[float] = field(default_factory=list)
    """Most that this rate may change per second, likewise."""


@dataclass
class DriveConfig:
    """What `forethought drive` takes; planner, agent, objective and env_options are the run's unless overridden."""

    run: str = "???"
    """Run folder, as `forethought train` left it."""
    checkpoint: str = "best"
    """`best` or `last`."""
    memory: str | None = None
    """Folder of the memory that the agent goes by, and in which surprise is measured; None for the run's own."""
    device: str = "cpu"
    """Where the world model and the planner compute."""
    threads: int = 2
    """CPU threads."""
    period_s: float | None = None
    """Seconds per decision by the clock; None for those of the environment, its dt times action_repeat."""
    log: str | None = None
    """File for every decision, `.jsonl` or `.mcap`; None for none."""
    env_options: DriveEnvOptions = field(default_factory=DriveEnvOptions)
    drive: DriveOptions = field(default_factory=DriveOptions)
    agent: AgentOptions = field(default_factory=AgentOptions)
    objective: Any = "???"
    planner: Any = "???"
    defaults: list[Any] = field(default_factory=lambda: [{"planner": "icem"}, {"objective": "goal"}, "_self_"])

    def __post_init__(self) -> None:
        _at_least("threads", self.threads, 1)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{name} must be at least {least}, got {value}")
