"""Every figure is a PNG that shows its data, in both themes; data that cannot be drawn is named."""

import io
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from forethought.agent.report import plots
from forethought.agent.report.plots import DARK, LIGHT, Interval, PlotError

RNG = np.random.default_rng(0)
METRICS = [
    {
        "update": update,
        "decisions": 3 * update,
        "frames": 6 * update,
        "seconds": 0.1 * update,
        "loss/total": math.exp(-update / 100),
        "loss/signed": -1.0 + update / 100,
        "episode/success": update % 2,
        "episode/return": float(update),
        "latent/std": 1.0,
        "latent/std_min": 0.1,
        "latent/effective_rank": 5.0,
        "latent/warning": "text",
    }
    for update in range(0, 500, 10)
]
REAL = np.cumsum(RNG.normal(size=(4, 20, 8)), axis=1)
PLACES = RNG.uniform(size=(30, 2))
EDGES = RNG.integers(0, 30, (60, 2))
CASES: dict[str, tuple[Callable[..., bytes], tuple[Any, ...]]] = {
    "success": (plots.success_bars, ([Interval("planner", 0.9, 0.8, 0.95), Interval("random", 0.0)],)),
    "return": (plots.return_bars, ([Interval("planner", -3.0, -4.0, -2.0), Interval("random", -50.0)],)),
    "learning": (plots.learning_curves, (METRICS,)),
    "learning, one record": (plots.learning_curves, ([{"update": 0, "decisions": 0, "loss/a": 1.0}],)),
    "returns": (plots.return_curves, (METRICS, {"others": {0: 1.0, 2000: 400.0, 10_000: 500.0}})),
    "returns, one record": (
        plots.return_curves,
        ([{"update": 0, "frames": 5, "seconds": 1.0, "validation/return": 3.0}], {}),
    ),
    "latents": (plots.latent_health_plot, (METRICS,)),
    "imagination": (plots.imagination_plot, (REAL, REAL + 0.1, [f"q{index}" for index in range(8)])),
    "error": (plots.imagination_error, ([1, 2, 3], [0.1, 0.2, 0.3], [0.2, 0.4, 0.6])),
    "error, no baseline": (plots.imagination_error, ([1, 2, 3], [0.1, 0.2, 0.3])),
    "time": (plots.decision_time_hist, (RNG.gamma(20, 1.0, 300),)),
    "time, one value": (plots.decision_time_hist, ([5.0],)),
    "steps": (plots.steps_to_goal_hist, (RNG.integers(3, 80, 100), [40, 41])),
    "steps, one value": (plots.steps_to_goal_hist, ([7],)),
    "calibration": (
        plots.calibration_plot,
        (RNG.uniform(0, 30, 200), RNG.uniform(0, 30, 200), "steps"),
    ),
    "distance": (plots.distance_plot, (RNG.uniform(0, 30, 200), RNG.integers(0, 30, 200))),
    "distance, ensemble": (
        plots.distance_plot,
        (RNG.uniform(0, 30, 200), RNG.integers(0, 30, 200), RNG.uniform(0, 3, 200)),
    ),
    "goal distance": (
        plots.goal_distance_plot,
        (
            {
                name: {"median": [9.0, 5.0, 1.0], "low": [8.0, 4.0, 0.0], "high": [10.0, 7.0, 3.0]}
                for name in ("planner", "random")
            },
            "steps",
        ),
    ),
    "distance, one value": (plots.distance_plot, ([3.0], [4.0], [0.5])),
    "probe": (plots.probe_bars, ([f"q[{i}]" for i in range(9)], RNG.uniform(-0.5, 1, 9), RNG.uniform(-99, 1, 9))),
    "probe, one value": (plots.probe_bars, (["q"], [0.5])),
    "landmarks": (
        plots.landmark_plot,
        (PLACES, EDGES, RNG.integers(0, 3, 60), RNG.integers(0, 2, 60), ["position[0]", "position[1]"]),
    ),
    "calibration, one value": (plots.calibration_plot, ([3.0], [4.0], "steps")),
}


