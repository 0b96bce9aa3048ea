"""Small videos made from photographs by the real encoder, and what FFmpeg shows of them."""

import shutil
import socket
import struct
import subprocess
import threading
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest


def write_clip(
    path: Path,
    frames: Iterable[np.ndarray],
    rate: int = 25,
    *,
    codec: str = "libx264",
    aspect: Fraction | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A video at nearly lossless quality; frames are (H, W, 3) uint8 RGB with even sides.

    Args:
        codec: the encoder.
        aspect: recorded width of a pixel over its height.
        options: of the encoder.
    """
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {"crf": "12", "preset": "ultrafast"})
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for frame in frames:
            if not stream.codec_context.is_open:
                stream.height, stream.width = frame.shape[:2]
                if aspect:
                    stream.codec_context.sample_aspect_ratio = aspect
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate([left, right], axis=1)


def set_display_matrix(path: Path, matrix: Sequence[int]) -> Path:
    """Record how an mp4 file is shown: (a, b, c, d), the stored point (x, y) goes to (a x + c y, b x + d y)."""
    content = path.read_bytes()
    track = content.index(b"tkhd")
    start = content.index(_matrix((1, 0, 0, 1)), track)
    path.write_bytes(content[:start] + _matrix(matrix) + content[start + 36 :])
    return path


def _matrix(abcd: Sequence[int]) -> bytes:
    a, b, c, d = (65536 * value for value in abcd)
    return struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


def damage(path: Path, chosen: Sequence[int], source: Path) -> Path:
    """Copy a video with noise in place of the chosen packets (numbers from 0, in the order of the file)."""
    noise = np.random.default_rng(0)
    with av.open(str(source)) as whole, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(packet for packet in whole.demux(video=0) if packet.size):
            copy = av.Packet(noise.bytes(packet.size) if number in chosen else bytes(packet))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            container.mux(copy)
    return path


def shown_by_ffmpeg(path: Path, shape: tuple[int, ...], filters: str = "null") -> np.ndarray:
    """All frames as the program ffmpeg shows them: (N, H, W, 3) uint8 RGB, where `shape` is (H, W, 3).

    Skips the test where there is no ffmpeg.
    """
    command = [ffmpeg(), "-v", "quiet", "-nostdin", "-i", path, "-fps_mode", "passthrough", "-vf", filters]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], check=True, capture_output=True)
    return np.frombuffer(done.stdout, np.uint8).reshape(-1, *shape)


def ffmpeg() -> str:
    program = shutil.which("ffmpeg")
    if program is None:
        program = pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe()
    return program


@contextmanager
def live(path):
    """A source on loopback that sends the bytes of a file once, as a network camera does; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.sendall(path.read_bytes())

        threading.Thread(target=serve, daemon=True).start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
