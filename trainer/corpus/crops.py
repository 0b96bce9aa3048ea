"""Face crops of photographs, as records hold them."""

import io

from PIL import Image

from sdk.arrays import Pixels
from sdk.faces.crop import crop_face
from sdk.faces.detect import Detector, open_detector
from trainer.model.config import Conventions

JPEG_QUALITY = 95


class FaceCropper:
    """Crops the largest face of a photograph.

    Args:
        detector: as in `sdk.faces.detect.open_detector`.
        scale: side of the crop over the longer side of dlib's face box, whichever detector is used.
    """

    def __init__(self, detector: str | Detector = "auto", scale: float = Conventions.face_scale) -> None:
        self._detector = open_detector(detector)
        self._scale = scale

    def __call__(self, image: Pixels) -> Pixels | None:
        """(S, S, 3) uint8 RGB, upright, black beyond the border of the picture; None if no face is found."""
        boxes = [face.box_xyxy for face in self._detector.detect(image)]
        if not boxes:
            return None
        largest = max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
        return crop_face(image, largest, self._scale, self._detector.box_extent).pixels


def jpeg(image: Pixels) -> bytes:
    """The bytes of a JPEG file of a picture."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=JPEG_QUALITY)
    return file.getvalue()
