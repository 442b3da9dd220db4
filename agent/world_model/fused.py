"""Networks of a model that does not change any more, each evaluated by one call of compiled C++ (`fused.cpp`).

At the sizes that a planner on a CPU can afford, a network of three layers is a dozen operations that read and write
everything once and take about as long to begin as to compute. One call keeps a block of rows in the cache from first
to last layer, and computes in 16 bits, in half precision or in whole numbers, where the processor is faster in them and
PyTorch is not. Nothing depends on it: without a C++ compiler, or where gradients are asked for, the network itself is
evaluated.
"""

import ctypes
import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..compilation import cpp_compiler
from ..threads import shares_of

SOURCE = Path(__file__).with_name("fused.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fPIC", "-shared", "-pthread")
DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.int16, torch.int8)
"""What products can be computed in, by their numbers in `fused.cpp`."""


class LayerWeights(NamedTuple):
    """One layer: weights `[in, out]`, bias `[out]`, and of hidden layers the normalisation's gain and shift `[out]`."""

    weight: Tensor
    bias: Tensor
    gain: Tensor | None = None
    shift: Tensor | None = None


def cache_folder() -> Path:
    """Where compiled code is kept, one file for each version of it, the compiler and the kind of processor."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "forethought"


def compiler() -> list[str] | None:
    """The command of a C++ compiler: PyTorch's, or that of the package `ziglang`; None without either."""
    path = cpp_compiler()
    if path is not None:
        return [path]
    return [sys.executable, "-m", "ziglang", "c++"] if importlib.util.find_spec("ziglang") is not None else None


def build(folder: Path, flags: Sequence[str] = FLAGS) -> Path:
    """Compile `fused.cpp` into a folder, unless that is done; returns the shared library.

    Raises:
        OSError: there is no compiler, it fails, or the folder cannot be written.
    """
    command = compiler()
    if command is None:
        raise FileNotFoundError("no C++ compiler is installed")
    # What the compiler defines says which one it is, its version, and what the processor can do.
    defined = _run([*command, *flags, "-dM", "-E", "-x", "c++", os.devnull])
    name = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(flags).encode(), defined])).hexdigest()[:16]
    library = folder / f"fused-{name}.so"
    if not library.exists():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary) / "fused.so"
            _run([*command, *flags, "-w", str(SOURCE), "-o", str(made)])
            made.replace(library)
    return library


def _run(command: Sequence[str]) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        raise OSError(next((line for line in said if "error" in line.lower()), f"{command[0]} failed"))
    return done.stdout


