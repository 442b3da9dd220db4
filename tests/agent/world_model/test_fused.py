"""Fused networks: the same numbers as the networks themselves, however rows are divided, in every precision."""

import contextlib
import copy
import ctypes
import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from forethought.agent.imagination import imagine
from forethought.agent.objectives import ImaginedCost, RewardObjective, RewardOptions
from forethought.agent.precision import planning
from forethought.agent.world_model import fused
from forethought.agent.world_model.control import ControlHeads
from forethought.agent.world_model.distance import PairwiseDistance
from forethought.agent.world_model.dynamics import EnsembleDynamics
from forethought.agent.world_model.encoders import mlp
from forethought.agent.world_model.fused import DTYPES, Fused, FusedMLP
from forethought.agent.world_model.model import WorldModel, WorldModelOptions
from forethought.agent.world_model.stacked import StackedMLP, StackedNorm
from forethought.planners import RiskOptions

Maker = Callable[..., Any]
pytestmark = pytest.mark.skipif(fused.fault() is not None, reason=f"no fused networks here: {fused.fault()}")

TOLERANCE = {torch.float32: 1e-5, torch.float16: 6e-3, torch.bfloat16: 1e-2, torch.int16: 2e-3, torch.int8: 3e-2}
PRECISIONS = [
    pytest.param(d, marks=pytest.mark.skipif(not fused.supports(d), reason="no instructions")) for d in DTYPES
]


def network(sizes: list[int], members: int = 1, seed: int = 0, actions: int = 0) -> StackedMLP:
    """A network whose normalisation does something."""
    torch.manual_seed(seed)
    net = StackedMLP(members, sizes, last_scale=1.0, actions=actions).requires_grad_(requires_grad=False)
    for norm in net.norms:
        assert isinstance(norm, StackedNorm)
        norm.gain.uniform_(0.5, 1.5)
        norm.bias.normal_()
    net.layers[-1].get_parameter("bias").normal_()
    return net


def frozen(net: StackedMLP, dtype: torch.dtype) -> FusedMLP:
    return FusedMLP([net._weights(member) for member in range(net.members)], dtype, net.actions)


def error(got: Tensor, expected: Tensor) -> float:
    """Relative, of all numbers together."""
    return float((got - expected).norm() / expected.norm().clamp(min=1e-6))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(DTYPES),
    st.lists(st.integers(1, 150), min_size=2, max_size=4),
    st.integers(1, 3),
    st.integers(1, 110),
)
def test_the_same_as_the_network(dtype: torch.dtype, sizes: list[int], members: int, rows: int) -> None:
    if not fused.supports(dtype):
        pytest.skip("no instructions")
    net = network([*sizes[:-1], sizes[-1]], members)
    x = torch.randn(members, rows, sizes[0])
    got, expected = frozen(net, dtype)(x), net(x)
    assert got.shape == expected.shape
    assert error(got, expected) < 3 * TOLERANCE[dtype]


def test_a_mean_far_from_zero_is_no_trouble() -> None:
    net = network([4, 32, 3])
    net.layers[0].get_parameter("bias").fill_(300.0)
    x = torch.randn(1, 9, 4)
    assert error(frozen(net, torch.float32)(x), net(x)) < 1e-4


