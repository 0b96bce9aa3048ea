"""The pictures of labelled faces: image files, numbered image files of a sequence, or frames of a video."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

from sdk.arrays import Pixels
from sdk.errors import DataError, ImageError, VideoError
from sdk.faces.formats import SUFFIXES
from sdk.faces.images import load_image
from sdk.frames import read_frames, skipped_packets
from trainer.corpus.datasets.labelled_face import LabelledFace

VIDEO_SUFFIXES = {".avi", ".mp4", ".mov", ".mkv", ".mpg", ".wmv"}

Frames: TypeAlias = Path | Mapping[int, Path]  # a video, or image files by the number of the frame


def number_images(folder: Path) -> dict[int, Path]:
    """The image files of a folder by the number at the end of their names, with or without zero padding."""
    images = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    numbers = ((re.search(r"\d+$", path.stem), path) for path in images)
    return {int(number[0]): path for number, path in numbers if number}


def find_frames(places: Iterable[Path]) -> Frames | None:
    """The first video among the paths, or else the images of the first folder with numbered images."""
    places = sorted(places)
    videos = [path for path in places if path.suffix.lower() in VIDEO_SUFFIXES]
    folders = (number_images(path) for path in places)
    return videos[0] if videos else next(filter(None, folders), None)


def label_frames(
    frames: Frames, units: Mapping[int, frozenset[int]], sequence: str, subject: str, split: str
) -> list[LabelledFace]:
    """The labelled frames that have a picture; every frame of a video counts as having one.

    Args:
        units: active action units by frame number.
        sequence: names the faces, together with the frame.
    """
    faces = []
    for number in sorted(units):
        picture, frame = (frames, number) if isinstance(frames, Path) else (frames.get(number), None)
        if picture:
            name = f"{sequence}_{number:05}"
            faces.append(LabelledFace(name, picture, frame, subject, split, units=units[number]))
    return faces


def read_pictures(faces: Sequence[LabelledFace]) -> Iterator[tuple[LabelledFace, Pixels | None]]:
    """Each face with its (H, W, 3) uint8 RGB picture; None if it cannot be read or the video has no such frame.

    Faces of one video must be consecutive and in the order of their frames, so that the video is decoded once.
    """
    for picture, group in groupby(faces, key=lambda face: face.picture):
        chosen = list(group)
        if chosen[0].frame is None:
            yield from ((face, _load(picture)) for face in chosen)
            continue
        frames = _read_video(picture, [face.frame or 0 for face in chosen])
        for face in chosen:
            yield face, next(frames, None)


def _load(path: Path) -> Pixels | None:
    try:
        return load_image(path)
    except ImageError:
        return None


def _read_video(path: Path, wanted: Sequence[int]) -> Iterator[Pixels]:
    """Frames of a video by their numbers, which ascend from 1; stops at the end of the video."""
    missing = iter(wanted)
    number = next(missing, None)
    try:
        for frame in read_frames(path):
            if frame.damaged:  # the numbers of the labels no longer fit
                raise VideoError(skipped_packets(frame.damaged))
            if frame.index + 1 == number:
                yield frame.pixels()
                number = next(missing, None)
            if number is None:
                return
    except VideoError as error:
        raise DataError(f"{path} cannot be decoded ({error}); expected a whole video, copy it again") from None
