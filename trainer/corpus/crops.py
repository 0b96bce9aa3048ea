"""Face crops of photographs, as records hold them."""

import io
from math import atan2, cos, hypot, radians, sin

import numpy as np
from PIL import Image

from sdk.arrays import Floats, Pixels
from sdk.faces.crop import RELEASED_FACE_SCALE, FaceCrop, aligned_face, crop_face
from sdk.faces.detect import Detector, open_detector
from trainer.corpus.eyes import Eyes, open_eyes

JPEG_QUALITY = 95
_MAX_TURN = radians(45)  # the detector finds no face that is turned further, so eyes that say so are wrong


class FaceCropper:
    """Crops the largest face of a photograph.

    Args:
        detector: as in `sdk.faces.detect.open_detector`; None: the photograph is a face crop already.
        scale: side of the crop over the longer side of dlib's face box, whichever detector is used.
        eyes: finds the eyes, and the face is turned until they are level; None leaves it as it is.
    """

    def __init__(
        self,
        detector: str | Detector | None = "dlib",
        scale: float = RELEASED_FACE_SCALE,
        eyes: Eyes | None = None,
    ) -> None:
        self._detector = None if detector is None else open_detector(detector)
        self._scale, self._eyes = scale, eyes

    @classmethod
    def open(cls, detector: str | None, align: str | None) -> "FaceCropper":
        """A cropper by the names of its parts: `detector` as above, `align` as in `open_eyes` or None."""
        return cls(detector, eyes=open_eyes(align) if align else None)

    def __call__(self, image: Pixels) -> Pixels | None:
        """(S, S, 3) uint8 RGB, black beyond the border of the picture; None if no face is found."""
        crop = self._crop(image)
        if crop is None or self._eyes is None:
            return None if crop is None else crop.pixels
        return level(image, crop, self._eyes(crop))

    def _crop(self, image: Pixels) -> FaceCrop | None:
        if self._detector is None:
            return aligned_face(image, self._scale)
        boxes = [face.box_xyxy for face in self._detector.detect(image)]
        if not boxes:
            return None
        largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        return crop_face(image, largest, self._scale, self._detector.box_extent)


def level(image: Pixels, crop: FaceCrop, eyes: Floats) -> Pixels:
    """Crop a face again, turned about the centre of its crop until its eyes are level.

    Args:
        image: (H, W, 3) uint8 RGB, the picture of the crop.
        crop: as `crop_face` made it.
        eyes: (2, 2) x and y in pixels of the crop, the left eye first.

    Returns:
        As `crop.pixels`, and black beyond the border of the picture; unchanged if the eyes cannot be right.
    """
    x, y = (eyes[1] - eyes[0]).tolist()
    angle = atan2(y, x)
    if abs(angle) > _MAX_TURN or not hypot(x, y):
        return crop.pixels
    height, width = crop.pixels.shape[:2]
    c, s = cos(angle), sin(angle)
    left = crop.origin[0] + (width - c * width + s * height) / 2  # of the turned corner
    top = crop.origin[1] + (height - s * width - c * height) / 2
    picture = Image.fromarray(image)
    turned = picture.transform(
        (width, height), Image.Transform.AFFINE, (c, -s, left, s, c, top), Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def jpeg(image: Pixels) -> bytes:
    """The bytes of a JPEG file of a picture."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