@pytest.mark.parametrize("width", [3, 170, 252, 400, 1000])
def test_whole_numbers_do_not_overflow(width: int) -> None:
    """Products of the largest numbers there are, all with the same sign."""
    net = network([width, 4])
    net.layers[0].get_parameter("weight").fill_(-3.0)
    x = torch.full((1, 7, width), 20.0)
    assert error(frozen(net, torch.int16)(x), net(x)) < 1e-5


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_rows_and_columns_of_any_size(dtype: torch.dtype) -> None:
    net = network([6, 32, 4])
    net.layers[0].get_parameter("weight").mul_(torch.logspace(-2, 2, 32))
    x = torch.randn(1, 9, 6) * torch.logspace(-4, 2, 9)[:, None]
    x[0, 3] = 0
    got, expected = frozen(net, dtype)(x), net(x)
    assert all(error(g, e) < 3 * TOLERANCE[dtype] for g, e in zip(got[0], expected[0], strict=True))


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_rows_do_not_depend_on_what_is_beside_them(dtype: torch.dtype) -> None:
    net = frozen(network([20, 70, 70, 5], members=2), dtype)
    x = torch.randn(2, 200, 20)
    whole = net(x)
    for begin, end in ((0, 1), (3, 100), (47, 49), (150, 200)):
        assert torch.equal(net(x[:, begin:end]), whole[:, begin:end])
    assert torch.equal(net(x[:1]), whole[:1]), "the first of the members alone"


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_what_is_not_a_number_stays_so(dtype: torch.dtype) -> None:
    x, z, actions = torch.randn(1, 60, 9), torch.randn(60, 7), torch.randn(60, 2)
    for broken in (math.nan, math.inf):
        x[0, 50, 3] = z[50, 3] = broken
        for last in (65, 3):
            net = frozen(network([9, 40, 40, last], actions=2), dtype)
            out = net(x)[0]
            assert not out[50].isfinite().any()
            assert out[:50].isfinite().all()
            numbers = net.expect(z, actions, 10.0)[0]
            assert numbers.isnan().nonzero().flatten().tolist() == [50]


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_what_is_not_a_number_stays_in_its_row(dtype: torch.dtype) -> None:
    """Blocks use the same memory one after the other; 3 + 16 numbers fill vectors, and are odd."""
    net = frozen(network([19, 64, 64, 3], actions=16), dtype)
    z, actions = torch.randn(1, 150, 3), torch.randn(150, 2, 16)
    z[0, 0, 1] = math.nan
    out = net.roll_out(z, actions)[0]
    assert not out[0].isfinite().any()
    assert out[1:].isfinite().all()


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_broken_weights_are_not_hidden(dtype: torch.dtype, broken: float) -> None:
    net = network([6, 20, 4])
    net.layers[0].get_parameter("weight")[0, 1, 2] = broken
    assert not frozen(net, dtype)(torch.randn(1, 5, 6)).isfinite().any()


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("part", ["gain", "bias"])
def test_broken_normalisation_is_not_hidden(dtype: torch.dtype, part: str) -> None:
    """The largest of a row is found without looking at what is not a number."""
    net = network([6, 20, 20, 4])
    net.norms[0].get_parameter(part)[0, 0, 3] = math.nan
    assert not frozen(net, dtype)(torch.randn(1, 5, 6)).isfinite().any()


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_actions_are_as_exact_as_they_are(dtype: torch.dtype) -> None:
    """However large the state beside them, whose rounding takes the steps of its own largest number."""
    net = network([8 + 2, 4], actions=2)
    x = torch.randn(1, 30, 10) * torch.tensor([300.0] * 8 + [1.0] * 2)
    nearby = x + 1e-3 * torch.tensor([0.0] * 8 + [1.0] * 2)
    got = frozen(net, dtype)(nearby).double() - frozen(net, dtype)(x).double()
    expected = copy.deepcopy(net).double()(nearby.double()) - copy.deepcopy(net).double()(x.double())
    assert error(got, expected) < 0.05


def test_states_and_actions_of_other_sizes_are_refused() -> None:
    net = frozen(network([5 + 2, 16, 5], actions=2), torch.float32)
    with pytest.raises(ValueError, match=r"must be 5 and 2 numbers, got \(4, 2\)"):
        net.expect(torch.randn(3, 4), torch.randn(3, 2), 10.0)
    with pytest.raises(ValueError, match=r"got \(5, 1\)"):
        net.roll_out(torch.randn(1, 3, 5), torch.randn(3, 2, 1))


