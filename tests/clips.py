"""Small videos made from photographs by the real encoder."""

from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np


def write_clip(path: Path, frames: Iterable[np.ndarray], rate: int = 25) -> Path:
    """H.264 at nearly lossless quality; frames are (H, W, 3) uint8 RGB with even sides."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "12", "preset": "ultrafast"})
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            if not stream.codec_context.is_open:
                stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def side_by_side(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.concatenate([left, right], axis=1)
