"""How fast the agent decides, learns and collects: ratios measured in one process, turn by turn.

    python benchmarks/speed.py                                  all parts; keep the machine idle
    python benchmarks/speed.py --parts nano budget
    python benchmarks/speed.py --parts precision --runs runs/reward_control/cartpole_swingup-0

nano        decision (encoder and planner) and update of the preset `nano`, in an episode of 500 decisions
goal        decisions toward a goal, of two presets
budget      a decision at TD-MPC2's own budget, beside the same mathematics written plainly (`plain.py`)
roofline    floating-point operations of these decisions against what matrix products reach here at best
collection  8 environments collected into the memory, beside bare vectorised stepping
scaling     time against samples x iterations x horizon, and memory with and without chunks
dtypes      one network of the planner in every precision, and with products of 8-bit integers: time and error
precision   returns of trained runs planned in float32 and in what is planned in here (else in bfloat16)
"""

import argparse
import copy
import itertools
import math
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from plain import PlainPlanner
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from typing_extensions import override

from forethought.agent.agent import Agent, AgentOptions
from forethought.agent.build import build_objective, build_planner, load_agent
from forethought.agent.compilation import cpp_compiler
from forethought.agent.files import write_json
from forethought.agent.memory.sampler import SequenceBatch
from forethought.agent.memory.store import EpisodeStore
from forethought.agent.objectives import RewardObjective, RewardOptions
from forethought.agent.precision import name_of, planning
from forethought.agent.provenance import command, commit, machine, versions
from forethought.agent.runs import read_card
from forethought.agent.threads import shares_of
from forethought.agent.training.evaluate import episode_seeds, run_arm, score
from forethought.agent.training.learner import Learner
from forethought.agent.training.rollout import AgentPolicy, RandomPolicy, run_episodes
from forethought.agent.world_model.fused import DTYPES, fault, supports
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.agent.world_model.stacked import StackedLinear, StackedMLP
from forethought.configs.register import load
from forethought.configs.schema import Config
from forethought.envs.spec import EnvOptions, EnvSpec
from forethought.envs.vector import make_vector
from forethought.planners.mppi import MPPI, MPPIOptions

RESULTS = Path(__file__).parent / "results" / "speed"
ENV = "dm_control/cartpole-swingup-v0"
TDMPC2_1M = WorldModelOptions(latent_dim=128, hidden_dim=384, ensemble_size=1, bins=101, probe=False)
"""The sizes of TD-MPC2's smallest model (Hansen et al. 2024): latent 128, width 384, two value functions, 101 bins."""
TDMPC2_BUDGET = MPPIOptions(
    horizon=3, num_samples=512, iterations=6, num_elites=64, init_std=1.0, return_mean=True, score_mean=False
)
TDMPC2_OBJECTIVE = RewardOptions(policy_trajectories=24)
FASTEST = {"compile": "auto", "fused": "auto"}
PLAINEST = {"compile": "never", "fused": "never"}
Times = Mapping[str, list[float]]


def percentiles(times: list[float]) -> dict[str, float]:
    """Median and 99th percentile in milliseconds."""
    return {"p50_ms": round(float(np.median(times)), 3), "p99_ms": round(float(np.percentile(times, 99)), 3)}


def turn_by_turn(works: Mapping[str, Callable[[], object]], repeats: int, warmup: int = 10) -> Times:
    """Milliseconds of every work, each called twice per turn and timed the second time; `warmup` turns are left out.

    Threads that PyTorch let work for another one look out for more for milliseconds, on the core that this one needs.
    """
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(warmup + repeats):
        for name, work in works.items():
            work()
            start = time.perf_counter()
            work()
            if turn >= warmup:
                times[name].append(1e3 * (time.perf_counter() - start))
    return times


def spec_of(env_id: str, options: EnvOptions | None = None) -> EnvSpec:
    """What an environment looks like."""
    with closing(make_vector(env_id, 1, options)) as environments:
        return environments.env_spec


