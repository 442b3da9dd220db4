"""Videos come back with the frames that went in, and text changes the frame only where it is written."""

from collections.abc import Iterator
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from forethought.agent.files import FileError
from forethought.agent.report.video import Frame, VideoError, annotate, side_by_side, write_video


def ramp(count: int, height: int, width: int) -> list[Frame]:
    return [np.full((height, width, 3), 20 * index, dtype=np.uint8) for index in range(count)]


@pytest.mark.parametrize(("height", "width"), [(64, 96), (63, 95)])
def test_a_video_is_read_back(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "rollout.mp4"
    write_video(path, ramp(10, height, width), fps=12.5)
    frames = iio.imread(path, plugin="pyav")
    assert frames.shape == (10, 64, 96, 3)
    np.testing.assert_allclose(frames.mean(axis=(1, 2, 3)), 20 * np.arange(10), atol=4)
    about = iio.immeta(path, plugin="pyav")
    assert (about["codec"], about["video_format"], about["fps"]) == ("h264", "yuv420p", 12.5)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat"), "a browser must be able to start before the end has arrived"
    assert list(tmp_path.iterdir()) == [path]


def test_frames_may_come_from_a_generator(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", iter(ramp(3, 16, 16)), fps=5)
    assert len(iio.imread(tmp_path / "a.mp4", plugin="pyav")) == 3


def test_a_failure_leaves_the_old_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(path, ramp(3, 16, 16), fps=5)
    before = path.read_bytes()

    def breaks() -> Iterator[Frame]:
        yield from ramp(2, 16, 16)
        raise RuntimeError("renderer lost")

    with pytest.raises(RuntimeError, match="renderer lost"):
        write_video(path, breaks(), fps=5)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([], "at least one frame"),
        ([np.zeros((8, 8, 3), np.float32)], r"frames\[0\] must be uint8"),
        ([np.zeros((8, 8), np.uint8)], r"frames\[0\] must be uint8"),
        ([*ramp(1, 8, 8), *ramp(1, 8, 10)], r"frames\[1\] must have the shape of frames\[0\]"),
    ],
)
def test_frames_that_make_no_video_are_refused(tmp_path: Path, frames: list[Frame], message: str) -> None:
    with pytest.raises(VideoError, match=message):
        write_video(tmp_path / "a.mp4", frames, fps=5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [0.0, -1.0, float("nan"), float("inf")])
def test_a_frame_rate_that_is_not_positive_is_refused(tmp_path: Path, fps: float) -> None:
    with pytest.raises(VideoError, match="fps must be positive"):
        write_video(tmp_path / "a.mp4", ramp(2, 8, 8), fps=fps)


def test_other_formats_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"must end in \.mp4"):
        write_video(tmp_path / "a.gif", ramp(2, 8, 8), fps=5)
    with pytest.raises(FileError, match="cannot write"):
        write_video(tmp_path / "nowhere" / "a.mp4", ramp(2, 8, 8), fps=5)


def test_annotate_writes_on_a_copy_at_the_top() -> None:
    frame = np.full((240, 320, 3), 200, dtype=np.uint8)
    marked = annotate(frame, ["step 12  distance 0.04 m", "SUCCESS"])
    assert marked.shape == frame.shape
    assert marked.dtype == np.uint8
    assert (frame == 200).all()
    assert (marked[120:] == 200).all()
    assert (marked[:60] < 120).any()
    assert (marked[:60] > 240).any(), "there must be white text"
    assert not np.array_equal(marked, annotate(frame, ["step 13  distance 0.04 m", "SUCCESS"]))


def test_annotate_with_nothing_changes_nothing_and_long_text_shrinks() -> None:
    frame = np.full((240, 160, 3), 90, dtype=np.uint8)
    assert np.array_equal(annotate(frame, []), frame)
    assert np.array_equal(annotate(frame, ["  "]), frame)

    def strip(text: str) -> int:
        return int((annotate(frame, [text]) != frame).any(axis=(1, 2)).sum())

    assert strip("a long line of text " * 2) < strip("short") == strip("jumpy")
    assert annotate(frame, ["x" * 500]).shape == frame.shape


def test_side_by_side_pads_with_white() -> None:
    left, right = np.full((10, 6, 3), 1, np.uint8), np.full((4, 5, 3), 2, np.uint8)
    joined = side_by_side(left, right, gap=3)
    assert joined.shape == (10, 14, 3)
    assert (joined[:, :6] == 1).all()
    assert (joined[:, 6:9] == 255).all()
    assert (joined[3:7, 9:] == 2).all()
    assert (joined[:3, 9:] == 255).all()


def test_side_by_side_and_annotate_refuse_bad_frames() -> None:
    with pytest.raises(VideoError, match="at least one frame"):
        side_by_side()
    with pytest.raises(VideoError, match=r"frames\[1\] must be uint8"):
        side_by_side(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(VideoError, match="frame must be uint8"):
        annotate(np.zeros((4, 4, 3)), ["x"])  # type: ignore[arg-type]