@pytest.mark.parametrize("width", [3, 64, 383, 1000])
def test_bytes_do_not_overflow(width: int) -> None:
    net = network([2, width, 4])
    net.norms[0].get_parameter("bias").fill_(50.0)  # all the largest there is, and weights of one sign
    net.layers[-1].get_parameter("weight").fill_(-3.0)
    if fused.supports(torch.int8):
        x = torch.randn(1, 7, 2)
        assert error(frozen(net, torch.int8)(x), net(x)) < 2e-2


def test_strides_do_not_matter() -> None:
    net = frozen(network([6, 32, 4]), torch.float32)
    x = torch.randn(1, 6, 50).transpose(1, 2)
    assert torch.equal(net(x), net(x.contiguous()))
    one = torch.randn(1, 1, 6)
    assert torch.equal(net(one.expand(1, 10, 6)), net(one.repeat(1, 10, 1)))
    assert torch.equal(net(x.double()), net(x.contiguous()))
    assert net(torch.randn(1, 0, 6)).shape == (1, 0, 4)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("members", [1, 3])
def test_states_that_follow(dtype: torch.dtype, members: int) -> None:
    torch.manual_seed(0)
    dynamics = EnsembleDynamics(10, 3, 40, 2, members).requires_grad_(requires_grad=False)
    z, actions = torch.randn(members, 60, 10), torch.randn(60, 4, 3)
    expected, state = [], z
    for t in range(4):
        state = dynamics(state, actions[:, t])
        expected.append(state)
    assert dynamics.roll_out(z, actions) is None
    dynamics.net.freeze(dtype)
    got = dynamics.roll_out(z, actions)
    assert got is not None
    assert error(got, torch.stack(expected, dim=2)) < TOLERANCE[dtype]
    assert torch.equal(got, dynamics.net._fused.roll_out(z, actions.transpose(0, 1).contiguous().transpose(0, 1)))  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("bins", [65, 101])
def test_expected_rewards_and_values(dtype: torch.dtype, bins: int) -> None:
    torch.manual_seed(0)
    heads = ControlHeads(12, 2, 48, bins, 3, 0.9).requires_grad_(requires_grad=False)
    for net in (heads.reward, heads.value):
        net.layers[-1].get_parameter("weight").normal_()
    z, actions = torch.randn(2, 30, 5, 12), torch.randn(2, 30, 5, 2)
    expected = (heads.rewards(z, actions), heads.values(z, actions))
    heads.reward.freeze(dtype), heads.value.freeze(dtype)
    got = (heads.rewards(z, actions), heads.values(z, actions))
    for one, other in zip(got, expected, strict=True):
        assert one.shape == other.shape
        scale = 30 * TOLERANCE[dtype]  # half a digit of a logarithm is much of a number
        assert torch.allclose(one, other, rtol=scale, atol=scale)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("dynamics_layers", [2, 1])
@torch.no_grad()
def test_what_candidates_are_worth(
    toy_spec: Maker, toy_obs: Maker, toy_actions: Maker, dtype: torch.dtype, dynamics_layers: int
) -> None:
    spec = toy_spec("state", None)
    options = WorldModelOptions(latent_dim=16, hidden_dim=24, value_members=3, dynamics_layers=dynamics_layers)
    model = WorldModel(spec, options, purpose="reward")
    heads, objective = model.control, RewardObjective(RewardOptions(risk=RiskOptions("mean_std", 1.0)))
    assert heads is not None
    for net in (heads.reward, heads.value, heads.policy, model.dynamics.net):
        net.layers[-1].get_parameter("weight").normal_(std=0.3)
    z, actions = torch.randn(2, model.latent_dim), toy_actions(spec, (2, 60, 4))
    assert objective.judge(model) is None, "not frozen"
    expected = objective(model, imagine(model, z, actions, 1), None)
    imagined = model.frozen(dtype, fused=True)
    by_parts = objective(imagined, imagine(imagined, z, actions, 1), None)
    seen = toy_obs(spec, (5,))
    assert error(imagined.encode(seen), model.encode(seen)) < 1e-4, "what is seen is in single precision"
    judge = objective.judge(imagined)
    assert (judge is None) == (dynamics_layers == 1), "networks of different depths are judged by parts"
    got = by_parts if judge is None else objective.judged(judge, z, actions)
    assert torch.allclose(got, by_parts, rtol=1e-4, atol=1e-4)
    assert error(got, expected) < 3 * TOLERANCE[dtype]
    assert torch.equal(got, ImaginedCost(imagined, objective, z, None)(actions))
    noise = torch.randn(2, 30, 4, 2)
    proposed, imagined.judge = objective.seeds(imagined, z, noise), None
    assert torch.allclose(proposed, objective.seeds(imagined, z, noise), rtol=1e-3, atol=1e-3)
    assert (proposed - objective.seeds(model, z, noise)).abs().max() < 10 * TOLERANCE[dtype]
    with torch.enable_grad():
        taken = actions.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(ImaginedCost(imagined, objective, z, None)(taken).sum(), taken)
    assert gradient.abs().sum() > 0
    heads.get_buffer("has_terminated").fill_(True)
    assert model.frozen(dtype, fused=True).judge is None, "episodes may end by themselves"


