"""Turn a face crop into the two network inputs: CLIP pixels and landmark pixels.

Both reproduce the code of EmoLA's training and release with numpy and Pillow only: Hugging Face's CLIP image processor
(Pillow bicubic) and OpenCV's bilinear resize.
"""

from typing import Annotated, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from sdk.arrays import Floats, Pixels
from sdk.errors import ImageError
from sdk.faces.crop import FaceCrop

Aspect = Literal["pad", "crop", "align"]
LandmarkMode = Literal["emola", "insightface"]
Place: TypeAlias = Annotated[float, Field(ge=-10, le=10)]
Anchor: TypeAlias = tuple[int, Place, Place]  # index of a landmark, and its target: x and y, -1..1 in the square
Mean: TypeAlias = Annotated[float, Field(ge=0, le=1)]
LEAST_STD, MOST_STD = 1e-3, 1e3
Deviation: TypeAlias = Annotated[float, Field(ge=LEAST_STD, le=MOST_STD)]

LANDMARK_SIDE = 192  # pixels of the landmark network's input
LANDMARK_FEATURES = 212  # outputs of the landmark network: x and y of 106 points
LANDMARK_WINDOW = 1.5  # side of the landmark network's input over the longer side of the face box (insightface)


class Preprocessing(BaseModel):
    """Settings of the preprocessing.

    Attributes:
        face_scale: side of the face crop over the longer side of dlib's face box.
        image_size: side of the vision tower's input in pixels.
        image_mean, image_std: per RGB channel, of values in 0..1.
        image_aspect: "pad" or "crop", see `clip_pixels`; "align" rotates and scales the face by its landmarks first.
        landmark_mode: "emola" or "insightface", see `landmark_pixels`.
        anchors: for "align", target positions of landmarks that hardly move with the expression.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    face_scale: float = Field(gt=0, le=100)
    image_size: int = Field(gt=0, le=4096)
    image_mean: tuple[Mean, Mean, Mean]
    image_std: tuple[Deviation, Deviation, Deviation]
    image_aspect: Aspect
    landmark_mode: LandmarkMode
    anchors: tuple[Anchor, ...] = ()


def check_features(features: Floats | None, faces: str) -> Floats | None:
    """The (212,) landmark features that a user passed, if any, as float32.

    Raises:
        ImageError: they are no finite numbers of this shape, or the face is not aligned.
    """
    if features is None:
        return None
    if faces != "aligned":
        raise ImageError("landmark_features belong to one aligned face: pass faces='aligned' as well")
    found = np.asarray(features)
    if found.shape != (LANDMARK_FEATURES,) or found.dtype.kind not in "fiu" or not np.isfinite(found).all():
        raise ImageError(
            f"landmark_features must be finite numbers of shape ({LANDMARK_FEATURES},), found {found.dtype} of shape "
            f"{found.shape}"
        )
    return found.astype(np.float32)


def vision_pixels(crop: FaceCrop, features: Floats, settings: Preprocessing) -> Floats:
    """Make the input of the vision tower for a face.

    Args:
        crop: the picture of the face.
        features: (212,) outputs of the landmark network; used by "align" only.

    Returns:
        (3, size, size) float32, normalised.
    """
    pixels = crop.pixels
    if settings.image_aspect == "align":
        points = landmark_points(features, crop.box_in_crop)
        pixels = align_face(pixels, points, settings.anchors, settings.image_size)
    return clip_pixels(
        pixels,
        size=settings.image_size,
        mean=settings.image_mean,
        std=settings.image_std,
        aspect="crop" if settings.image_aspect == "crop" else "pad",
    )


def points_in_square(points: Floats, shape: tuple[int, int], settings: Preprocessing) -> Floats:
    """Map points of a face crop to the input of the vision tower.

    Args:
        points: (N, 2) x and y in pixels of the crop; all 106 landmarks for "align".
        shape: height and width of the crop.

    Returns:
        (N, 2) x and y in pixels of the (size, size) square; with "crop" some can be outside.
    """
    size = settings.image_size
    if settings.image_aspect == "align":
        source, target, a, b = _alignment(points, settings.anchors, size)
        x, y = (points - source).T / max(a * a + b * b, 1e-6)  # all points in one place have no extent
        return (np.stack([a * x + b * y, a * y - b * x], axis=1) + target).astype(np.float32)
    side = max(shape) if settings.image_aspect == "pad" else min(shape)
    middle = np.array([shape[1], shape[0]], np.float32) / 2
    return ((points - middle) * np.float32(size / side) + np.float32(size / 2)).astype(np.float32)


def align_face(image: Pixels, points: Floats, anchors: tuple[Anchor, ...], size: int) -> Pixels:
    """Rotate, scale and move a face by the least-squares similarity from its landmarks to the anchors.

    Args:
        image: (H, W, 3) uint8 RGB.
        points: (106, 2) landmarks in pixels of the image.
        size: side of the result in pixels.

    Returns:
        (size, size, 3) uint8 RGB, black beyond the border of the image.
    """
    source, target, a, b = _alignment(points, anchors, size)
    step = max(1.0, float(np.hypot(a, b)))  # image pixels per pixel of the result: shrink first to avoid aliasing
    small = Image.fromarray(image)
    if step > 1:
        small = small.resize([max(1, round(side / step)) for side in small.size], Image.Resampling.BILINEAR)
    x, y = small.width / image.shape[1], small.height / image.shape[0]
    left, top = source - np.array([a * target[0] - b * target[1], b * target[0] + a * target[1]])
    matrix = (a * x, -b * x, left * x, b * y, a * y, top * y)
    return np.asarray(small.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def _alignment(
    points: Floats, anchors: tuple[Anchor, ...], size: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float, float]:
    """The mean of the anchors in the picture and in the square, and a and b of `_rotation` from square to picture."""
    wanted = (np.array([anchor[1:] for anchor in anchors]) + 1) * (size / 2)
    found = points[[anchor[0] for anchor in anchors]].astype(np.float64)
    return found.mean(axis=0), wanted.mean(axis=0), *_rotation(found, wanted)


def _rotation(found: npt.NDArray[np.float64], wanted: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Least-squares a and b of the map (x, y) -> (a x - b y, b x + a y) from centred `wanted` to centred `found`."""
    u, v = (wanted - wanted.mean(axis=0)).T
    x, y = (found - found.mean(axis=0)).T
    spread = max(float((u * u + v * v).sum()), 1e-9)
    return float((u * x + v * y).sum() / spread), float((u * y - v * x).sum() / spread)


