"""False faces: windows of scenes without faces in which a network sees one, to train it further.

Source of the method: Sung & Poggio 1998, "Example-Based Learning for View-Based Human Face Detection" (bootstrapping).
"""

import itertools

import numpy as np
import numpy.typing as npt
import torch

from sdk.arrays import Floats
from sdk.faces.detection import suppress_overlaps
from sdk.faces.nano_detector import decode
from trainer.detector.batches import Scenes, windowed
from trainer.detector.network import FaceNetwork

LEAST_SCORE = 0.3
MOST_IN_SCENE = 4
_MAX_OVERLAP = 0.4


@torch.no_grad()
def false_faces(network: FaceNetwork, scenes: Scenes, side: int, random: np.random.Generator) -> Scenes:
    """Windows around the false faces of scenes that have no face.

    Args:
        side: of a window in pixels.
    """
    network.eval()
    windows = []
    whole = (np.array(picture) for shard in scenes.shards for picture in shard)
    for picture in itertools.chain.from_iterable((picture, _halved(picture)) for picture in whole):
        outputs = network(torch.from_numpy(picture)[None])
        scores, boxes = decode([output.numpy() for output in outputs], LEAST_SCORE)
        for index in suppress_overlaps(boxes, scores, _MAX_OVERLAP)[:MOST_IN_SCENE]:
            windows.append(_around(boxes[index], picture, side, random))
    network.train()
    shards = [np.stack(windows)] if windows else []
    return Scenes(shards, [np.zeros((0, 15), np.float32)] * len(windows))


def _around(
    box: Floats, picture: npt.NDArray[np.uint8], side: int, random: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """A window around a box, taken as if that were a face."""
    label = np.concatenate([box, np.zeros(10, np.float32), [1]]).astype(np.float32)[None]
    return windowed(picture, label, side, random)[0]


def _halved(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """A picture with even sides at half its resolution."""
    rows, columns = (length // 2 for length in picture.shape[:2])
    means: npt.NDArray[np.uint8] = picture.reshape(rows, 2, columns, 2, 3).mean(axis=(1, 3)).astype(np.uint8)
    return means
