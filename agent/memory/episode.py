"""One episode as arrays, and as records: a JSON header and aligned raw arrays, cut into blocks under checksums.

The first record of an episode is, little endian,

    crc32             u32   over everything between this field and the arrays
    header length     u32
    header            JSON: env_id, key, length, ends, totals, meta; arrays as [name, dtype, shape, offset]; blocks
    zeros                   up to the arrays
    arrays            the first block of them; C order, each starting at a multiple of 64 bytes from the first

and every further record is one more block of the arrays. A window is read in place from the one or two blocks it lies
in, without touching the rest: LMDB's binding touches every page of a record that is looked up.
"""

import itertools
import json
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ... import ForethoughtError, UnknownNameError
from ...envs.spec import ArraySpec, EnvSpec

Array: TypeAlias = NDArray[Any]
Buffer: TypeAlias = bytes | bytearray | memoryview

BLOCK_BYTES: Final = 1 << 18
"""Size of a block of arrays; a multiple of the alignment."""

_PREFIX: Final = struct.Struct("<II")
_ALIGNMENT: Final = 64
_PAGE_HEADER: Final = 16  # a large LMDB value starts this far behind a page boundary
_DTYPES: Final = frozenset({"<f4", "|u1", "|b1"})


class EpisodeError(ForethoughtError):
    """An episode that breaks its contract, or whose bytes are damaged."""