def clip_pixels(
    image: Pixels,
    *,
    size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    aspect: Literal["pad", "crop"] = "pad",
) -> Floats:
    """Make a normalised square like Hugging Face's CLIP image processor.

    Args:
        image: (H, W, 3) uint8, RGB.
        size: side of the network input in pixels.
        mean, std: per channel, of values in 0..1.
        aspect: "pad" pads to a square with the mean colour, as in the authors' training; "crop" resizes the shorter
            side and crops the centre, as in their evaluation.

    Returns:
        (3, size, size) float32, normalised.
    """
    picture = Image.fromarray(image)
    if aspect == "pad":
        picture = _pad_to_square(picture, tuple(int(255 * value) for value in mean))
    width, height = picture.size
    short = min(width, height)
    picture = picture.resize((int(size * width / short), int(size * height / short)), Image.Resampling.BICUBIC)
    left, top = (picture.width - size) // 2, (picture.height - size) // 2
    values = np.asarray(picture.crop((left, top, left + size, top + size)), dtype=np.float32) / np.float32(255)
    normalised = (values - np.array(mean, np.float32)) / np.array(std, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _pad_to_square(picture: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    side = max(picture.size)
    if picture.size == (side, side):
        return picture
    square = Image.new("RGB", (side, side), colour)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def landmark_pixels(crop: Pixels, *, mode: LandmarkMode, box_xyxy: tuple[float, float, float, float]) -> Floats:
    """Make the input of the landmark network.

    Args:
        crop: (H, W, 3) uint8 RGB crop of one face.
        mode: "insightface" is the input that 2d106det was trained on: 1.5 times the box, RGB in 0..255. "emola" is the
            input that the released checkpoints were trained on: the whole crop, BGR in 0..1, which is almost black to
            that network.
        box_xyxy: face box in pixels of the crop; used by "insightface" only.

    Returns:
        (3, 192, 192) float32.
    """
    if mode == "emola":
        resized = resize_bilinear(crop, LANDMARK_SIDE, LANDMARK_SIDE)
        return np.ascontiguousarray(resized[:, :, ::-1].transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    left, top, step = _landmark_window(box_xyxy)
    # Pillow's coordinates refer to pixel corners, those of insightface (OpenCV) to pixel centres.
    matrix = (step, 0, left + (1 - step) / 2, 0, step, top + (1 - step) / 2)
    window = Image.fromarray(crop).transform(
        (LANDMARK_SIDE, LANDMARK_SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return np.ascontiguousarray(np.asarray(window, dtype=np.float32).transpose(2, 0, 1))


def _landmark_window(box_xyxy: tuple[float, float, float, float]) -> tuple[float, float, float]:
    """Left, top and step of the "insightface" input grid, in the pixels of the box."""
    x1, y1, x2, y2 = box_xyxy
    side = max(x2 - x1, y2 - y1) * LANDMARK_WINDOW
    return (x1 + x2 - side) / 2, (y1 + y2 - side) / 2, side / LANDMARK_SIDE


def landmark_points(feature: Floats, box_xyxy: tuple[float, float, float, float]) -> Floats:
    """Convert the (212,) outputs of the network in mode "insightface" to (106, 2) points in the pixels of the box."""
    left, top, step = _landmark_window(box_xyxy)
    grid = (feature.reshape(-1, 2) + 1) * np.float32(LANDMARK_SIDE / 2)
    return (grid * np.float32(step) + np.array([left, top], np.float32)).astype(np.float32)


def scaled_down(picture: Image.Image, scale: float) -> Image.Image:
    """A picture scaled by at most 1 with anti-aliasing, fast for large ones; with 1, the picture itself."""
    if scale == 1:
        return picture
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)


def resize_bilinear(image: Pixels, width: int, height: int) -> Pixels:
    """Bilinear resize without anti-aliasing, bit-exact to `cv2.resize` on 8 bits.

    Like OpenCV, it uses weights with 11 fractional bits and drops low bits between the two passes.

    Args:
        image: (H, W, 3) uint8.

    Returns:
        (height, width, 3) uint8.
    """
    low, high, near, far = _neighbours(image.shape[1], width)
    inside = (low >= 0) & (low < image.shape[1] - 1)  # only the horizontal pass snaps to the edge
    near, far = np.where(inside, near, 2048), np.where(inside, far, 0)
    low, high = low.clip(0, image.shape[1] - 1), high.clip(0, image.shape[1] - 1)

    def widen(rows: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """Rows at the new width, (height, width, 3); a large picture as int32 would take gigabytes."""
        chosen = image[rows.clip(0, image.shape[0] - 1)]
        wide: npt.NDArray[np.int32] = chosen[:, low] * near[:, None] + chosen[:, high] * far[:, None]
        return wide

    upper, lower, above, below = _neighbours(image.shape[0], height)
    top = above[:, None, None] * (widen(upper) >> 4) >> 16
    bottom = below[:, None, None] * (widen(lower) >> 4) >> 16
    return ((top + bottom + 2) >> 2).astype(np.uint8)


def _neighbours(length: int, new_length: int) -> tuple[npt.NDArray[np.int32], ...]:
    """Unclipped indices of the two source pixels around each new pixel, and their weights, which sum to 2048."""
    centre = ((np.arange(new_length) + 0.5) * (length / new_length) - 0.5).astype(np.float32)
    low = np.floor(centre).astype(np.int32)
    part = centre - low
    weights = [np.rint(share * np.float32(2048)).astype(np.int32) for share in (1 - part, part)]
    return low, low + 1, *weights