def opinionated(model: WorldModel) -> WorldModel:
    """The model with reward and value heads that are not all zero, as they are before training."""
    assert model.control is not None
    generator = torch.Generator().manual_seed(1)
    for net in (model.control.reward, model.control.value, model.control.target):
        last = cast(StackedLinear, net.layers[-1]).weight
        last.data.copy_(torch.randn(last.shape, generator=generator) / 3)
    return model.eval()


def make_agent(
    model: WorldModel,
    options: MPPIOptions,
    objective: RewardOptions,
    dtype: str = "auto",
    how: Mapping[str, str] = FASTEST,
    seed: int = 0,
) -> Agent:
    """An agent that plans with MPPI for reward, one of the `ways`."""
    low, high = torch.tensor(model.spec.action_low), torch.tensor(model.spec.action_high)
    generator = torch.Generator().manual_seed(seed)
    compiling = how["compile"] if cpp_compiler() else "never"
    agent_options = AgentOptions(plan_dtype=dtype, compile=compiling, fused=how["fused"])
    return Agent(model, MPPI(low, high, options), RewardObjective(objective), agent_options, generator)


def decider(agent: Agent, obs: dict[str, torch.Tensor], goal: torch.Tensor | None = None) -> Callable[[], object]:
    """One decision after another, each warm-started by the last."""
    carry = [agent.init(1)]

    def decide() -> None:
        carry[0] = agent.act(obs, carry[0], goal)[1]

    return decide


def some_obs(spec: EnvSpec) -> dict[str, torch.Tensor]:
    """An observation as good as any."""
    generator = torch.Generator().manual_seed(0)
    return {k: torch.randn(1, *a.shape, generator=generator) for k, a in spec.obs.items()}


def ways() -> dict[str, Mapping[str, str]]:
    """What agents are told for each way to compute that this machine has."""
    known: dict[str, Mapping[str, str]] = {
        "fused and compiled": FASTEST,
        "fused": {"compile": "never", "fused": "auto"},
        "compiled": {"compile": "auto", "fused": "never"},
        "plain": PLAINEST,
    }
    missing = {"fused"} if fault() is not None else set()
    missing |= set() if cpp_compiler() else {"compiled"}
    return {name: how for name, how in known.items() if not missing & set(name.split())}


def automatic(purpose: str = "reward") -> str:
    """The dtype that plans for a purpose are made in here where none is asked for."""
    return name_of(planning("auto", "auto", torch.device("cpu"), purpose)[0])


# -- parts -------------------------------------------------------------------------------------------------------------


def nano(arguments: argparse.Namespace) -> dict[str, Any]:
    """Decisions in a real episode, and updates."""
    config: Config = load(Config, [f"env={ENV}", "objective=reward", "preset=nano"])
    options = EnvOptions(action_repeat=2)
    spec, result = spec_of(ENV, options), dict[str, Any]()
    policies, planner = dict[str, AgentPolicy](), cast(MPPIOptions, config.planner)
    for way, how in ways().items():
        model = opinionated(WorldModel(spec, config.world_model, purpose="reward"))
        agent = make_agent(model, planner, config.objective, how=how)
        agent.warm_up()
        policies[way] = AgentPolicy(agent)
    with closing(make_vector(ENV, 1, options)) as environments:
        for episode, policy in itertools.product(range(3), policies.values()):
            if episode == 1:
                policy.statistics.milliseconds.clear()  # the first one warmed up
            run_episodes(environments, policy, [episode])
    for way, policy in policies.items():
        halves = np.reshape(policy.statistics.milliseconds, (2, -1))
        result[f"decision, {way}"] = percentiles(policy.statistics.milliseconds)
        result[f"decision, {way}"]["p99_of_episodes_ms"] = [round(float(np.percentile(h, 99)), 3) for h in halves]
        result[f"decision, {way}"]["decisions_per_episode"] = halves.shape[1]
    updates: dict[str, Callable[[], object]] = {}
    batch = some_batch(spec, config.learner.batch_size, config.learner.window)
    for way in ("compiled", "plain") if cpp_compiler() else ("plain",):
        model = opinionated(WorldModel(spec, config.world_model, purpose="reward"))
        config.learner.compile = "auto" if way == "compiled" else "never"
        learner = Learner(model, config.learner, 1000, torch.Generator().manual_seed(0))
        updates[f"update, {way}"] = partial(learner.update, batch)
    result |= {name: percentiles(times) for name, times in turn_by_turn(updates, arguments.repeats).items()}
    return result


