"""Goals in files: a picture where a goal is one, JSON where it is numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from numpy.typing import NDArray

from .gymnasium_adapter import Obs
from .pixels import Image, resize
from .spec import ArraySpec, EnvError, EnvSpec

_RGB = 3


def read_goal(path: Path, spec: EnvSpec) -> Obs:
    """The goal that a file states, in the form of `info["goal"]`: without batch dimension.

    Where observations are one image, the file is a picture of any format and size, as seen by the environment's
    camera; it is scaled to the image's size and stacked as often as frames are. Where a goal consists of vectors it is
    JSON: `{"position": [0.1, 0.2], "velocity": [0, 0]}`, or `{"desired_goal": [...]}`.

    Raises:
        EnvError: the file is missing or is not what the environment's goals need, or there are no goals.
    """
    key, arrays = _stated(spec)
    if not path.is_file():
        raise EnvError(f"goal must be a file, but there is no {path}")
    if key is not None:
        if path.suffix == ".json":
            raise EnvError(f"goal must be a picture for a model that sees pixels alone, got {path}")
        height, width, channels = arrays[key].shape
        frame = _read_picture(path, height, width)
        return {key: np.concatenate([frame] * (channels // _RGB), axis=2)}
    if path.suffix != ".json":
        raise EnvError(f"goal must be a .json file with {_keys(arrays)}, because the model sees no pixels, got {path}")
    return _read_vectors(path, arrays)


def write_goal(goal: Mapping[str, NDArray[Any]], spec: EnvSpec) -> tuple[str, bytes]:
    """What `read_goal` reads as this goal: the suffix of the file, `.png` or `.json`, and its content.

    Raises:
        EnvError: there are no goals, or they are pictures and vectors together.
    """
    key, arrays = _stated(spec)
    if key is not None:
        return ".png", iio.imwrite("<bytes>", goal_picture(goal[key]), extension=".png", plugin="pillow")
    return ".json", json.dumps({k: goal[k].tolist() for k in arrays}).encode()


def goal_picture(stacked: Image) -> Image:
    """The newest frame `[height, width, 3]` of an image of stacked ones."""
    return stacked[..., -_RGB:]


def _stated(spec: EnvSpec) -> tuple[str | None, dict[str, ArraySpec]]:
    """Which image a goal is, if it is one, and the arrays that a goal consists of."""
    if spec.goal is None:
        raise EnvError(f"a goal needs an environment with goals, but {spec.env_id} has none")
    if spec.goal.kind == "achieved":
        return None, {"desired_goal": ArraySpec((spec.goal.dim or 0,), "float32")}
    images = [key for key, array in spec.obs.items() if array.is_image]
    if images and len(spec.obs) > 1:
        raise EnvError(
            f"a goal in a file must be one picture or vectors alone, but those of {spec.env_id} are {_keys(spec.obs)}: "
            "train with env_options.observation=pixels or state"
        )
    return (images[0] if images else None), dict(spec.obs)


def _read_picture(path: Path, height: int, width: int) -> Image:
    try:
        picture = iio.imread(path, plugin="pillow", index=0, mode="RGB", rotate=True)
    except Exception as error:  # what a decoder raises for a damaged file is anything
        raise EnvError(f"goal must be a picture, but {path} cannot be read as one: {type(error).__name__}") from error
    if picture.shape[0] * width != picture.shape[1] * height:
        raise EnvError(
            f"goal must have the shape of what the camera sees, {width}:{height}, "
            f"got {picture.shape[1]} x {picture.shape[0]} pixels in {path}: crop it"
        )
    if height == width:
        return resize(picture, height)
    if picture.shape[:2] != (height, width):
        raise EnvError(f"goal must have {width} x {height} pixels, got {picture.shape[1]} x {picture.shape[0]}: {path}")
    return picture


def _read_vectors(path: Path, arrays: Mapping[str, ArraySpec]) -> Obs:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise EnvError(f"goal must be JSON, but {path} cannot be read: {error}") from error
    if not isinstance(data, dict) or set(data) != set(arrays):
        got = sorted(data) if isinstance(data, dict) else type(data).__name__
        raise EnvError(f"goal must have {_keys(arrays)}, got {got} in {path}")
    goal: Obs = {}
    for key, spec in arrays.items():
        try:
            goal[key] = np.array(data[key], spec.dtype)
        except (TypeError, ValueError) as error:
            raise EnvError(f"goal must consist of numbers, got {key}={data[key]!r} in {path}") from error
        if goal[key].shape != spec.shape or not np.isfinite(goal[key]).all():
            raise EnvError(f"goal must have finite numbers of shape {spec.shape}, got {key}={data[key]!r} in {path}")
    return goal


def _keys(arrays: Mapping[str, ArraySpec]) -> str:
    return f"the key{'s' * (len(arrays) > 1)} {', '.join(arrays)}"