@cache
def _loaded() -> tuple[ctypes.CDLL | None, str]:
    """The compiled code, and why there is none."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None, f"not written for processors of the kind {platform.machine()}"
    try:
        library = ctypes.CDLL(str(build(cache_folder())))
    except OSError as error:
        if compiler() is not None:
            warnings.warn(f"plans without fused networks: {error}", stacklevel=2)
        return None, str(error)
    number, pointer = ctypes.c_int64, ctypes.c_void_p
    network: list[type[Any]] = [number, pointer, number, number]
    library.forethought_bytes.argtypes, library.forethought_bytes.restype = network, number
    of_rows = [*network, pointer, number]
    arguments = {
        "pack": [*network, pointer, pointer],
        "apply": [*of_rows, pointer, number, pointer],
        "roll_out": [*of_rows, number, pointer, number, pointer, number, number, pointer],
        "expect": [*of_rows, pointer, number, pointer, number, ctypes.c_float, pointer],
        "judge": [
            *network,
            pointer,
            *[number] * 5,
            pointer,
            number,
            pointer,
            *[number] * 2,
            ctypes.c_float,
            pointer,
            pointer,
        ],
    }
    arguments["propose"] = [*network, pointer, *[number] * 3, pointer, number, pointer, *[ctypes.c_float] * 2, pointer]
    for name, types in arguments.items():
        function = getattr(library, f"forethought_{name}")
        function.argtypes, function.restype = types, None
    return library, ""


def fault() -> str | None:
    """Why networks are not fused on this machine; None if they are."""
    library, why = _loaded()
    return None if library is not None else why


def supports(dtype: torch.dtype) -> bool:
    """Whether this machine has fused networks whose products are computed in a dtype."""
    library, _ = _loaded()
    return (
        library is not None
        and dtype in DTYPES
        and library.forethought_bytes(DTYPES.index(dtype), *_array((1, 1)), 0) > 0
    )


@cache
def _array(sizes: tuple[int, ...]) -> tuple["ctypes.Array[ctypes.c_int64]", int]:
    return (ctypes.c_int64 * len(sizes))(*sizes), len(sizes) - 1


class FusedMLP:
    """Networks side by side, with layer normalisation and SiLU between their layers, packed for `fused.cpp`.

    Inputs and outputs are in single precision, and so is all that is between the products. No row depends on those
    beside it, and no number on how rows are divided among calls.

    Args:
        members: the layers of each network, all of the same sizes.
        dtype: of the products, one that is supported; those of actions are in single precision.
        actions: how many of the numbers that go in are actions, the last of them; the others are a state.
    """

    def __init__(self, members: Sequence[Sequence[LayerWeights]], dtype: torch.dtype, actions: int = 0) -> None:
        layers = members[0]
        self.sizes = [len(layers[0].weight), *(layer.weight.shape[1] for layer in layers)]
        self.precision, self.actions = DTYPES.index(dtype), actions
        library, why = _loaded()
        if library is None:
            raise OSError(why)
        network = (self.precision, *_array(tuple(self.sizes)), actions)
        width = library.forethought_bytes(*network)
        self.packed = torch.empty(len(members), width, dtype=torch.uint8)  # PyTorch aligns as vectors want it
        for row, member in zip(self.packed, members, strict=True):
            parts = [part.detach().float().contiguous() for layer in member for part in layer if part is not None]
            pointers = (ctypes.c_void_p * len(parts))(*(part.data_ptr() for part in parts))
            library.forethought_pack(*network, pointers, row.data_ptr())

    def __call__(self, x: Tensor) -> Tensor:
        """`[e, n, in] -> [e, n, out]` by the first `e` networks."""
        compute = torch.ops.forethought.apply if torch.compiler.is_compiling() else _apply
        out: Tensor = compute(self.packed, self.sizes, self.actions, self.precision, x)
        return out

    def roll_out(self, z: Tensor, actions: Tensor) -> Tensor:
        """States `[e, n, H, Z]` that follow on `z [e, n, Z]` by `z + net(z, action)`, for `actions [n, H, A]`."""
        self._check(z, actions)
        compute = torch.ops.forethought.roll_out if torch.compiler.is_compiling() else _roll_out
        out: Tensor = compute(self.packed, self.sizes, self.actions, self.precision, z, actions)
        return out

    def expect(self, z: Tensor, actions: Tensor, limit: float) -> Tensor:
        """Expected numbers `[members, n]` in states `z [n, Z]` of `actions [n, A]`, see `TwoHot`."""
        self._check(z, actions)
        compute = torch.ops.forethought.expect if torch.compiler.is_compiling() else _expect
        out: Tensor = compute(self.packed, self.sizes, self.actions, self.precision, z, actions, limit)
        return out

    def _check(self, z: Tensor, actions: Tensor) -> None:
        got = (z.shape[-1], actions.shape[-1])
        if got != (self.sizes[0] - self.actions, self.actions):
            raise ValueError(
                f"states and actions must be {self.sizes[0] - self.actions} and {self.actions} numbers, got {got}"
            )


def unless_gradients(fused: FusedMLP | None, *inputs: Tensor) -> FusedMLP | None:
    """The networks, if there are any, or None where gradients of these inputs may be asked for."""
    return None if torch.is_grad_enabled() and any(x.requires_grad for x in inputs) else fused


class Judge:
    """What imagined candidates are worth by reward, from the present latent to the last value in one call.

    All that it needs is in a few tensors and numbers, so that compiled code has little to check before it calls it.

    Args:
        dynamics: `z' = z + net(z, action)`, the first member.
        reward: a distribution of the reward of `(z, action)`.
        policy: mean and spread of an action, before tanh.
        value: distributions of what `(z, action)` is worth.
        limit: of the distributions, see `TwoHot`.
        discount: worth of the next decision's reward.
        centre: of actions in real units, `[A]`.
        half_range: of actions in real units, `[A]`.

    Raises:
        ValueError: the networks differ in depth.
    """

    def __init__(
        self,
        dynamics: FusedMLP,
        reward: FusedMLP,
        policy: FusedMLP,
        value: FusedMLP,
        limit: float,
        discount: float,
        centre: Tensor,
        half_range: Tensor,
    ) -> None:
        nets = (dynamics, reward, policy, value)
        if len({len(net.sizes) for net in nets}) > 1:
            raise ValueError(f"networks must have as many layers, got sizes {[net.sizes for net in nets]}")
        self.packed = torch.cat([dynamics.packed[0], reward.packed[0], policy.packed[0], value.packed.flatten()])
        self.sizes = torch.tensor([net.sizes for net in nets])
        self.members, self.actions, self.precision = len(value.packed), dynamics.actions, dynamics.precision
        self.largest = max(a * b for net in nets for a, b in pairwise(net.sizes))
        self.limit, self.discount, self.centre, self.half_range = limit, discount, centre, half_range

    def __call__(self, z: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Rewards and values of candidates; large sets are shared by the threads.

        Args:
            z: latents `[B, Z]`.
            actions: candidates `[B, N, H, A]` in real units.

        Returns:
            rewards `[B, N, H]`, and values `[K, B, N]` of following the policy from where candidates lead.
        """
        compute = torch.ops.forethought.judge if torch.compiler.is_compiling() else _judge
        batch, samples, horizon, dim = actions.shape
        taken = ((actions - self.centre) / self.half_range).reshape(batch * samples, horizon, dim)
        numbers = (self.members, self.actions, self.precision, self.largest)
        rewards, values = compute(self.packed, self.sizes, *numbers, z, taken, self.limit)
        return rewards.reshape(batch, samples, horizon), values.reshape(-1, batch, samples)

    def propose(self, z: Tensor, noise: Tensor, log_std: tuple[float, float]) -> Tensor:
        """Normalised actions `[B, S, H, A]` that the policy takes with noise `[B, S, H, A]`, from `z [B, Z]` on.

        Args:
            z: latents.
            noise: in units of the policy's spread.
            log_std: bounds of the logarithm of that spread.
        """
        library, z, noise = _loaded()[0], _ready(z), noise.float().contiguous()
        assert library is not None
        batch, count, horizon, _ = noise.shape
        out = torch.empty_like(noise)
        library.forethought_propose(
            self.precision, self.sizes.data_ptr(), self.sizes.shape[1] - 1, self.actions, self.packed.data_ptr(),
            batch * count, horizon, count, z.data_ptr(), z.stride(0), noise.data_ptr(), *log_std, out.data_ptr(),
        )  # fmt: skip
        return out


