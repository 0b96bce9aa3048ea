"""The pictures of samples: image files, numbered image files of a sequence, or frames of a video."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sdk.arrays import Pixels
from sdk.errors import DataError, DependencyError, ImageError
from sdk.faces.images import PICTURE_SUFFIXES, load_image
from trainer.corpus.datasets.labelled_face import LabelledFace

VIDEOS = {".avi", ".mp4", ".mov", ".mkv", ".mpg", ".wmv"}

Frames: TypeAlias = Path | Mapping[int, Path]  # a video, or image files by the number of the frame


def number_images(folder: Path) -> dict[int, Path]:
    """The image files of a folder by the number that their names end in; zero padding may vary."""
    images = sorted(path for path in folder.glob("*") if path.suffix.lower() in PICTURE_SUFFIXES)
    numbers = ((re.search(r"\d+$", path.stem), path) for path in images)
    return {int(number[0]): path for number, path in numbers if number}


def find_frames(places: Iterable[Path]) -> Frames | None:
    """The first video among some paths, or else the images of the first folder that has numbered ones."""
    places = sorted(places)
    videos = [path for path in places if path.suffix.lower() in VIDEOS]
    folders = (number_images(path) for path in places)
    return videos[0] if videos else next(filter(None, folders), None)


def label_frames(
    frames: Frames, units: Mapping[int, frozenset[int]], sequence: str, subject: str, split: str
) -> list[LabelledFace]:
    """Samples of the labelled frames that have a picture; of a video each is taken to have one.

    Args:
        units: active action units by frame number.
        sequence: names the samples, together with the frame.
    """
    samples = []
    for number in sorted(units):
        picture, frame = (frames, number) if isinstance(frames, Path) else (frames.get(number), None)
        if picture:
            name = f"{sequence}_{number:05}"
            samples.append(LabelledFace(name, picture, frame, subject, split, units=units[number]))
    return samples


def read_pictures(samples: Sequence[LabelledFace]) -> Iterator[tuple[LabelledFace, Pixels | None]]:
    """Each sample with its (H, W, 3) uint8 RGB picture; None where it cannot be read or the video has no such frame.

    Samples of one video must follow each other in the order of their frames, so that it is decoded once.
    """
    for picture, group in groupby(samples, key=lambda sample: sample.picture):
        chosen = list(group)
        if chosen[0].frame is None:
            yield from ((sample, _load(picture)) for sample in chosen)
            continue
        frames = _read_video(picture, [sample.frame or 0 for sample in chosen])
        for sample in chosen:
            yield sample, next(frames, None)


def _load(path: Path) -> Pixels | None:
    try:
        return load_image(path)
    except ImageError:
        return None


def _read_video(path: Path, wanted: Sequence[int]) -> Iterator[Pixels]:
    """The frames of these rising numbers, from 1; ends where the video does."""
    try:
        import av
    except ImportError:
        raise DependencyError("av", "video", "read the videos of a data set") from None
    missing = iter(wanted)
    number = next(missing, None)
    try:
        with av.open(str(path)) as container:
            for index, frame in enumerate(container.decode(video=0), 1):
                if index == number:
                    yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
                    number = next(missing, None)
                if number is None:
                    return
    except (av.FFmpegError, IndexError) as error:
        raise DataError(f"{path} cannot be decoded ({error}); expected a whole video, copy it again") from None
