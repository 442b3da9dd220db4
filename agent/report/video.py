"""Videos of rollouts that play in every browser, with text on the frames."""

import math
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from imageio.plugins.pyav import PyAVPlugin
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ... import ForethoughtError
from ..files import write_bytes

Frame = NDArray[np.uint8]
"""A picture, `[height, width, 3]`, RGB."""

_MIN_FONT_PX, _LINES_PER_FRAME = 10, 18  # text is an eighteenth of the frame's height


class VideoError(ForethoughtError):
    """Frames that do not make a video."""


def write_video(path: Path, frames: Iterable[Frame], fps: float) -> None:
    """Write an H.264 video in MP4 (yuv420p, index first), atomically: readers see the old file or the whole new one.

    Odd heights and widths, which yuv420p cannot hold, are made even by repeating the last row or column.

    Args:
        path: the `.mp4` to write.
        frames: pictures of one size, `uint8 [height, width, 3]`, at least one.
        fps: frames per second.

    Raises:
        VideoError: there is no frame, a frame has another shape or type, or `fps` is not positive.
        FileError: the file cannot be written.
    """
    if path.suffix != ".mp4":
        raise VideoError(f"path must end in .mp4, got {path.name!r}")
    if not (math.isfinite(fps) and fps > 0):
        raise VideoError(f"fps must be positive and finite, got {fps}")
    with tempfile.TemporaryDirectory(prefix="forethought-video-") as folder:
        encoded = Path(folder) / "video.mp4"
        # faststart puts the index before the pictures, so that playback can begin before the file has arrived.
        with iio.imopen(encoded, "w", plugin=PyAVPlugin, options={"movflags": "faststart"}) as video:
            first: tuple[int, ...] | None = None
            for index, frame in enumerate(frames):
                _check(frame, f"frames[{index}]")
                if first is None:
                    first = frame.shape
                    video.init_video_stream("libx264", fps=float(fps), pixel_format="yuv420p")
                elif frame.shape != first:
                    raise VideoError(f"frames[{index}] must have the shape of frames[0]={first}, got {frame.shape}")
                height, width, _ = first
                video.write_frame(np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
            if first is None:
                raise VideoError("frames must hold at least one frame, got none")
        write_bytes(path, encoded.read_bytes())


def annotate(frame: Frame, lines: Sequence[str]) -> Frame:
    """Write lines of text on a dark strip at the top of a copy of the frame; the font shrinks until they fit.

    Args:
        frame: `uint8 [height, width, 3]`.
        lines: text such as `step 12  distance 0.04 m  SUCCESS`, one entry per line.

    Raises:
        VideoError: `frame` has another shape or type.
    """
    _check(frame, "frame")
    text = "\n".join(lines)
    image = Image.fromarray(frame).convert("RGBA")
    height, width, _ = frame.shape
    size = max(_MIN_FONT_PX, height // _LINES_PER_FRAME)
    overlay = Image.new("RGBA", image.size)
    draw = ImageDraw.Draw(overlay)
    while True:
        font, margin = ImageFont.load_default(size), size // 2
        right = draw.multiline_textbbox((margin, margin), text, font=font)[2]
        if right + margin <= width or size <= _MIN_FONT_PX:
            break
        size -= 1
    if text.strip():
        # Measured on letters of full height, so that the strip does not jump with the text from frame to frame.
        bottom = draw.multiline_textbbox((margin, margin), "\n".join(["Ág"] * len(lines)), font=font)[3]
        draw.rectangle((0, 0, width, bottom + margin), fill=(12, 16, 24, 170))
        draw.multiline_text((margin, margin), text, font=font, fill=(255, 255, 255, 255))
    return np.asarray(Image.alpha_composite(image, overlay).convert("RGB"))


def side_by_side(*frames: Frame, gap: int = 4) -> Frame:
    """Put pictures next to each other on white, lower ones centred.

    Args:
        frames: `uint8 [height, width, 3]` each, sizes may differ; at least one.
        gap: white columns between two pictures.

    Returns:
        `uint8 [largest height, sum of widths + gaps, 3]`.

    Raises:
        VideoError: there is no frame, or one has another shape or type.
    """
    if not frames:
        raise VideoError("frames must hold at least one frame, got none")
    for index, frame in enumerate(frames):
        _check(frame, f"frames[{index}]")
    height = max(frame.shape[0] for frame in frames)
    width = sum(frame.shape[1] for frame in frames) + gap * (len(frames) - 1)
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    left = 0
    for frame in frames:
        top = (height - frame.shape[0]) // 2
        canvas[top : top + frame.shape[0], left : left + frame.shape[1]] = frame
        left += frame.shape[1] + gap
    return canvas


def _check(frame: Frame, name: str) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
        raise VideoError(f"{name} must be uint8 [height, width, 3], got {frame.dtype} {list(frame.shape)}")
