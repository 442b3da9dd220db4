"""Goals in files: what is written is read as it was, pictures fit the model, and everything else is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from forethought.envs.goal_files import goal_picture, read_goal, write_goal
from forethought.envs.pixels import resize
from forethought.envs.spec import ArraySpec, EnvError, EnvSpec, GoalSpec

VECTORS = {"grid": ArraySpec((2, 2), "float32"), "x": ArraySpec((3,), "float32")}
PIXELS = {"pixels": ArraySpec((8, 8, 6), "uint8")}


WHOLE = GoalSpec("observation")


def spec_of(obs: dict[str, ArraySpec], goal: GoalSpec | None = WHOLE) -> EnvSpec:
    return EnvSpec("Some-v0", obs, (-1.0,), (1.0,), 0.1, 10, goal)


def write(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


floats = st.floats(-1e6, 1e6, width=32)


@given(grid=arrays(np.float32, (2, 2), elements=floats), x=arrays(np.float32, (3,), elements=floats))
def test_vectors_are_read_as_they_were_written(tmp_path_factory: Any, grid: Any, x: Any) -> None:
    spec = spec_of(VECTORS)
    suffix, content = write_goal({"x": x, "grid": grid}, spec)
    path = tmp_path_factory.mktemp("goal") / f"goal{suffix}"
    path.write_bytes(content)
    goal = read_goal(path, spec)
    assert list(goal) == ["grid", "x"]
    for key, value in (("grid", grid), ("x", x)):
        np.testing.assert_array_equal(goal[key], value)
        assert goal[key].dtype == np.float32


@given(frame=arrays(np.uint8, (8, 8, 3)))
def test_pictures_are_read_as_they_were_written(tmp_path_factory: Any, frame: Any) -> None:
    stacked = np.concatenate([frame, frame], axis=2)
    suffix, content = write_goal({"pixels": stacked}, spec_of(PIXELS))
    path = tmp_path_factory.mktemp("goal") / f"goal{suffix}"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_goal(path, spec_of(PIXELS))["pixels"], stacked)


def test_a_desired_goal_is_a_vector_of_its_own(tmp_path: Path) -> None:
    spec = spec_of(VECTORS, GoalSpec("achieved", "x", 3))
    goal = read_goal(write(tmp_path / "g.json", {"desired_goal": [1, 2, 3]}), spec)
    assert goal["desired_goal"].tolist() == [1, 2, 3]
    assert write_goal(goal, spec) == (".json", b'{"desired_goal": [1.0, 2.0, 3.0]}')


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".jpg"])
def test_a_picture_of_any_size_is_scaled_and_stacked(tmp_path: Path, suffix: str) -> None:
    picture = np.kron(np.arange(9).reshape(3, 3, 1) * 25, np.ones((16, 16, 3))).astype(np.uint8)  # 48 x 48
    iio.imwrite(tmp_path / f"goal{suffix}", picture)
    goal = read_goal(tmp_path / f"goal{suffix}", spec_of(PIXELS))["pixels"]
    assert goal.shape == (8, 8, 6)
    np.testing.assert_allclose(goal_picture(goal).astype(float), resize(picture, 8), atol=4)  # JPEG is not exact
    np.testing.assert_array_equal(goal[..., :3], goal[..., 3:])


@pytest.mark.parametrize("shape", [(16, 16), (16, 16, 4)])
def test_grey_and_transparent_pictures_become_rgb(tmp_path: Path, shape: tuple[int, ...]) -> None:
    iio.imwrite(tmp_path / "goal.png", np.full(shape, 255, np.uint8))
    assert (read_goal(tmp_path / "goal.png", spec_of(PIXELS))["pixels"] == 255).all()


def test_a_picture_that_is_not_square_fits_exactly_or_not_at_all(tmp_path: Path) -> None:
    spec = spec_of({"camera": ArraySpec((8, 12, 3), "uint8")})
    iio.imwrite(tmp_path / "goal.png", np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3))
    assert read_goal(tmp_path / "goal.png", spec)["camera"][0, 1].tolist() == [3, 4, 5]
    iio.imwrite(tmp_path / "goal.png", np.zeros((16, 24, 3), np.uint8))
    with pytest.raises(EnvError, match="goal must have 12 x 8 pixels, got 24 x 16"):
        read_goal(tmp_path / "goal.png", spec)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("nowhere.png", None, "goal must be a file, but there is no .*nowhere.png"),
        ("goal.png", "no picture", "goal must be a picture, but .*goal.png cannot be read as one"),
        ("goal.json", {"x": [1, 2, 3]}, "goal must be a picture for a model that sees pixels alone, got .*goal.json"),
    ],
)
def test_what_is_no_picture_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    if content is not None:
        write(tmp_path / name, content)
    with pytest.raises(EnvError, match=message):
        read_goal(tmp_path / name, spec_of(PIXELS))


def test_a_picture_of_another_shape_or_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "goal.png"
    iio.imwrite(path, np.random.default_rng(0).integers(256, size=(32, 48, 3), dtype=np.uint8))
    with pytest.raises(EnvError, match=r"what the camera sees, 8:8, got 48 x 32 pixels in .*: crop it"):
        read_goal(path, spec_of(PIXELS))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(EnvError, match=r"goal must be a picture, but .*goal\.png cannot be read"):
        read_goal(path, spec_of(PIXELS))


GRID, X = [[1, 2], [3, 4]], [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("goal.png", "picture", "must be a .json file with the keys grid, x, because the model sees no pixels, got"),
        ("goal.json", "{", "goal must be JSON, but .* cannot be read"),
        ("goal.json", [1, 2], "goal must have the keys grid, x, got list in"),
        ("goal.json", {"x": X}, "goal must have the keys grid, x, got \\['x'\\] in"),
        ("goal.json", {"x": X, "grid": GRID, "y": 1}, "goal must have the keys grid, x, got"),
        ("goal.json", {"x": [1, 2], "grid": GRID}, r"finite numbers of shape \(3,\), got x=\[1, 2\] in"),
        ("goal.json", {"x": [1, 2, float("nan")], "grid": GRID}, r"finite numbers of shape \(3,\), got x="),
        ("goal.json", {"x": ["a", 1, 2], "grid": GRID}, "must consist of numbers, got x="),
        ("goal.json", {"x": [[1], [2, 3]], "grid": GRID}, "must consist of numbers, got x="),
    ],
)
def test_what_are_no_vectors_is_named(tmp_path: Path, name: str, content: Any, message: str) -> None:
    with pytest.raises(EnvError, match=message):
        read_goal(write(tmp_path / name, content), spec_of(VECTORS))


def test_goals_that_no_file_states(tmp_path: Path) -> None:
    path = write(tmp_path / "goal.json", {})
    both = spec_of({**PIXELS, **VECTORS})
    for spec, message in (
        (replace(both, goal=None), "a goal needs an environment with goals, but Some-v0 has none"),
        (both, "must be one picture or vectors alone, but those of Some-v0 are the keys pixels, grid, x: train with"),
    ):
        with pytest.raises(EnvError, match=message):
            read_goal(path, spec)
        with pytest.raises(EnvError, match=message):
            write_goal({}, spec)