@dataclass(eq=False)
class Episode:
    """One episode of T >= 1 transitions, from reset to its end.

    Vectors are float32, images (see `ArraySpec`) uint8; all floats are finite.

    Args:
        obs: observations `{key: [T+1, ...]}`; entry t is what was seen before action t, entry T what was seen last.
        actions: `[T, A]` float32, in the units of the environment.
        rewards: `[T]` float32.
        success: `[T]` bool, whether the task counted as solved after each transition.
        terminated: whether the last transition ended the task itself.
        truncated: whether the episode was cut off, by a time limit or because the recording stopped.
        goal: the goal as the environment stated it, `{key: [...]}` without time axis; None without a goal.
        meta: further JSON values, such as the policy it came from, the seed and the run.
    """

    obs: dict[str, Array]
    actions: Array
    rewards: Array
    success: Array
    terminated: bool
    truncated: bool
    goal: dict[str, Array] | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of transitions, T."""
        return len(self.actions)

    def arrays(self) -> dict[str, Array]:
        """All arrays under flat names: `obs/<key>`, `actions`, `rewards`, `success`, `goal/<key>`."""
        named = {f"obs/{key}": array for key, array in sorted(self.obs.items())}
        named |= {"actions": self.actions, "rewards": self.rewards, "success": self.success}
        return named | {f"goal/{key}": array for key, array in sorted((self.goal or {}).items())}

    def validate(self, spec: EnvSpec) -> None:
        """Check the episode against the environment it is said to come from.

        Raises:
            EpisodeError: a shape, dtype or value is not what `spec` and the class docstring promise.
        """
        steps = len(self.actions)
        if steps < 1:
            raise EpisodeError("an episode must hold at least 1 transition, got 0")
        if set(self.obs) != set(spec.obs):
            raise EpisodeError(f"obs must have the keys {sorted(spec.obs)} of {spec.env_id}, got {sorted(self.obs)}")
        expected: dict[str, tuple[tuple[int, ...], str]] = {
            f"obs/{key}": ((steps + 1, *array.shape), stored_dtype(array)) for key, array in spec.obs.items()
        }
        expected |= {
            "actions": ((steps, spec.action_dim), "float32"),
            "rewards": ((steps,), "float32"),
            "success": ((steps,), "bool"),
        }
        expected |= {f"goal/{key}": value for key, value in self._expected_goal(spec).items()}
        for name, array in self.arrays().items():
            shape, dtype = expected[name]
            if not isinstance(array, np.ndarray) or array.dtype != dtype:
                raise EpisodeError(f"{name} must be a {dtype} array, got {getattr(array, 'dtype', type(array))}")
            if array.shape != shape:
                raise EpisodeError(f"{name} must have shape {shape}, got {array.shape}")
            if dtype == "float32" and not np.isfinite(array).all():
                raise EpisodeError(f"{name} must be finite, got {array[~np.isfinite(array)].flat[0]}")

    def _expected_goal(self, spec: EnvSpec) -> dict[str, tuple[tuple[int, ...], str]]:
        expected: dict[str, tuple[tuple[int, ...], str]]
        if self.goal is None:
            return {}
        if spec.goal is None:
            raise EpisodeError(f"goal must be None: {spec.env_id} has no goals, got keys {sorted(self.goal)}")
        if spec.goal.kind == "achieved":
            expected = {"desired_goal": ((spec.goal.dim or 0,), "float32")}
        else:
            expected = {key: (array.shape, stored_dtype(array)) for key, array in spec.obs.items()}
        if set(self.goal) != set(expected):
            raise EpisodeError(f"goal must have the keys {sorted(expected)}, got {sorted(self.goal)}")
        return expected

    def to_records(self, env_id: str, key: str | None, block_bytes: int = BLOCK_BYTES) -> list[memoryview]:
        """The episode in the layout of this module; validated before.

        Raises:
            EpisodeError: `meta` is not JSON.
        """
        arrays = self.arrays()
        offsets = [0, *itertools.accumulate(_aligned(array.nbytes) for array in arrays.values())]
        data = bytearray(offsets[-1])
        for array, offset in zip(arrays.values(), offsets, strict=False):
            np.ndarray(array.shape, array.dtype.newbyteorder("<"), data, offset)[...] = array
        blocks = [memoryview(data)[at : at + block_bytes] for at in range(0, max(len(data), 1), block_bytes)]
        header = {
            "env_id": env_id,
            "key": key,
            "length": len(self),
            "terminated": bool(self.terminated),
            "truncated": bool(self.truncated),
            "total_reward": float(self.rewards.sum(dtype=np.float64)),
            "success": bool(self.success.any()),
            "meta": self.meta,
            "arrays": [
                [name, array.dtype.newbyteorder("<").str, array.shape, offset]
                for (name, array), offset in zip(arrays.items(), offsets, strict=False)
            ],
            "block_bytes": block_bytes,
            "checksums": [zlib.crc32(block) for block in blocks],
        }
        try:
            text = json.dumps(header, allow_nan=False, separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            raise EpisodeError(f"meta must hold JSON values only: {error}") from error
        first = bytearray(_arrays_start(len(text)))
        _PREFIX.pack_into(first, 0, 0, len(text))
        first[_PREFIX.size : _PREFIX.size + len(text)] = text
        struct.pack_into("<I", first, 0, zlib.crc32(memoryview(first)[4:]))
        return [memoryview(first + blocks[0]), *blocks[1:]]


@dataclass(frozen=True, slots=True)
class EpisodeLayout:
    """Where the arrays of a stored episode lie; small, because episodes of one shape share `fields`.

    Methods that read take `block`, which returns the arrays' part of the record of that number.
    """

    start: int
    block_bytes: int
    checksums: tuple[int, ...]
    fields: Mapping[str, tuple[tuple[int, ...], np.dtype[Any], int]]

    def part(self, number: int, record: Buffer) -> memoryview:
        """The arrays' part of record `number`."""
        return memoryview(record)[0 if number else self.start :]

    def check(self, number: int, record: Buffer) -> None:
        """Read the arrays in record `number` and raise `EpisodeError` if they are damaged."""
        if zlib.crc32(self.part(number, record)) != self.checksums[number]:
            raise EpisodeError(f"damaged arrays: the checksum of block {number} does not match")

    def array(self, name: str, block: Callable[[int], Buffer]) -> Array:
        """The array of that name; `UnknownNameError` if there is none."""
        shape, dtype, offset = self._field(name)
        size = math.prod(shape) * dtype.itemsize
        return np.ndarray(shape, dtype, self._span(offset, offset + size, block))

    def rows(self, name: str, start: int, stop: int, block: Callable[[int], Buffer]) -> Array:
        """Rows `start:stop` of the array of that name; in place if they lie in one block, else copied."""
        (_, *shape), dtype, offset = self._field(name)
        size = math.prod(shape) * dtype.itemsize
        data = self._span(offset + start * size, offset + stop * size, block)
        return np.ndarray((stop - start, *shape), dtype, data)

    def _field(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any], int]:
        if name not in self.fields:
            raise UnknownNameError("array", name, self.fields)
        return self.fields[name]

    def _span(self, first: int, last: int, block: Callable[[int], Buffer]) -> Buffer:
        number, at = divmod(first, self.block_bytes)
        if at + last - first <= self.block_bytes:
            return memoryview(block(number))[at : at + last - first] if last > first else b""
        data = b"".join(block(k) for k in range(number, (last - 1) // self.block_bytes + 1))
        return memoryview(data)[at : at + last - first]


@dataclass(frozen=True)
class EpisodeHeader:
    """All that is known of a stored episode without its arrays."""

    values: Mapping[str, Any]
    layout: EpisodeLayout

    @classmethod
    def parse(cls, record: Buffer) -> "EpisodeHeader":
        """Read the header in the first record and check it against its checksum; the arrays are not touched.

        Raises:
            EpisodeError: the record is damaged.
        """
        if len(record) < _PREFIX.size:
            raise EpisodeError(f"damaged header: {len(record)} bytes")
        checksum, length = _PREFIX.unpack_from(record)
        start = _arrays_start(length)
        if start > len(record) or zlib.crc32(memoryview(record)[4:start]) != checksum:
            raise EpisodeError("damaged header: the checksum does not match")
        values = json.loads(bytes(record[_PREFIX.size : _PREFIX.size + length]))
        arrays = tuple((name, dtype, tuple(shape), offset) for name, dtype, shape, offset in values.pop("arrays"))
        block_bytes, checksums = values.pop("block_bytes"), tuple(values.pop("checksums"))
        return cls(values, EpisodeLayout(start, block_bytes, checksums, _fields(arrays)))

    def episode(self, block: Callable[[int], Buffer]) -> Episode:
        """All of the episode, in arrays of its own."""
        arrays = {name: self.layout.array(name, block).copy() for name in self.layout.fields}
        goal = {name.removeprefix("goal/"): array for name, array in arrays.items() if name.startswith("goal/")}
        return Episode(
            obs={name.removeprefix("obs/"): array for name, array in arrays.items() if name.startswith("obs/")},
            actions=arrays["actions"],
            rewards=arrays["rewards"],
            success=arrays["success"],
            terminated=self.values["terminated"],
            truncated=self.values["truncated"],
            goal=goal or None,
            meta=self.values["meta"],
        )


def stored_dtype(array: ArraySpec) -> str:
    """The data type an observation is stored in: `uint8` for images, `float32` for everything else."""
    return "uint8" if array.is_image else "float32"


@lru_cache(maxsize=4096)
def _fields(
    arrays: tuple[tuple[str, str, tuple[int, ...], int], ...],
) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any], int]]:
    if not {dtype for _, dtype, _, _ in arrays} <= _DTYPES:
        raise EpisodeError(f"unknown data type among {arrays}")
    return MappingProxyType({name: (shape, np.dtype(dtype), offset) for name, dtype, shape, offset in arrays})


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _arrays_start(header_length: int) -> int:
    """Where the arrays begin, so that they are aligned in memory when the bytes start behind a page header."""
    return _aligned(_PREFIX.size + header_length + _PAGE_HEADER) - _PAGE_HEADER
