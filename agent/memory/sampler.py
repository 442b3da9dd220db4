"""Batches of short sequences and hindsight goal pairs, drawn from the episodes of a store."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ... import ForethoughtError, UnknownNameError
from ...envs.spec import EnvSpec
from .coverage import cells, places
from .episode import Array, stored_dtype
from .store import EpisodeReader, EpisodeStore, GivenUpError

_Ints = NDArray[np.int64]


class SamplerError(ForethoughtError):
    """Options that cannot be, or episodes that hold no window to draw."""


@dataclass(frozen=True)
class SequenceBatch:
    """B windows of L transitions, each inside one episode, with P hindsight goal pairs each.

    Args:
        obs: `{key: [B, L+1, ...]}`, float32 vectors and uint8 images.
        actions: `[B, L, A]` float32, in the units of the environment.
        rewards: `[B, L]` float32.
        terminated: `[B, L]` bool, true only at the last transition of an episode that ended the task itself.
        goal_obs: `{key: [B, P, ...]}`, observations from the same episode, at or after the state of the pair.
        goal_index: `[B, P]` int64, the state of the pair as an index 0..L into the window.
        goal_steps: `[B, P]` float32, transitions from that state to the goal, 0 or more.
    """

    obs: dict[str, Tensor]
    actions: Tensor
    rewards: Tensor
    terminated: Tensor
    goal_obs: dict[str, Tensor]
    goal_index: Tensor
    goal_steps: Tensor

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device."""
        return type(self)(
            obs={key: value.to(device) for key, value in self.obs.items()},
            actions=self.actions.to(device),
            rewards=self.rewards.to(device),
            terminated=self.terminated.to(device),
            goal_obs={key: value.to(device) for key, value in self.goal_obs.items()},
            goal_index=self.goal_index.to(device),
            goal_steps=self.goal_steps.to(device),
        )