def pixels(png: bytes) -> np.ndarray[Any, np.dtype[np.uint8]]:
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour[1:]))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", CASES)
def test_every_plot_is_a_picture_with_content(name: str, theme: plots.Theme) -> None:
    draw, data = CASES[name]
    image = pixels(draw(*data, theme=theme))
    assert image.shape[0] > 300
    assert image.shape[1] in (860, 1760)
    assert tuple(image[0, 0]) == rgb(theme.background)
    # A figure of axes alone is grey: the series bring colour.
    spread = image.max(axis=2).astype(int) - image.min(axis=2)
    assert (spread > 60).sum() > 60


def test_a_higher_rate_makes_a_longer_bar() -> None:
    def blue(rate: float) -> int:
        image = pixels(plots.success_bars([Interval("planner", rate)])).astype(int)
        return int(((image[..., 2] > 150) & (image[..., 0] < 80)).sum())

    assert blue(0.25) * 3 < blue(1.0) < blue(0.25) * 5


def test_the_dimensions_drawn_are_those_that_vary_most() -> None:
    names = [f"q{index}" for index in range(8)]
    still = REAL.copy()
    still[:, :, 0] = 3.0  # the two that vary least are left out, so their imagination does not matter
    still[:, :, 5] = 1.0
    dream = still + 0.1
    other = dream.copy()
    other[:, :, [0, 5]] += 1.0
    assert plots.imagination_plot(still, dream, names) == plots.imagination_plot(still, other, names)
    other[:, :, 1] += 1.0
    assert plots.imagination_plot(still, dream, names) != plots.imagination_plot(still, other, names)


def test_outliers_do_not_squeeze_the_histogram_of_times() -> None:
    values = np.r_[RNG.gamma(20, 1.0, 500), 1e5]
    assert (pixels(plots.decision_time_hist(values)) != 255).any(axis=2).mean() > 0.1


@pytest.mark.parametrize("name", ["$x", "$\\frac{$", "\\unknown", "日本", "\x00\n", "x" * 500, "", "<b>"])
def test_names_are_text_and_nothing_else(name: str) -> None:
    assert pixels(plots.success_bars([Interval(name, 0.5)])).shape[1] == 860
    assert pixels(plots.imagination_plot(REAL[:1, :, :1], REAL[:1, :, :1], [name])).shape[1] == 1760


def test_gaps_in_the_data_are_left_out() -> None:
    gaps = REAL.copy()
    gaps[0, 3:5] = np.nan
    plots.imagination_plot(REAL, gaps, [f"q{index}" for index in range(8)])
    plots.decision_time_hist([1.0, math.nan, 2.0])
    plots.learning_curves([*METRICS, {"update": 999, "decisions": 0, "loss/total": math.nan}])
    assert plots.calibration_plot([1.0, math.nan], [1.0, 2.0], "x") == plots.calibration_plot([1.0], [1.0], "x")


def test_an_interval_that_excludes_its_value_is_drawn() -> None:
    plots.success_bars([Interval("planner", 1.0, 0.96, 1.0 - 1e-12)])