@pytest.mark.parametrize("dtype", PRECISIONS)
@torch.no_grad()
def test_threads_change_no_number(toy_spec: Maker, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = toy_spec("state", None)
    model = WorldModel(spec, WorldModelOptions(latent_dim=16, hidden_dim=24), purpose="reward")
    judge = model.frozen(dtype, fused=True).judge
    assert judge is not None
    z, actions = torch.randn(2, model.latent_dim), torch.rand(2, 151, 3, spec.action_dim)
    alone, counts = judge(z, actions), list[int]()
    monkeypatch.setattr(fused, "shares_of", lambda size: counts.append(int(size)) or 3)

    def same(_: int) -> bool:
        return all(map(torch.equal, alone, judge(z, actions)))

    with ThreadPoolExecutor(3) as pool:  # one at a time has helpers
        assert all(pool.map(same, range(60)))
    assert counts == [2 * 151 * judge.largest] * 60
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        child = os.fork()  # which has no helpers, and must not wait for them
    if child == 0:
        os._exit(0 if same(0) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_distances_and_points(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    distance = PairwiseDistance(9, 4, 64).requires_grad_(requires_grad=False)
    z, point, goal = torch.randn(3, 20, 9), torch.randn(3, 20, 4), torch.randn(3, 1, 4)
    expected = distance(z, point, goal)
    distance.freeze(dtype)
    assert error(distance(z, point, goal), expected) < TOLERANCE[dtype]
    net = mlp([9, 40, 4]).requires_grad_(requires_grad=False)
    assert error(Fused(net, dtype)(z), net(z)) < TOLERANCE[dtype]


def test_gradients_go_through_the_network_itself() -> None:
    net, x = network([5, 16, 2]), torch.randn(1, 7, 5, requires_grad=True)
    (plain,) = torch.autograd.grad(net(x).sum(), x)
    net.freeze(torch.float32)
    (got,) = torch.autograd.grad(net(x).sum(), x)
    assert torch.equal(got, plain)
    distance, point = PairwiseDistance(5, 2, 16).requires_grad_(requires_grad=False), torch.randn(1, 7, 2)
    distance.freeze(torch.float32)
    assert distance(x, point, torch.zeros(2)).requires_grad
    assert Fused(mlp([5, 8, 2]).requires_grad_(requires_grad=False), torch.float32)(x).requires_grad


def test_compiled_code_calls_it() -> None:
    net = network([5, 16, 2])
    net.freeze(torch.float32)
    x, actions, limit = torch.randn(1, 7, 5), torch.randn(7, 3, 2), 10.0
    assert net._fused is not None
    dynamics, heads = (frozen(network([5 + 2, 16, out], actions=2), torch.float32) for out in (5, 65))

    def everything(x: Tensor, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ahead = dynamics.roll_out(x, actions)
        return net(x) * 2, ahead * 2, heads.expect(ahead[0, :, 0], actions[:, 0], limit) + 1

    plain = everything(x, actions)
    compiled = torch.compile(everything, fullgraph=True, dynamic=False)(x, actions)
    for one, other in zip(plain, compiled, strict=True):
        assert torch.equal(one, other)


def test_a_package_brings_a_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fused, "cpp_compiler", lambda: None)
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    assert fused.compiler() is None
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: name if name == "ziglang" else None)
    ran = list[list[str]]()
    monkeypatch.setattr(fused, "_run", lambda command: ran.append(command) or Path(command[-1]).touch() or b"")
    assert fused.build(tmp_path / "cache").exists()
    assert all(command[1:4] == ["-m", "ziglang", "c++"] for command in ran)
    assert len(ran) == 2


def test_builds_once_for_what_it_is_built_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fused.build(tmp_path / "cache")
    assert [path.name for path in first.parent.iterdir()] == [first.name], "nothing else is left behind"
    made, compiled = first.stat().st_mtime_ns, list[str]()
    run = fused._run
    monkeypatch.setattr(fused, "_run", lambda command: compiled.append(command[-1]) or run(command))
    assert fused.build(tmp_path / "cache") == first
    assert first.stat().st_mtime_ns == made
    assert len(compiled) == 1, "asks what the compiler is, and compiles nothing"
    assert fused.build(tmp_path / "cache", (*fused.FLAGS, "-mno-avx512f")) != first


@pytest.mark.parametrize(
    "flags", [("-mno-avx512f",), ("-mno-avx512f", "-mno-avx2"), ("-mno-avx512f", "-mno-avx2", "-mno-fma")]
)
def test_older_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]) -> None:
    monkeypatch.setattr(fused, "FLAGS", (*fused.FLAGS, *flags))
    library = build_and_load(tmp_path)
    monkeypatch.setattr(fused, "_loaded", lambda: (library, ""))
    able = [dtype for dtype in DTYPES if fused.supports(dtype)]
    assert able == [torch.float32, torch.int16]
    net, x = network([30, 50, 50, 7], members=2), torch.randn(2, 100, 30)
    for dtype in able:
        fast = frozen(net, dtype)
        assert error(fast(x), net(x)) < TOLERANCE[dtype]
        for rows in (1, 2, 3, 5, 7):
            assert torch.equal(torch.cat([fast(part) for part in x.split(rows, dim=1)], dim=1), fast(x))