class SequenceSampler:
    """Draws windows of `length` transitions, uniformly over all that lie inside one episode.

    A share of them can be drawn from the windows in which more happens than on average, after Jaderberg et al. 2016
    ("Reinforcement learning with unsupervised auxiliary tasks", skewed sampling): where rewards or contacts are rare, a
    model that sees few of them does not learn what leads to them.

    A share can also be drawn evenly over what was seen: in cells of like size, a window from each cell is as likely,
    however many there are. Where episodes rarely come to some places, a model hardly knows these otherwise.

    Goals are relabelled in hindsight (Andrychowicz et al. 2017, "Hindsight Experience Replay"; the `future` strategy,
    as in Eysenbach et al. 2022): from a state `i` of the window with R transitions left in its episode, the goal is
    the observation `floor(u**goal_power * (R + 1))` transitions later, u uniform in [0, 1).

    Small arrays are kept in memory, smallest rows first, as far as `cache_bytes` reaches; the others are read in place
    from the store. Both give the same batches: they follow from the generator, the options and the set of episodes.

    Args:
        store: where the episodes are; only read.
        env_spec: draw from episodes of this environment, whatever their time limit.
        length: transitions per window, L.
        num_goals: goal pairs per window, P.
        goal_power: 1 draws every goal of the remaining episode alike, more draws near goals more often.
        keys: observations to read; None for all of `env_spec`.
        episode_ids: episodes to draw from; None for all of `env_spec`, those appended later included.
        cache_bytes: memory for the cache.
        focus: what happens in a window: the sum of its `rewards`, or the way that the observation of this key moves.
        focus_share: of the windows that are drawn from those with more of it than the mean over all.
        where: the keys of the observation that say where a window begins; None for all.
        even_share: of the windows, and in their place of the others, that are drawn evenly over where they begin.

    Attributes:
        num_windows: windows that can be drawn.
        num_too_short: episodes left out because they hold fewer than `length` transitions.

    Raises:
        SamplerError: an option is out of range, or `episode_ids` names episodes of another environment.
        UnknownNameError: `env_spec` has no observation of that key.
    """

    def __init__(
        self,
        store: EpisodeStore,
        env_spec: EnvSpec,
        length: int,
        num_goals: int = 0,
        goal_power: float = 2.0,
        keys: Sequence[str] | None = None,
        episode_ids: Iterable[int] | None = None,
        *,
        cache_bytes: int = 1 << 30,
        focus: str = "rewards",
        focus_share: float = 0.0,
        where: Sequence[str] | None = None,
        even_share: float = 0.0,
    ) -> None:
        for name, share in (("focus_share", focus_share), ("even_share", even_share)):
            if not 0 <= share <= 1:
                raise SamplerError(f"{name} must be between 0 and 1, got {share}")
        for name, value, least in (("length", length, 1), ("num_goals", num_goals, 0), ("cache_bytes", cache_bytes, 0)):
            if value < least:
                raise SamplerError(f"{name} must be at least {least}, got {value}")
        if not goal_power > 0:
            raise SamplerError(f"goal_power must be positive, got {goal_power}")
        for key in [*(keys or ()), *(where or ()), *([] if focus == "rewards" else [focus])]:
            if key not in env_spec.obs:
                raise UnknownNameError("observation key", key, env_spec.obs)
        self.store, self.env_spec, self.length = store, env_spec, length
        self.num_goals, self.goal_power = num_goals, goal_power
        self.keys = sorted(env_spec.obs) if keys is None else list(keys)
        self.focus, self.focus_share = focus, focus_share
        self._sums: dict[int, Array] = {}
        self._focused = np.zeros(0, np.int64)
        self.where = sorted(env_spec.obs) if where is None else list(where)
        self.even_share = even_share
        self._places: dict[int, Array] = {}
        self._cells: list[_Ints] = []
        self._counts = np.zeros(0, np.int64)  # windows of each cell
        self._follow_store = episode_ids is None
        self._rows = _Rows(store, env_spec, self.keys, cache_bytes)
        self.refresh(episode_ids)

    def refresh(self, episode_ids: Iterable[int] | None = None) -> None:
        """Draw from these episodes from now on; None for all of the environment, where the sampler began so.

        Only episodes that are new to the sampler are read. Those that the store has given up are left out.
        """
        if episode_ids is None and not self._follow_store:
            raise SamplerError("episode_ids must be given, as it was when the sampler was made")
        self._wanted = None if episode_ids is None else np.unique(np.fromiter(episode_ids, dtype=np.int64))
        self._take_in()

    def _take_in(self) -> None:
        """Read what is new of the episodes that are wanted and kept; again if a writer gives some up meanwhile."""
        while True:
            try:
                self._read_index()
                return
            except GivenUpError:
                self.store.refresh()

    def _read_index(self) -> None:
        known = self.store.ids(spec=self.env_spec)
        ids = known if self._wanted is None else self.store.kept(self._wanted)
        foreign = np.setdiff1d(ids, known)
        if len(foreign):
            raise SamplerError(f"episode_ids must be episodes of {self.env_spec.env_id}, got {foreign[0]}")
        lengths = self.store.lengths(ids)
        enough = lengths >= self.length
        self.num_too_short = int((~enough).sum())
        self._ids, self._lengths = ids[enough], lengths[enough]
        self._terminated = self.store.terminated(self._ids)
        self._ends = np.cumsum(self._lengths - self.length + 1)  # windows of the episodes up to each
        self.num_windows = int(self._ends[-1]) if len(self._ends) else 0
        self._rows.update(self._ids, self._lengths)
        if self.focus_share:
            self._focused = self._above_average()
        if self.even_share:
            self._cells = self._by_cell()
            self._counts = np.array([len(cell) for cell in self._cells], np.int64)

    def _above_average(self) -> _Ints:
        """The windows in which more happens than on average."""
        with self.store.reading() as reader:
            for i in self._ids.tolist():
                if i not in self._sums:
                    total = np.concatenate([[0.0], np.cumsum(self._happening(reader, i), dtype=np.float64)])
                    self._sums[i] = total[self.length :] - total[: -self.length]
        sums = np.concatenate([self._sums[i] for i in self._ids.tolist()]) if len(self._ids) else np.zeros(0)
        return np.flatnonzero(sums > sums.mean()) if len(sums) else np.zeros(0, np.int64)

    def _happening(self, reader: EpisodeReader, episode_id: int) -> Array:
        """How much happens in each transition of an episode."""
        if self.focus == "rewards":
            return reader.array(episode_id, "rewards")
        moved = np.diff(reader.array(episode_id, f"obs/{self.focus}").astype(np.float64), axis=0)
        return np.asarray(np.linalg.norm(moved.reshape(len(moved), -1), axis=-1))

    CELLS = 512
    """Cells that windows are drawn from evenly, at most."""

    def _by_cell(self) -> list[_Ints]:
        """The windows that begin in each cell of what was seen."""
        with self.store.reading() as reader:
            for i, length in zip(self._ids.tolist(), self._lengths.tolist(), strict=True):
                if i not in self._places:
                    starts = length - self.length + 1
                    seen = [places(reader.array(i, f"obs/{key}")[:starts]) for key in self.where]
                    self._places[i] = np.concatenate(seen, axis=-1)
        if not len(self._ids):
            return []
        points = np.concatenate([self._places[i] for i in self._ids.tolist()])
        cell = cells(points, self.CELLS, np.random.default_rng(0))
        parts = np.split(np.argsort(cell, kind="stable"), np.cumsum(np.bincount(cell))[:-1])
        return [part for part in parts if len(part)]

    def sample(self, batch_size: int, rng: np.random.Generator) -> SequenceBatch:
        """Draw `batch_size` windows, independently and with replacement.

        Where a writer in another process has given up episodes that are to be read, draws from the others.

        Raises:
            SamplerError: no episode is long enough.
        """
        if batch_size < 1:
            raise SamplerError(f"batch_size must be at least 1, got {batch_size}")
        while True:
            try:
                return self._sample(batch_size, rng)
            except GivenUpError:
                self.store.refresh()
                self._take_in()

    def _sample(self, batch_size: int, rng: np.random.Generator) -> SequenceBatch:
        if not self.num_windows:
            raise SamplerError(
                f"no episode of {self.env_spec.env_id} holds a window of length={self.length}: "
                f"{self.num_too_short} are shorter, the store {self.store.path} has {len(self.store)} in all"
            )
        window = rng.integers(self.num_windows, size=batch_size)
        if len(self._focused):
            chosen = np.flatnonzero(rng.random(batch_size) < self.focus_share)
            window[chosen] = self._focused[rng.integers(len(self._focused), size=len(chosen))]
        if self._cells:
            chosen = np.flatnonzero(rng.random(batch_size) < self.even_share)
            drawn = rng.integers(len(self._cells), size=len(chosen))
            within = rng.integers(self._counts[drawn])
            window[chosen] = [self._cells[c][k] for c, k in zip(drawn, within, strict=True)]
        episode = np.searchsorted(self._ends, window, side="right")
        length = self._lengths[episode]
        start = window - self._ends[episode] + length - self.length + 1
        index = rng.integers(self.length + 1, size=(batch_size, self.num_goals))
        left = length[:, None] - start[:, None] - index
        gap = np.floor(rng.random((batch_size, self.num_goals)) ** self.goal_power * (left + 1)).astype(np.int64)
        gap = np.minimum(gap, left)
        terminated = np.zeros((batch_size, self.length), dtype=np.bool_)
        terminated[:, -1] = self._terminated[episode] & (start + self.length == length)

        steps = start[:, None] + np.arange(self.length + 1)
        names = [f"obs/{key}" for key in self.keys]
        obs = self._rows.read(names, episode, steps, consecutive=True)
        goal_obs = self._rows.read(names, episode, start[:, None] + index + gap)
        actions, rewards = self._rows.read(["actions", "rewards"], episode, steps[:, :-1], consecutive=True)
        return SequenceBatch(
            obs=dict(zip(self.keys, obs, strict=True)),
            actions=actions,
            rewards=rewards,
            terminated=torch.from_numpy(terminated),
            goal_obs=dict(zip(self.keys, goal_obs, strict=True)),
            goal_index=torch.from_numpy(index),
            goal_steps=torch.from_numpy(gap.astype(np.float32)),
        )


