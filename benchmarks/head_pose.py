"""`python benchmarks/head_pose.py FOLDER`: pose and openness of the eyes, compared with those of rendered faces.

FOLDER is made by `emola data synthesize FOLDER --split eval --face-model ...`: pictures, the angles that were drawn,
and the exact landmarks. The landmarks come from the network of the model in the package.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from sdk.bundles.hub import EMBEDDED
from sdk.bundles.manifest import read_manifest
from sdk.faces.crop import aligned_face
from sdk.faces.images import load_image
from sdk.faces.pose import eye_openness, head_pose, landmark_scheme
from sdk.faces.preprocess import landmark_pixels
from sdk.onnx_session import open_session

ANGLES = ("yaw", "pitch", "roll")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=1000, help="number of faces (default 1000)")
    args = parser.parse_args()
    manifest = read_manifest(EMBEDDED)
    scheme, network = landmark_scheme(manifest.preprocessing), open_session(EMBEDDED / str(manifest.landmark))
    rows = (args.folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()[: args.limit]
    about = [json.loads(row) for row in rows]
    found = []
    for face in about:
        pixels = load_image(args.folder / "images" / f"{face['id']}.jpg")
        crop = aligned_face(pixels, manifest.preprocessing.face_scale)
        given = landmark_pixels(crop.pixels, mode="insightface", box_xyxy=crop.box_in_crop)
        found.append(network.run(None, {"data": given[None]})[0][0].reshape(-1, 2))
    truth = np.array([[face[angle] for angle in ANGLES] for face in about])
    for name, points in (("exact landmarks", np.load(args.folder / "points.npy")), ("network", found)):
        errors = np.array([head_pose(each, scheme) for each in points[: len(about)]]) - truth
        print(f"{name}, {len(errors)} faces")
        for angle, column in zip(ANGLES, errors.T, strict=True):
            size, bias = np.abs(column), column.mean()
            print(f"  {angle:5}  error {size.mean():.2f}, 95 % below {np.percentile(size, 95):.1f}; bias {bias:+.2f}")
        open_eyes = np.array([np.mean(eye_openness(each, scheme)) for each in points[: len(about)]])
        for label, chosen in (("shut (AU43)", "43"), ("wide (AU5)", "5")):
            marked = open_eyes[[chosen in face["units"] for face in about]]
            print(f"  eyes {label}: median {np.median(marked):.3f} of {len(marked)}; all: {np.median(open_eyes):.3f}")


if __name__ == "__main__":
    main()