def build_and_load(folder: Path) -> ctypes.CDLL:
    """What `_loaded` loads, from a folder of its own."""
    load: Callable[[], tuple[ctypes.CDLL | None, str]] = fused._loaded.__wrapped__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "build", lambda _, flags=fused.FLAGS, build=fused.build: build(folder, flags))
        library, why = load()
    assert library is not None, why
    return library


@pytest.mark.parametrize(
    ("break_it", "why"),
    [
        (lambda patch: patch.setattr(fused, "compiler", lambda: None), "no C\\+\\+ compiler is installed"),
        (lambda patch: patch.setattr(fused, "compiler", lambda: ["false"]), "false failed"),
        (lambda patch: patch.setattr(fused.platform, "machine", lambda: "arm64"), "processors of the kind arm64"),
        (lambda patch: patch.setattr(fused, "FLAGS", ("-no-such-flag",)), "no-such-flag"),
    ],
)
def test_goes_on_without(
    monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None], why: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    break_it(monkeypatch)
    monkeypatch.setattr(fused, "build", lambda folder, build=fused.build: build(folder, fused.FLAGS))
    with pytest.warns(match=why) if "compiler" not in why and "kind" not in why else contextlib.nullcontext():
        broken = fused._loaded.__wrapped__()
    monkeypatch.setattr(fused, "_loaded", lambda: broken)
    fault = fused.fault()
    assert fault is not None
    with pytest.raises(OSError, match=why):
        raise OSError(fault)
    assert not fused.supports(torch.float32)
    assert planning("float32", "auto", torch.device("cpu")) == (torch.float32, False)
    with pytest.raises(OSError, match=why):
        frozen(network([2, 3]), torch.float32)