class _Rows:
    """Rows of episodes by episode and time: from arrays in memory where they fit, from the store otherwise.

    An episode of T transitions takes T+1 rows of every cached array, so that one row number serves all of them.
    """

    def __init__(self, store: EpisodeStore, spec: EnvSpec, keys: Sequence[str], cache_bytes: int) -> None:
        self._store, self._cache_bytes = store, cache_bytes
        self._kinds = {f"obs/{k}": (spec.obs[k].shape, np.dtype(stored_dtype(spec.obs[k]))) for k in keys}
        self._kinds |= {"actions": ((spec.action_dim,), np.dtype("f4")), "rewards": ((), np.dtype("f4"))}
        self._cached: dict[str, Array] = {}
        self._first_row: dict[int, int] = {}
        self._num_rows = 0

    def update(self, ids: _Ints, lengths: _Ints) -> None:
        """Hold these episodes from now on."""
        self._close_up(dict(zip(ids.tolist(), (lengths + 1).tolist(), strict=True)))
        used, new, known = self._num_rows, [], bool(self._first_row)
        for episode_id, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            if episode_id not in self._first_row:
                new.append(episode_id)
                self._first_row[episode_id] = self._num_rows
                self._num_rows += length + 1
        self._ids = ids
        self._starts = np.array([self._first_row[i] for i in ids.tolist()], dtype=np.int64)
        # Of episodes that were read before, nothing is read again.
        self._cached = {k: self._grown(k, used) for k in self._fitting() if not known or k in self._cached}
        with self._store.reading() as reader:
            for episode_id in new:
                row = self._first_row[episode_id]
                for name, rows in self._cached.items():
                    array = reader.array(episode_id, name)
                    rows[row : row + len(array)] = array

    def _close_up(self, rows: dict[int, int]) -> None:
        """Leave out the episodes that are not among those with so many rows each; the others move up."""
        if self._first_row.keys() <= rows.keys():
            return
        before, self._first_row, self._num_rows = self._first_row, {}, 0
        for episode_id, first in sorted(before.items(), key=lambda item: item[1]):
            if episode_id in rows:
                at, count = self._num_rows, rows[episode_id]
                for cached in self._cached.values():
                    cached[at : at + count] = cached[first : first + count]
                self._first_row[episode_id], self._num_rows = at, at + count
        if not self._first_row:
            self._cached = {}

    def _fitting(self) -> list[str]:
        """Names of the arrays to hold in memory: the smallest that fit together."""
        sizes = sorted((self._num_rows * _row_bytes(kind), name) for name, kind in self._kinds.items())
        totals = np.cumsum([size for size, _ in sizes])
        return [name for (_, name), total in zip(sizes, totals, strict=True) if total <= self._cache_bytes]

    def _grown(self, name: str, used: int) -> Array:
        """The cached array with room for all rows; grows by half, so that appending costs constant time per row."""
        shape, dtype = self._kinds[name]
        old = self._cached.get(name)
        if old is not None and len(old) >= self._num_rows:
            return old
        room = self._num_rows if old is None else max(self._num_rows, len(old) * 3 // 2)
        grown = np.zeros((room, *shape), dtype=dtype)
        if old is not None:
            grown[:used] = old[:used]
        return grown

    def read(self, names: Sequence[str], episode: _Ints, times: _Ints, *, consecutive: bool = False) -> list[Tensor]:
        """Rows of the named arrays at `times [B, K]` of B episodes (positions among the `ids` of `update`).

        Each comes as `[B, K, ...]`. `consecutive` says that each row of `times` counts up by one.
        """
        rows = self._starts[episode][:, None] + times
        out = {name: self._cached[name].take(rows, axis=0) for name in names if name in self._cached}
        stored = [name for name in names if name not in self._cached]
        for name in stored:
            shape, dtype = self._kinds[name]
            out[name] = np.empty((*times.shape, *shape), dtype=dtype)
        if stored and times.size:
            wanted = times.tolist()
            with self._store.reading() as reader:
                for b, episode_id in enumerate(self._ids[episode].tolist()):
                    for name in stored:
                        if consecutive:
                            out[name][b] = reader.rows(episode_id, name, wanted[b][0], wanted[b][-1] + 1)
                        else:
                            for k, time in enumerate(wanted[b]):
                                out[name][b, k] = reader.rows(episode_id, name, time, time + 1)[0]
        return [torch.from_numpy(out[name]) for name in names]


def _row_bytes(kind: tuple[tuple[int, ...], np.dtype[np.generic]]) -> int:
    shape, dtype = kind
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