def layers_of(net: nn.Sequential) -> list[LayerWeights]:
    """The weights of an `encoders.mlp` with normalisation."""
    linear = [layer for layer in net if isinstance(layer, nn.Linear)]
    norms = [layer for layer in net if isinstance(layer, nn.LayerNorm)]
    hidden = [
        LayerWeights(layer.weight.T, layer.bias, norm.weight, norm.bias)
        for layer, norm in zip(linear, norms, strict=False)
    ]
    return [*hidden, LayerWeights(linear[-1].weight.T, linear[-1].bias)]


class Fused(nn.Module):
    """An `encoders.mlp` that does not change any more: one call, unless gradients are asked for.

    Args:
        net: the network, which gradients go through.
        dtype: see `FusedMLP`.
    """

    def __init__(self, net: nn.Sequential, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self._fused = net, FusedMLP([layers_of(net)], dtype)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """`[..., in] -> [..., out]`."""
        fused = unless_gradients(self._fused, x)
        if fused is None:
            plain: Tensor = self.net(x)
            return plain
        return fused(x.reshape(1, -1, x.shape[-1])).reshape(*x.shape[:-1], -1)


def _ready(x: Tensor) -> Tensor:
    """In single precision, with the numbers of a row side by side."""
    x = x.float()
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _apply(packed: Tensor, sizes: list[int], dim: int, precision: int, x: Tensor) -> Tensor:
    library, (array, depth), x = _loaded()[0], _array(tuple(sizes)), _ready(x)
    assert library is not None
    members, n, _ = x.shape
    out = torch.empty(members, n, sizes[-1])
    for e in range(members):
        library.forethought_apply(
            precision, array, depth, dim, packed[e].data_ptr(), n, x[e].data_ptr(), x.stride(1), out[e].data_ptr()
        )
    return out


def _roll_out(packed: Tensor, sizes: list[int], dim: int, precision: int, z: Tensor, actions: Tensor) -> Tensor:
    library, (array, depth), z, actions = _loaded()[0], _array(tuple(sizes)), _ready(z), _ready(actions)
    assert library is not None
    members, n, width = z.shape
    steps = actions.shape[1]
    out = torch.empty(members, n, steps, width)
    taken = (actions.data_ptr(), actions.stride(0), actions.stride(1))
    for e in range(members):
        library.forethought_roll_out(
            precision, array, depth, dim, packed[e].data_ptr(), n, steps, z[e].data_ptr(), z.stride(1), *taken,
            out[e].data_ptr(),
        )  # fmt: skip
    return out


def _expect(
    packed: Tensor, sizes: list[int], dim: int, precision: int, z: Tensor, actions: Tensor, limit: float
) -> Tensor:
    library, (array, depth), z, actions = _loaded()[0], _array(tuple(sizes)), _ready(z), _ready(actions)
    assert library is not None
    out = torch.empty(len(packed), len(z))
    read = (len(z), z.data_ptr(), z.stride(0), actions.data_ptr(), actions.stride(0), limit)
    for k in range(len(packed)):
        library.forethought_expect(precision, array, depth, dim, packed[k].data_ptr(), *read, out[k].data_ptr())
    return out


def _judge(
    packed: Tensor,
    sizes: Tensor,
    members: int,
    dim: int,
    precision: int,
    largest: int,
    z: Tensor,
    actions: Tensor,
    limit: float,
) -> tuple[Tensor, Tensor]:
    library, z, actions = _loaded()[0], _ready(z), _ready(actions)
    assert library is not None
    n, steps, depth = len(actions), actions.shape[1], sizes.shape[1] - 1
    rewards, values = torch.empty(n, steps), torch.empty(members, n)
    threads = shares_of(n * largest)
    library.forethought_judge(
        precision, sizes.data_ptr(), depth, dim, packed.data_ptr(), members, threads, n, steps, max(1, n // len(z)),
        z.data_ptr(), z.stride(0), actions.data_ptr(), actions.stride(0), actions.stride(1), limit, rewards.data_ptr(),
        values.data_ptr(),
    )  # fmt: skip
    return rewards, values


# What compiled code calls: it has to know shapes without computing, and cannot look into `ctypes`.
_OPERATORS = torch.library.Library("forethought", "DEF")  # type: ignore[no-untyped-call]


def _operator(name: str, inputs: str, outputs: str, compute: Callable[..., Any], shape: Callable[..., Any]) -> None:
    schema = f"{name}({inputs}) -> {outputs}"
    _OPERATORS.define(schema)  # type: ignore[no-untyped-call]
    _OPERATORS.impl(name, compute, "CPU")  # type: ignore[no-untyped-call]
    torch.library.register_fake(f"forethought::{name}", shape)


def _applied(packed: Tensor, sizes: list[int], dim: int, precision: int, x: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:2], sizes[-1], dtype=torch.float32)


def _rolled_out(packed: Tensor, sizes: list[int], dim: int, precision: int, z: Tensor, actions: Tensor) -> Tensor:
    return z.new_empty(*z.shape[:2], actions.shape[1], z.shape[2], dtype=torch.float32)


def _expected(
    packed: Tensor, sizes: list[int], dim: int, precision: int, z: Tensor, actions: Tensor, limit: float
) -> Tensor:
    return z.new_empty(len(packed), len(z), dtype=torch.float32)


def _judged(
    packed: Tensor,
    sizes: Tensor,
    members: int,
    dim: int,
    precision: int,
    largest: int,
    z: Tensor,
    actions: Tensor,
    limit: float,
) -> tuple[Tensor, Tensor]:
    n, steps, _ = actions.shape
    return z.new_empty(n, steps, dtype=torch.float32), z.new_empty(members, n, dtype=torch.float32)


_NET, _TAKEN = "Tensor packed, int[] sizes, int dim, int precision", "Tensor z, Tensor actions"
_operator("apply", f"{_NET}, Tensor x", "Tensor", _apply, _applied)
_operator("roll_out", f"{_NET}, {_TAKEN}", "Tensor", _roll_out, _rolled_out)
_operator("expect", f"{_NET}, {_TAKEN}, float limit", "Tensor", _expect, _expected)
_operator(
    "judge",
    f"Tensor packed, Tensor sizes, int members, int dim, int precision, int largest, {_TAKEN}, float limit",
    "(Tensor, Tensor)",
    _judge,
    _judged,
)