@pytest.mark.parametrize(
    ("draw", "data", "message"),
    [
        (plots.success_bars, ([],), "rows"),
        (plots.return_bars, ([],), "rows"),
        (plots.learning_curves, ([{"update": 0, "decisions": 0, "speed/updates_per_s": 1.0}],), "loss/"),
        (plots.learning_curves, ([],), "loss/"),
        (plots.return_curves, ([{"update": 0, "loss/a": 1.0}], {}), "episode/return or validation/return"),
        (plots.latent_health_plot, ([{"update": 0, "loss/a": 1.0}],), "latent/std"),
        (plots.imagination_plot, (REAL, REAL[:2], ["q"] * 8), r"must both be \[E, T, D\]"),
        (plots.imagination_plot, (REAL, REAL, ["q"]), "D = 1 names"),
        (plots.imagination_plot, ([[1.0]], [[1.0]], ["q"]), "real must be an array of 3 dimensions"),
        (plots.imagination_plot, ([[[1.0], [1.0, 2.0]]], REAL, ["q"]), "real must be an array of 3 dimensions"),
        (plots.imagination_error, ([1, 2], [0.1], None), "equally long"),
        (plots.imagination_error, ([1, 2], [0.1, 0.2], [0.1]), "equally long"),
        (plots.decision_time_hist, ([],), "ms must be"),
        (plots.decision_time_hist, ([math.nan],), "finite"),
        (plots.steps_to_goal_hist, ([],), "steps must be"),
        (plots.probe_bars, (["a"], [1.0, 2.0]), "a value for each of 1 names, got 2"),
        (plots.probe_bars, (["a"], [1.0], [1.0, 2.0]), "a value for each of 1 names, got 2"),
        (plots.probe_bars, (["a"], [math.nan]), "finite numbers only"),
        (plots.probe_bars, ([], []), "r2 must be an array of 1 dimensions, not empty"),
        (plots.calibration_plot, ([1.0], [1.0, 2.0], "x"), "equally long"),
        (plots.calibration_plot, ([math.nan], [1.0], "x"), "finite"),
    ],
)
def test_data_that_cannot_be_drawn_is_named(draw: Callable[..., bytes], data: tuple[Any, ...], message: str) -> None:
    with pytest.raises(PlotError, match=message):
        draw(*data)


def test_returns_of_others_are_drawn_as_far_as_the_run_goes() -> None:
    def drawn(frames: int) -> bool:
        plain, beside = (plots.return_curves(METRICS, {"others": {0: 1.0, **more}}) for more in ({}, {frames: 400.0}))
        return not np.array_equal(pixels(plain), pixels(beside))

    assert drawn(2900)
    assert not drawn(5000)


def test_no_global_state_is_touched() -> None:
    before = dict(mpl.rcParams)
    first = plots.success_bars([Interval("planner", 0.5)])
    assert dict(mpl.rcParams) == before
    assert plots.success_bars([Interval("planner", 0.5)]) == first
    code = "import sys, forethought.agent.report.html; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ways_are_told_apart_by_their_colour() -> None:
    def drawn(walked: float, failed: float) -> set[str]:
        image = pixels(plots.landmark_plot(PLACES, EDGES, [walked] * 60, [failed] * 60, ["x", "y"])).astype(int)
        red, _, blue = image[150:].reshape(-1, 3).T
        return {
            name for name, found in (("blue", (blue - red > 60).sum()), ("red", (red - blue > 60).sum())) if found > 500
        }

    assert drawn(0, 0) == set()
    assert drawn(2, 0) == {"blue"}
    assert drawn(2, 1) == drawn(0, 1) == {"red"}


def test_a_landmark_without_ways_is_drawn() -> None:
    assert (pixels(plots.landmark_plot([[0.0, 0.0]], [], [], [], ["x", "y"])) < 60).all(axis=2).sum() > 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"places": np.zeros((0, 2))}, "places must be an array of 2 dimensions, not empty"),
        ({"places": np.zeros((3, 3))}, "must be of 2 numbers, got 3 and 2"),
        ({"names": ["x"]}, "must be of 2 numbers, got 2 and 1"),
        ({"walked": [1.0]}, "walked and failed must have a value for each of 60 edges"),
    ],
)
def test_landmarks_that_cannot_be_drawn(changes: dict[str, Any], message: str) -> None:
    parts = {"places": PLACES, "edges": EDGES, "walked": np.zeros(60), "failed": np.zeros(60), "names": ["x", "y"]}
    with pytest.raises(PlotError, match=message):
        plots.landmark_plot(**{**parts, **changes})
