"""A ball in a maze of square cells: mazes are text, and the way to a goal leads round walls."""

from typing import Any, ClassVar

import mujoco
import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from ..spec import EnvError
from .base import Arrays, Floats, MujocoGoalTask, Obs, State

_COLOURS = {"floor": (0.70, 0.71, 0.74, 1), "wall": (0.28, 0.32, 0.42, 1), "ball": (0.13, 0.37, 0.78, 1)}


class Maze(MujocoGoalTask):
    """Roll a damped ball to a place in a maze and stop there.

    Observation: `position` (x, y in metres), `velocity` (m/s). Action: force along x and y, in [-1, 1] N, which the
    ball's damping turns into at most 0.5 m/s.

    Starts and goals are anywhere in free cells, and at least `least_cells` apart by the shortest way; where a maze has
    cells marked `S` and `G`, starts are in the former and goals in the latter.

    Args:
        render_mode: see `MujocoGoalTask`.
        layout: a name among `LAYOUTS`, or rows of a maze of one's own from top to bottom, separated by slashes: `#` is
            a wall, anything else is free; walls all round.

    Raises:
        EnvError: the layout is no such name and no such maze.
    """

    frame_skip = 20

    layout: ClassVar[str] = "medium"
    """Where nothing else is asked for."""
    least_cells: ClassVar[float] = 4.0
    """Shortest way from start to goal, in cells, at least."""

    CELL = 0.2
    """Side of a cell, in metres."""
    RADIUS = 0.05
    """Of the ball, in metres."""
    TOLERANCE = 0.05
    """Success: distance from the goal, in metres."""
    MAX_SPEED = 0.2
    """Success: speed, in m/s."""

    def __init__(self, render_mode: str | None = None, layout: str | None = None) -> None:
        cells = _cells(layout or self.layout)
        self.walls: NDArray[np.bool_] = cells == "#"
        marks = cells[~self.walls]
        self._starts, self._goals = (
            np.flatnonzero(marks == mark) if (marks == mark).any() else np.arange(len(marks)) for mark in "SG"
        )
        self.centres = self._centres()
        """Middle of every free cell `[C, 2]`, in metres."""
        self.ways, self._next = shortest_ways(self.walls)
        """Shortest ways `[C, C]` between the middles of free cells, in cells."""
        self._allowed = np.isin(np.arange(len(self.centres)), self._goals) & np.isfinite(self.ways)
        far = self._allowed & (self.ways >= self.least_cells)
        self._starts = self._starts[far[self._starts].any(axis=-1)]
        if not len(self._starts):
            raise EnvError(
                f"layout must have a goal {self.least_cells:g} cells or more by some way from a start, got "
                f"{layout or self.layout!r}"
            )
        super().__init__(render_mode)

    def _centres(self) -> Floats:
        rows, columns = np.nonzero(~self.walls)
        height, width = self.walls.shape
        return self.CELL * np.stack([columns - (width - 1) / 2, (height - 1) / 2 - rows], axis=-1)

    @override
    def load_model(self) -> mujoco.MjModel:
        height, width = self.walls.shape
        half, spec = self.CELL / 2, mujoco.MjSpec()
        spec.option.timestep, spec.option.gravity = 0.01, [0, 0, 0]
        spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
        spec.visual.headlight.ambient, spec.visual.headlight.diffuse = [0.4] * 3, [0.3] * 3
        spec.visual.headlight.specular = [0] * 3
        world, shape = spec.worldbody, mujoco.mjtGeom
        world.add_light(pos=[0, 0, 3], dir=[0.1, 0.1, -1], diffuse=[0.2] * 3)
        extent = half * max(height, width)
        # From straight above, and just high enough to see all of it.
        world.add_camera(name="fixed", pos=[0, 0, 2.5 * extent], fovy=2 * np.degrees(np.arctan(1.02 / 2.5)))
        untouchable = {"contype": 0, "conaffinity": 0}
        world.add_geom(
            name="floor",
            type=shape.mjGEOM_PLANE,
            size=[half * width, half * height, 0.1],
            rgba=_COLOURS["floor"],
            **untouchable,
        )
        for row, column, length in _runs(self.walls):
            middle = (column + (length - 1) / 2 - (width - 1) / 2, (height - 1) / 2 - row)
            world.add_geom(
                type=shape.mjGEOM_BOX, pos=[self.CELL * middle[0], self.CELL * middle[1], half / 2],
                size=[half * length, half, half / 2], rgba=_COLOURS["wall"], condim=1,
            )  # fmt: skip
        ball = world.add_body(name="ball", pos=[0, 0, self.RADIUS])
        for axis, name in enumerate("xy"):
            ball.add_joint(
                name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=np.eye(3)[axis], damping=[2.0, 0, 0], limited=True,
                range=[-half * (width, height)[axis], half * (width, height)[axis]],
            )  # fmt: skip
            motor = spec.add_actuator(name=name, target=name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
            motor.ctrllimited, motor.ctrlrange = True, [-1, 1]
        ball.add_geom(
            name="ball",
            type=shape.mjGEOM_SPHERE,
            size=[self.RADIUS, 0, 0],
            mass=0.4,
            rgba=_COLOURS["ball"],
            condim=1,
        )
        return spec.compile()

    @override
    def observe(self, qpos: Floats, qvel: Floats) -> Obs:
        return {"position": qpos.astype(np.float32), "velocity": qvel.astype(np.float32)}

    @override
    def sample_start(self, rng: np.random.Generator) -> State:
        return self._somewhere(self._starts, rng)

    def _somewhere(self, cells: NDArray[np.intp], rng: np.random.Generator) -> State:
        room = self.CELL / 2 - 1.2 * self.RADIUS
        return self.centres[cells[rng.integers(len(cells))]] + rng.uniform(-room, room, 2), np.zeros(2)

    @override
    def sample_goal(self, rng: np.random.Generator, start: State) -> State:
        cell = self.cell_of(start[0])
        allowed = self._allowed[cell]
        far = allowed & (self.ways[cell] >= self.least_cells)
        if not far.any():  # no episode starts here, but one may be given another goal here
            far = allowed
        while True:
            goal = self._somewhere(self._goals, rng)
            if far[self.cell_of(goal[0])]:
                return goal

    @override
    def reached(self, obs: Arrays, goal: Arrays) -> NDArray[np.bool_]:
        slow = np.linalg.norm(obs["velocity"], axis=-1) < self.MAX_SPEED
        return np.asarray(slow & (_gap(obs["position"], goal["position"]) < self.TOLERANCE))

    @override
    def distance(self, obs: Arrays, goal: Arrays) -> Floats:
        """Length of the way through the middles of cells, the last bit straight."""
        here, there = obs["position"].astype(np.float64), goal["position"].astype(np.float64)
        cell, last = np.broadcast_arrays(self.cell_of(here), self.cell_of(there))
        step = self._next[cell, last]
        round_corners = _gap(here, self.centres[step]) + self.CELL * self.ways[step, last]
        round_corners = round_corners + _gap(self.centres[last], there)
        way = np.where((cell == last) | (step == last), _gap(here, there), round_corners)
        return np.asarray(way + 0.05 * np.linalg.norm(obs["velocity"], axis=-1))

    def cell_of(self, position: Floats) -> NDArray[np.intp]:
        """The free cell `[...]` that holds positions `[..., 2]`, or the nearest to them."""
        gaps = np.abs(position[..., None, :].astype(np.float64) - self.centres).max(axis=-1)
        return np.asarray(gaps.argmin(axis=-1))


class Rooms(Maze):
    """Two rooms and a door: half of the way to most goals leads away from them."""

    layout = "rooms"
    least_cells = 6.0


LAYOUTS: dict[str, str] = {
    "open": "############/" + "#          #/" * 7 + "############",
    "rooms": "###########/#    #    #/#    #    #/#    #    #/#    #    #/#         #/###########",
    # That of OGBench's pointmaze-medium.
    "medium": "########/#  ##  #/#  #   #/##   ###/#  #   #/# #  # #/#   #  #/########",
    # That of OGBench's pointmaze-large.
    "large": "############/#    #     #/# ## # # # #/#      #   #/# #### ### #/#  # #     #/## # # # ###/#  #   #   #/"
    "############",
    "two_doors": "#########/#S  #  G#/#   #   #/#       #/#   #   #/#   #   #/#   #   #/#       #/#########",
    "upper_door": "#########/#S  #  G#/#   #   #/#       #/#   #   #/#   #   #/#   #   #/#   #   #/#########",
    "lower_door": "#########/#S  #  G#/#   #   #/#   #   #/#   #   #/#   #   #/#   #   #/#       #/#########",
}
"""Mazes by name, from top to bottom with slashes between rows."""


def _cells(layout: str) -> NDArray[np.str_]:
    rows = LAYOUTS.get(layout, layout).split("/")
    if len(rows) < 3 or len(set(map(len, rows))) > 1 or len(rows[0]) < 3:
        raise EnvError(
            f"layout must be one of {', '.join(LAYOUTS)}, or three or more rows of one length, separated by slashes, "
            f"got {layout!r}"
        )
    cells = np.array([list(row) for row in rows])
    edge = np.concatenate([cells[0], cells[-1], cells[:, 0], cells[:, -1]])
    if (edge != "#").any() or (cells != "#").sum() < 2:
        raise EnvError(f"layout must have walls (#) all round and two free cells or more inside, got {layout!r}")
    return cells


def shortest_ways(walls: NDArray[np.bool_]) -> tuple[Floats, NDArray[np.intp]]:
    """Shortest ways between free cells, over edges and, where no wall is cut, over corners.

    Args:
        walls: where there are walls, by row and column.

    Returns:
        lengths `[C, C]`, in cells, inf where there is no way; and the cell after the first on each, `[C, C]`.
    """
    free = np.argwhere(~walls)
    offset = free[None] - free[:, None]
    corner = np.abs(offset).max(axis=-1) == 1
    # Both cells beside a diagonal step must be free.
    row, column = free.T
    near = corner & ~walls[row[None], column[:, None]] & ~walls[row[:, None], column[None]]
    ways = np.where(near, np.linalg.norm(offset, axis=-1), np.inf)
    np.fill_diagonal(ways, 0.0)
    steps = np.broadcast_to(np.arange(len(free)), ways.shape).copy()
    for via in range(len(free)):  # Floyd and Warshall (1962)
        longer = ways[:, via, None] + ways[None, via]
        better = longer < ways
        ways = np.where(better, longer, ways)
        steps = np.where(better, steps[:, via, None], steps)
    return ways, steps


def _runs(walls: NDArray[np.bool_]) -> list[tuple[int, int, int]]:
    """Walls as few boxes: `(row, first column, length)` of all that stand side by side."""
    runs = []
    for row, line in enumerate(walls):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], line.astype(int), [0]])))
        runs += [(row, int(first), int(end - first)) for first, end in edges.reshape(-1, 2)]
    return runs


def _gap(a: NDArray[Any], b: NDArray[Any]) -> Floats:
    return np.asarray(np.linalg.norm(np.subtract(a, b, dtype=np.float64), axis=-1))
