"""Moments like the present one: what was done after them is where a search may begin.

The moments of all episodes of one environment are found by their latents. Of those nearest to the present one, the ones
count whose sequel ended nearest to the goal by the learned distance; the actions of these sequels are tried in planning
beside what the planner draws itself. Looking up what was done in a situation like this is episodic control
(Blundell et al., "Model-free episodic control", 2016; Pritzel et al., "Neural episodic control", 2017); here it only
suggests, and what it suggests has to stand the test of the model.

Latents are a model's view of moments. They are kept in the notes of the store under a hash of all the weights that they
come from, and computed anew for every other model.
"""

import importlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save
from torch import Tensor
from typing_extensions import override

from ... import ForethoughtError
from ..threads import threads_for
from ..world_model.model import WorldModel
from .moments import encoder_key, moments_of, note_name
from .store import EpisodeStore, GivenUpError

NOTE = "index/"
"""Where a store keeps the latents of an environment: under this and its id."""
SEARCHES = ("auto", "exact", "faiss")


class RetrievalError(ForethoughtError):
    """Options of retrieval that are out of range or contradict each other, or a library that is missing."""


@dataclass
class RetrievalOptions:
    """What planning takes from moments like the present one."""

    seeds: int = 0
    """Action sequences from memory that every search tries, of those that led nearest to where it is to go; they count
    among planner.num_samples. 0 for none."""
    neighbours: int = 64
    """Moments nearest to the present one among whose sequels they are chosen."""
    stride: int = 1
    """Every which moment of an episode can be found."""
    search: str = "auto"
    """`exact`, `faiss` (approximate; with the extra `ann`), or `auto`: exact up to 200,000 moments, and beyond that
    faiss where it is installed."""

    def __post_init__(self) -> None:
        if self.seeds < 0:
            raise RetrievalError(f"seeds must be at least 0, got {self.seeds}")
        if self.neighbours < max(self.seeds, 1):
            raise RetrievalError(f"neighbours must be at least {max(self.seeds, 1)}, got {self.neighbours}")
        if self.stride < 1:
            raise RetrievalError(f"stride must be at least 1, got {self.stride}")
        if self.search not in SEARCHES:
            raise RetrievalError(f"search must be one of {', '.join(SEARCHES)}, got {self.search!r}")