def some_batch(spec: EnvSpec, windows: int, length: int) -> SequenceBatch:
    """Windows of random numbers."""
    generator = torch.Generator().manual_seed(0)
    none = torch.zeros(windows, 0)
    return SequenceBatch(
        obs={k: torch.randn(windows, length + 1, *a.shape, generator=generator) for k, a in spec.obs.items()},
        actions=2 * torch.rand(windows, length, spec.action_dim, generator=generator) - 1,
        rewards=torch.rand(windows, length, generator=generator),
        terminated=torch.zeros(windows, length, dtype=torch.bool),
        goal_obs={}, goal_index=none.long(), goal_steps=none,
    )  # fmt: skip


def goal(arguments: argparse.Namespace) -> dict[str, Any]:
    """Decisions toward a goal, of presets with either kind of distance."""
    result: dict[str, Any] = {}
    for preset, env_id in (("reacher", "forethought/Reacher-v0"), ("rooms", "forethought/Rooms-v0")):
        config: Config = load(Config, [f"env={env_id}", f"preset={preset}"])
        spec = spec_of(env_id)
        model, obs = WorldModel(spec, config.world_model).eval(), some_obs(spec)
        target = torch.zeros(1, model.goal_dim)
        works: dict[str, Callable[[], object]] = {}
        for way, how in ways().items():
            options = AgentOptions(compile=how["compile"], fused=how["fused"])
            planner, objective = build_planner(config.planner, spec, "cpu"), build_objective(config.objective)
            agent = Agent(model, planner, objective, options, torch.Generator().manual_seed(0))
            works[way] = decider(agent, obs, target)
        times = turn_by_turn(works, max(20, arguments.repeats // 4), warmup=5)
        result[preset] = {way: percentiles(values) for way, values in times.items()}
    return result


def budget(arguments: argparse.Namespace) -> dict[str, Any]:
    """Our decision and a plainly written one, at TD-MPC2's sizes and budget."""
    spec = spec_of(ENV)
    model = opinionated(WorldModel(spec, TDMPC2_1M, purpose="reward"))
    obs, plain = some_obs(spec), PlainPlanner(model, TDMPC2_BUDGET, TDMPC2_OBJECTIVE.policy_trajectories)
    warm = [torch.zeros(TDMPC2_BUDGET.horizon, spec.action_dim)]
    generator = torch.Generator().manual_seed(0)

    def plainly() -> None:
        plan = plain(obs, warm[0], generator)
        warm[0] = torch.cat([plan[1:], plan[-1:]])

    works: dict[str, Callable[[], object]] = {"written plainly, float32": plainly}
    agents = {f"ours, {w}": make_agent(model, TDMPC2_BUDGET, TDMPC2_OBJECTIVE, how=how) for w, how in ways().items()}
    agents["ours, plain, float32"] = make_agent(model, TDMPC2_BUDGET, TDMPC2_OBJECTIVE, "float32", PLAINEST)
    works |= {name: decider(agent, obs) for name, agent in agents.items()}
    times = turn_by_turn(works, max(20, arguments.repeats // 4), warmup=5)
    result: dict[str, Any] = {name: percentiles(values) for name, values in times.items()}
    seeds = range(10)
    references = [plain(obs, torch.zeros_like(warm[0]), torch.Generator().manual_seed(seed)) for seed in seeds]
    for name in dict.fromkeys(("float32", "bfloat16", automatic())):
        differences = []
        for seed, reference in zip(seeds, references, strict=True):
            agent = make_agent(model, TDMPC2_BUDGET, TDMPC2_OBJECTIVE, name, seed=seed)
            plan = agent.act(obs, agent.init(1), None)[2]
            assert plan is not None
            differences.append(float((plan.actions[0] - reference).abs().max()))
        result[f"largest difference of the plan, {name}"] = float(np.median(differences))
    slow = result["written plainly, float32"]["p50_ms"]
    result["ratios"] = {name: round(slow / result[name]["p50_ms"], 2) for name in agents}
    return result


def best_rate(dtypes: Sequence[torch.dtype]) -> dict[str, Any]:
    """The highest rate of any square matrix product here, in GFLOP/s, over types, sizes and numbers of threads."""
    best: dict[str, Any] = {"gflops": 0.0}
    before = torch.get_num_threads()
    for threads, dtype in itertools.product((1, before), dtypes):
        torch.set_num_threads(threads)
        multiply = torch._int_mm if dtype == torch.int8 else torch.matmul
        for size in (512, 1024, 2048):
            a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
            times = turn_by_turn({"product": partial(multiply, a, b)}, 7, warmup=2)["product"]
            rate = 2 * size**3 / np.median(times) / 1e6
            if rate < best["gflops"] / 4:
                break  # without instructions for the type larger ones would take minutes
            if rate > best["gflops"]:
                best = {"gflops": round(float(rate), 1), "dtype": name_of(dtype), "size": size, "threads": threads}
    torch.set_num_threads(before)
    return best


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes every matrix product that is computed under it, to compute them `again` and nothing else, on one thread."""

    NAMES = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[partial[torch.Tensor]] = []

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in self.NAMES:
            self.calls.append(partial(func, *(a.clone() for a in args), **(kwargs or {})))
        return func(*args, **(kwargs or {}))

    def again(self) -> None:
        """All products in their order."""
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for call in self.calls:
            call()
        torch.set_num_threads(threads)


def roofline(arguments: argparse.Namespace) -> dict[str, Any]:
    """Operations per second of whole decisions, and of their matrix products alone, against the best product."""
    spec, peak = spec_of(ENV), best_rate((torch.float32, torch.bfloat16, torch.float16))
    config: Config = load(Config, [f"env={ENV}", "objective=reward", "preset=nano"])
    sizes: dict[str, tuple[WorldModelOptions, Any, RewardOptions]] = {
        "nano": (config.world_model, config.planner, config.objective),
        "512 samples": (TDMPC2_1M, TDMPC2_BUDGET, TDMPC2_OBJECTIVE),
    }
    result: dict[str, Any] = {"best product": peak}
    if automatic() == "int8":
        result["best product of 8-bit integers"] = best_rate((torch.int8,))
    for name, (options, planner, objective) in sizes.items():
        model, obs = opinionated(WorldModel(spec, options, purpose="reward")), some_obs(spec)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the counter sees its own thread only
        once = decider(make_agent(model, planner, objective, how=PLAINEST), obs)
        with FlopCounterMode(display=False) as counter:
            once()
        with Products() as products:
            once()
        torch.set_num_threads(threads)
        flops = counter.get_total_flops()
        alone = float(np.median(turn_by_turn({"products": products.again}, 20)["products"]))
        for dtype in dict.fromkeys((automatic(), "float32")):
            decide = decider(make_agent(model, planner, objective, dtype), obs)
            decision = float(np.median(turn_by_turn({"decision": decide}, max(20, arguments.repeats // 2))["decision"]))
            result[f"{name}, {dtype}"] = {
                "mflop": round(flops / 1e6, 3),
                "decision_ms": round(decision, 3),
                "gflops": round(flops / decision / 1e6, 1),
                "products_ms": round(alone / shares_of(model.product_size(planner.num_samples)), 3),
                "share": round(flops / decision / 1e6 / peak["gflops"], 3),
            }
    return result


def collection(arguments: argparse.Namespace) -> dict[str, Any]:
    """Steps per second into the memory, beside stepping alone; random actions, whole episodes."""
    result: dict[str, Any] = {}
    for env_id in ("HalfCheetah-v5", ENV):
        options = EnvOptions(max_episode_steps=250)
        speeds: dict[str, list[float]] = {"stepping": [], "collection": []}
        with (
            tempfile.TemporaryDirectory() as folder,
            closing(make_vector(env_id, 8, options)) as environments,
            EpisodeStore.open(Path(folder) / "memory", "a", environments.env_spec) as store,
        ):
            spec = environments.env_spec
            actions = np.random.default_rng(0).uniform(spec.action_low, spec.action_high, (250, 8, spec.action_dim))
            for first in range(0, 8 * 7, 8):
                seeds = list(range(first, first + 8))
                environments.reset(seeds)
                start = time.perf_counter()
                for action in actions.astype(np.float32):
                    environments.step(action)
                speeds["stepping"].append(8 * 250 / (time.perf_counter() - start))
                start = time.perf_counter()
                store.append_many(run_episodes(environments, RandomPolicy(spec, 4), seeds))
                speeds["collection"].append(8 * 250 / (time.perf_counter() - start))
        medians = {k: float(np.median(v[1:])) for k, v in speeds.items()}
        share = round(medians["collection"] / medians["stepping"], 3)
        result[env_id] = {f"{k}_steps_per_s": round(v) for k, v in medians.items()} | {"share": share}
    return result


def scaling(arguments: argparse.Namespace) -> dict[str, Any]:
    """Times over a grid of budgets, and peak memory with and without chunks."""
    spec = spec_of(ENV)
    model = opinionated(WorldModel(spec, TDMPC2_1M, purpose="reward"))
    obs, points = some_obs(spec), []
    for samples, iterations, horizon in itertools.product((256, 512, 1024, 2048), (2, 6), (3, 6)):
        options = MPPIOptions(horizon=horizon, num_samples=samples, iterations=iterations)
        decide = decider(make_agent(model, options, RewardOptions(), how=PLAINEST), obs)
        times = turn_by_turn({"decision": decide}, 7, warmup=2)["decision"]
        points.append({"samples": samples, "iterations": iterations, "horizon": horizon, **percentiles(times)})
    context = multiprocessing.get_context("spawn")
    memory = []
    for samples, limit in itertools.product((16384, 65536), (None, 4096)):
        with context.Pool(1) as pool:
            memory.append({"samples": samples, "limit": limit, "mib": pool.apply(_peak, (samples, limit))})
    return {"points": points, "memory": memory}


def _peak(samples: int, limit: int | None) -> int:
    """MiB by which one plan raises the peak memory of a process of its own."""
    spec = spec_of(ENV)
    model = opinionated(WorldModel(spec, TDMPC2_1M, purpose="reward"))
    obs = some_obs(spec)
    decider(make_agent(model, MPPIOptions(horizon=3, num_samples=64), RewardOptions(), how=PLAINEST), obs)()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    options = MPPIOptions(horizon=3, num_samples=samples, max_candidates_per_call=limit)
    decider(make_agent(model, options, RewardOptions(), how=PLAINEST), obs)()
    return round((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def precision(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mean returns of trained runs over the same held-out episodes, planned in either precision.

    For rewards, too, how far plans of either precision are from those of float32 with the same random numbers, at
    TD-MPC2's budget: the largest difference in each, on a scale from -1 to 1, median over what is seen in an episode.
    """
    result: dict[str, Any] = {}
    for run in arguments.runs:
        config = read_card(run, "last")["config"]
        row: dict[str, Any] = {"env": config["env"]}
        saved = load_agent(run, "last")
        half = automatic(saved.model.purpose)
        half = half if half != "float32" else "bfloat16"
        env_options = EnvOptions.from_json(config["env_options"])
        if saved.model.purpose == "reward":
            names = tuple(dict.fromkeys(("bfloat16", half)))
            row["plan_differences"] = plan_differences(saved.model, config["env"], env_options, names)
        for dtype in ("float32", half):
            agent = load_agent(run, "last", options=replace(saved.options, plan_dtype=dtype, compile="never"))
            seeds = episode_seeds("test", 1, 0, arguments.episodes)
            with closing(make_vector(config["env"], 10, env_options)) as environments:
                goals = agent.model.purpose == "goal"
                episodes = run_arm(environments, AgentPolicy(agent), seeds, stop_on_success=goals)
            scores = score(episodes, has_goals=goals)
            row[dtype] = {k: scores[k] for k in ("return_mean", "return_ci", "episodes")}
        result[run.name] = row
        print(run.name, row)
    return result


def plan_differences(
    model: WorldModel, env_id: str, options: EnvOptions, names: Sequence[str], count: int = 20
) -> dict[str, float]:
    """What `precision` says of plans, by dtype, for `count` observations of an episode of random actions."""
    spec, generator, seen = model.spec, np.random.default_rng(0), list[dict[str, torch.Tensor]]()
    with closing(make_vector(env_id, 1, options)) as environments:
        obs, _ = environments.reset(episode_seeds("test", 1, 0, 1))
        for _ in range(count):
            seen.append({key: torch.tensor(array) for key, array in obs.items()})
            for _ in range(5):
                action = generator.uniform(spec.action_low, spec.action_high, (1, spec.action_dim))
                obs = environments.step(action.astype(np.float32)).obs
    low, high = torch.tensor(spec.action_low), torch.tensor(spec.action_high)
    found: dict[str, list[float]] = {name: [] for name in names}
    for seed, obs_now in enumerate(seen):
        plans = {}
        for name in ("float32", *names):
            agent = make_agent(
                model, TDMPC2_BUDGET, TDMPC2_OBJECTIVE, name, {"compile": "never", "fused": "auto"}, seed
            )
            plan = agent.act(obs_now, agent.init(1), None)[2]
            assert plan is not None
            plans[name] = 2 * plan.actions[0] / (high - low)
        for name in names:
            found[name].append(float((plans[name] - plans["float32"]).abs().max()))
    return {name: round(float(np.median(values)), 4) for name, values in found.items()}


def dtypes(arguments: argparse.Namespace) -> dict[str, Any]:
    """One head at TD-MPC2's sizes on as many latents as a thread gets, in every precision, on one thread.

    `int8` rounds weights to 8 bits per output and activations to 8 bits per row, each time anew. Errors are those of
    the logits against float64, in units of their standard deviation.
    """
    generator = torch.Generator().manual_seed(0)
    fan_in, rows = TDMPC2_1M.latent_dim + 1, TDMPC2_BUDGET.num_samples * TDMPC2_BUDGET.horizon // 2
    net = StackedMLP(1, [fan_in, *[TDMPC2_1M.hidden_dim] * 2, TDMPC2_1M.bins], last_scale=1.0)
    for weight in net.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=generator) / math.sqrt(weight.shape[-1])
    net.requires_grad_(requires_grad=False)
    x = torch.randn(1, rows, fan_in, generator=generator)
    exact = copy.deepcopy(net).double()(x.double())
    result: dict[str, Any] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    works: dict[str, Callable[[], torch.Tensor]] = {}
    products: dict[str, Callable[[], object]] = {}
    for name in ("float32", "bfloat16", "float16", "int8"):
        dtype = torch.float32 if name == "int8" else getattr(torch, name)
        copied = copy.deepcopy(net).to(dtype)
        copied.freeze()
        function: Callable[[torch.Tensor], torch.Tensor] = Rounded(copied) if name == "int8" else copied
        works[name] = partial(torch.compile(function, dynamic=False) if cpp_compiler() else function, x.to(dtype))
        kind = torch.int8 if name == "int8" else dtype
        weights = [cast(StackedLinear, layer).weight[0].to(kind) for layer in net.layers]
        products[name] = partial(_multiply, [(torch.zeros(rows, len(w), dtype=kind), w) for w in weights])
    for kind in filter(supports, DTYPES):
        copied = copy.deepcopy(net)
        copied.freeze(kind)
        works[f"{name_of(kind)}, fused"] = partial(copied, x)
    with torch.no_grad():
        times, alone = (turn_by_turn(each, arguments.repeats) for each in (works, products))
        for name, work in works.items():
            error = float((work().double() - exact).std() / exact.std())
            least = round(float(np.median(alone[name])), 3) if name in alone else None
            result[name] = percentiles(times[name]) | {"products_ms": least, "error": round(error, 5)}
    torch.set_num_threads(threads)
    for name in works:
        result[name]["times_as_fast"] = round(result["float32"]["p50_ms"] / result[name]["p50_ms"], 2)
    return result


def _multiply(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    for a, b in pairs:
        torch._int_mm(a, b) if a.dtype == torch.int8 else torch.mm(a, b)


class Rounded:
    """A stacked MLP of one member with products of 8-bit integers."""

    def __init__(self, net: StackedMLP) -> None:
        self.norms = net.norms
        self.layers = []
        for layer in net.layers:
            weight = cast(StackedLinear, layer).weight[0]
            scale = weight.abs().amax(dim=0) / 127
            rounded = (weight / scale).round().to(torch.int8)
            sums = rounded.float().sum(dim=0) * scale
            self.layers.append((rounded, scale, sums, cast(StackedLinear, layer).bias[0]))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """`[1, n, in] -> [1, n, out]`."""
        x = self._linear(x[0], 0)
        for i, norm in enumerate(self.norms, 1):
            x = self._linear(torch.nn.functional.silu(norm(x.unsqueeze(0))[0]), i)
        return x.unsqueeze(0)

    def _linear(self, x: torch.Tensor, i: int) -> torch.Tensor:
        weight, scale, sums, bias = self.layers[i]
        low, high = x.amin(dim=-1, keepdim=True), x.amax(dim=-1, keepdim=True)
        centre, step = (low + high) / 2, (high - low) / 254
        return torch._int_mm(((x - centre) / step).round().to(torch.int8), weight) * (step * scale) + (
            centre * sums + bias
        )


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "nano": nano,
    "goal": goal,
    "budget": budget,
    "roofline": roofline,
    "collection": collection,
    "scaling": scaling,
    "dtypes": dtypes,
    "precision": precision,
}


def main() -> None:
    """Measure, print, and write a file for each part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=[p for p in PARTS if p != "precision"])
    parser.add_argument("--repeats", type=int, default=200, help="timed calls of each way")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", nargs="*", type=Path, default=[], help="run folders, for precision")
    parser.add_argument("--episodes", type=int, default=50, help="of each run and precision")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if "precision" in arguments.parts and not arguments.runs:
        parser.error("--parts precision needs --runs")
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    for part in arguments.parts:
        measured = PARTS[part](arguments)
        for name, value in measured.items():
            print(f"{part}: {name}: {value}", flush=True)
        record = {
            "command": f"python benchmarks/{command()}",
            "commit": commit(),
            "seed": 0,
            "threads": arguments.threads,
            "load": round(os.getloadavg()[0], 2),
            "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
            "results": measured,
            "versions": versions(),
            "machine": machine(),
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        write_json(arguments.out / f"{part}.json", record)


if __name__ == "__main__":
    main()