class Search(Protocol):
    """Finds the nearest of `N` points."""

    def nearest(self, z: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The points nearest to each of `z [B, Z]`, nearest first.

        Returns:
            their rows `[B, k]` and Euclidean distances `[B, k]`, with `k = min(count, N)`.
        """
        ...


class ExactSearch(Search):
    """Compares with all points.

    Args:
        points: `[N, Z]`.
    """

    ROWS = 1 << 14
    """Points compared at once."""

    def __init__(self, points: Tensor) -> None:
        # Squares of distances come as differences, of numbers that should be no larger than they have to be.
        self.centre = points.mean(dim=0) if len(points) else points.new_zeros(points.shape[1])
        self.points = points - self.centre
        self.squares = self.points.square().sum(dim=1)

    @override
    def nearest(self, z: Tensor, count: int) -> tuple[Tensor, Tensor]:
        count, z = min(count, len(self.points)), z - self.centre
        least, rows = z.new_zeros(len(z), 0), z.new_zeros(len(z), 0, dtype=torch.int64)
        with threads_for(len(z) * min(self.ROWS, len(self.points)) * z.shape[1]):
            for begin in range(0, len(self.points), self.ROWS):
                part = slice(begin, begin + self.ROWS)
                squares = torch.addmm(self.squares[part], z, self.points[part].T, alpha=-2)  # but for that of z
                found = squares.topk(min(count, squares.shape[1]), largest=False)
                least, rows = torch.cat([least, found.values], dim=1), torch.cat([rows, found.indices + begin], dim=1)
            rows = rows.gather(1, least.topk(count, largest=False).indices)
        return _sorted(z, self.points, rows)


class FaissSearch(Search):
    """Compares with the points of the cells around (Douze et al., "The faiss library", 2024); approximate.

    Args:
        points: `[N, Z]`.

    Raises:
        RetrievalError: faiss is not installed.
    """

    PROBED = 16
    """Cells that are looked into."""

    def __init__(self, points: Tensor) -> None:
        try:
            faiss = importlib.import_module("faiss")
        except ImportError as error:
            raise RetrievalError("search=faiss needs faiss: pip install 'forethought[ann]'") from error
        self.points, dim = points, points.shape[1]
        cells = max(1, min(round(4 * len(points) ** 0.5), len(points) // 39))  # faiss wants 39 points for each
        self._index: Any = faiss.IndexIVFFlat(faiss.IndexFlatL2(dim), dim, cells)
        self._index.nprobe = min(self.PROBED, cells)
        if len(points):
            array = np.ascontiguousarray(points.cpu().numpy(), np.float32)
            self._index.train(array)
            self._index.add(array)

    @override
    def nearest(self, z: Tensor, count: int) -> tuple[Tensor, Tensor]:
        count = min(count, len(self.points))
        if not count:
            return z.new_zeros(len(z), 0, dtype=torch.int64), z.new_zeros(len(z), 0)
        _, found = self._index.search(np.ascontiguousarray(z.cpu().numpy(), np.float32), count)
        rows = torch.from_numpy(found).to(z.device)
        return _sorted(z, self.points, torch.where(rows < 0, rows[:, :1], rows))  # -1 where the cells held too few


def _sorted(z: Tensor, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[B, k]` of points by their distance from `z [B, Z]`, and the distances."""
    distance = (points[rows] - z[:, None]).square().sum(dim=-1).sqrt()
    order = distance.argsort(dim=1, stable=True)
    return rows.gather(1, order), distance.gather(1, order)


MANY = 200_000
"""Moments beyond which `search=auto` goes by faiss, where it is installed."""


def make_search(points: Tensor, kind: str = "auto") -> Search:
    """A search in points `[N, Z]` of the kind that `RetrievalOptions.search` names.

    Raises:
        RetrievalError: faiss is asked for and not installed.
    """
    if kind == "faiss" or (kind == "auto" and len(points) > MANY and importlib.util.find_spec("faiss") is not None):
        return FaissSearch(points)
    return ExactSearch(points)


class MomentIndex:
    """The moments of a memory as one world model sees them, and what was done after each; made by `open_index`.

    Args:
        model: made for goals; what latents and distances are.
        options: see `RetrievalOptions`.
        episodes: by their number, latents `[T // stride + 1, Z]` and actions `[T, A]` of each.

    Attributes:
        moments: episode and step of each moment, `[N, 2]`.
        latents: `[N, Z]`.
    """

    def __init__(
        self, model: WorldModel, options: RetrievalOptions, episodes: dict[int, tuple[Tensor, Tensor]]
    ) -> None:
        self.model, self.options = model, options
        device, stride = next(model.parameters()).device, options.stride
        steps = [np.arange(0, len(actions) + 1, stride) for _, actions in episodes.values()]
        names = [np.stack([np.full_like(at, i), at], axis=1) for i, at in zip(episodes, steps, strict=True)]
        self.moments: NDArray[np.int64] = np.concatenate([np.zeros((0, 2), np.int64), *names])
        none = torch.zeros(0, model.latent_dim), torch.zeros(0, model.spec.action_dim)
        latents, actions = zip(none, *episodes.values(), strict=True)
        self.latents = torch.cat([part.to(device) for part in latents])
        self._actions = torch.cat([part.to(device) for part in actions])
        begin = np.cumsum([0, *(len(part) for part in actions[1:])])
        first = [at + start for at, start in zip(steps, begin, strict=False)]  # the action after each moment
        left = [len(part) - at for at, part in zip(steps, actions[1:], strict=True)]  # the actions after it
        self._first, self._left = (
            torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts])).to(device) for parts in (first, left)
        )
        self._ready: tuple[int, Tensor, Search] | None = None  # made for one horizon, when it is first asked for

    def __len__(self) -> int:
        return len(self.moments)

    @torch.no_grad()
    def nearest(self, z: Tensor, count: int, horizon: int = 0) -> tuple[Tensor, Tensor]:
        """The moments whose latents are nearest to `z [B, Z]`, of those after which at least `horizon` actions came.

        Returns:
            their numbers `[B, k]`, nearest first, and their latent distances `[B, k]`; `k` is `count`, or less where
            there are no more.
        """
        if self._ready is None or self._ready[0] != horizon:
            rows = torch.nonzero(self._left >= horizon)[:, 0]
            self._ready = horizon, rows, make_search(self.latents[rows], self.options.search)
        _, rows, search = self._ready
        found, distance = search.nearest(z, count)
        return rows[found], distance

    @torch.no_grad()
    def seeds(self, z: Tensor, goal: Tensor, horizon: int, count: int) -> Tensor:
        """What was done after moments like the present one, where it led nearest to the goal.

        Args:
            z: present latents `[B, Z]`.
            goal: goal embeddings `[B, G]`.
            horizon: length of the sequences, `H`; at least the stride.
            count: how many of them, `S`; at most `neighbours`.

        Returns:
            actions `[B, S, H, A]` in real units, best first; fewer where memory holds fewer of such length.

        Raises:
            RetrievalError: `horizon` or `count` is out of range.
        """
        stride, most = self.options.stride, self.options.neighbours
        if horizon < stride:
            raise RetrievalError(f"horizon must be at least stride={stride}, got {horizon}")
        if not 0 <= count <= most:
            raise RetrievalError(f"count must be between 0 and neighbours={most}, got {count}")
        rows, _ = self.nearest(z, most, horizon)
        ends = self.latents[rows + horizon // stride]  # [B, k, Z]; the last that can be found, where that is not H
        with threads_for(self.model.product_size(rows.numel())):
            steps = self.model.steps_to_goal(ends, goal[:, None]).mean(dim=0)
        best = rows.gather(1, steps.argsort(dim=1, stable=True)[:, :count])
        return self._actions[self._first[best][..., None] + torch.arange(horizon, device=z.device)]


# -- from and to a store ----------------------------------------------------------------------------------------------


def open_index(
    model: WorldModel,
    store: EpisodeStore,
    options: RetrievalOptions,
    *,
    keep: bool = True,
    on_episode: Callable[[int, int], None] | None = None,
) -> MomentIndex:
    """The index of all episodes of the model's environment in a store.

    What the notes of the store hold for this very encoder is taken from there, and the rest is computed.

    Args:
        model: made for goals.
        store: of episodes; its arrays are copied, so that it can be closed.
        options: see `RetrievalOptions`.
        keep: note latents that were computed, if the store can be written.
        on_episode: told how many of how many episodes were computed.
    """
    key, name = encoder_key(model, options.stride), note_name(NOTE, model.spec)
    known = _recalled(name, key, store, options.stride)
    ids = store.ids(spec=model.spec).tolist()
    new, done = [i for i in ids if i not in known], 0
    episodes: dict[int, tuple[Tensor, Tensor]] = {}
    for episode_id in ids:
        try:
            with store.reading() as reader:
                actions = np.array(reader.array(episode_id, "actions"))
                latents = known.get(episode_id)
                if latents is None:
                    obs = {k: np.array(reader.array(episode_id, f"obs/{k}")) for k in model.spec.obs}
                    latents, done = _latents(model, obs, actions, options.stride), done + 1
        except GivenUpError:  # by a writer meanwhile
            continue
        episodes[episode_id] = latents, torch.from_numpy(actions)
        if on_episode is not None and episode_id not in known:
            on_episode(done, len(new))
    if keep and store.writable and (new or known.keys() - set(ids)):
        rows = [latents for latents, _ in episodes.values()]
        note: dict[str, NDArray[Any]] = {
            "key": np.frombuffer(key, np.uint8),
            "ids": np.array(list(episodes), np.int64),
            "latents": torch.cat([torch.zeros(0, model.latent_dim), *rows]).numpy(),
        }
        store.annotate({name: save(note)})
    return MomentIndex(model, options, episodes)


@torch.no_grad()
def _latents(model: WorldModel, obs: dict[str, NDArray[Any]], actions: NDArray[Any], stride: int) -> Tensor:
    latents, _, _ = moments_of(model, obs, actions, stride)
    return latents.float().cpu()


def _recalled(name: str, key: bytes, store: EpisodeStore, stride: int) -> dict[int, Tensor]:
    """Latents by episode that a note holds, none if they are not those of this encoder or it is damaged."""
    try:
        note = store.note(name)
        if note is None:
            return {}
        arrays = load(note)
        if arrays["key"].tobytes() != key:
            return {}
        ids, latents = arrays["ids"], torch.from_numpy(arrays["latents"])
        counts = (store.lengths(ids) // stride + 1).tolist()
        return dict(zip(ids.tolist(), torch.split(latents, counts), strict=True))
    except (SafetensorError, KeyError, ValueError, RuntimeError, ForethoughtError):
        return {}  # what can be computed again need not be complained about
