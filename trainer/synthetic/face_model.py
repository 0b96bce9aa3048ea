"""Reader of the ICT-FaceKit light model (MIT, Li et al. 2020): a head, its identity modes and its blendshapes.

The model is not part of this project; clone it from its repository. Units are centimetres; x points to the right of
the picture (the person's left), y up, z towards the viewer.
"""

import io
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sdk.arrays import Floats, Ints
from sdk.bundles.damage import read_arrays
from sdk.errors import DataError
from sdk.files import write_file
from sdk.untrusted_json import read_json_object
from trainer.synthetic.expression import OWN_SHAPES, SHAPES

# Content of both file formats: positions, faces, identity, expression, landmarks.
Content: TypeAlias = tuple[Floats, Ints, Floats, dict[str, Floats], Ints]

# First and end vertex of each drawn part, in the order of the mesh; the other parts would cover the eyes.
PARTS = {
    "skin": (0, 11248),
    "mouth": (11248, 13294),
    "eye_socket": (13294, 14062),
    "gums": (14062, 17039),
    "teeth": (17039, 21451),
    "eye_left": (21451, 23021),
    "eye_right": (23021, 24591),
}
LASHES = (25351, 26719)
VERTICES, FACES = 26719, 26384
HOME = "https://github.com/USC-ICT/ICT-FaceKit"
MODES = 50


@dataclass(frozen=True)
class FaceModel:
    """Geometry of a head.

    Attributes:
        neutral: (V, 3) positions of the mean face.
        triangles: (T, 3) vertex indices, counter-clockwise seen from outside; no triangle joins two parts.
        lashes: (L, 3) of the strips that carry the lashes, seen from both sides.
        identity: (50, V, 3) displacements; their weights are drawn from N(0, 1).
        expression: name, e.g. "mouthSmile_L", -> (V, 3) displacement for weight 1.
        landmarks68: (68,) vertex indices in the Multi-PIE order.
    """

    neutral: Floats
    triangles: Ints
    lashes: Ints
    identity: Floats
    expression: dict[str, Floats]
    landmarks68: Ints

    def digest(self) -> str:
        """A hash of the geometry: equal for models that draw the same faces."""
        digest = sha256()
        shapes = [self.expression[name] for name in sorted(self.expression)]
        for array in (self.neutral, self.triangles, self.identity, *shapes, self.landmarks68):
            digest.update(array.tobytes())
        return digest.hexdigest()


def read_face_model(path: Path) -> FaceModel:
    """Read the repacked `.npz`, or the folder `FaceXModel` of the ICT-FaceKit repository.

    Raises:
        DataError: the path is neither of them, or the model is incomplete.
    """
    neutral, faces, identity, expression, landmarks = _read(path)
    drawn, strips = _triangles(faces, *PARTS.values()), _triangles(faces, LASHES)
    lashes = np.concatenate([strips, strips[:, ::-1]])
    return FaceModel(neutral, drawn, lashes, identity, expression, landmarks.astype(np.int32))


def _read(path: Path) -> Content:
    """The checked content of a model; the error is that of `read_face_model`."""
    archive = path.is_file() and path.suffix == ".npz"
    if not archive and not (path / "generic_neutral_mesh.obj").is_file():
        raise DataError(f"{path}: expected the folder FaceXModel of ICT-FaceKit or the repacked .npz; clone {HOME}")
    try:
        content = _read_archive(path) if archive else _read_folder(path)
        _check(*content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, DataError) as error:
        raise DataError(
            f"{path}: not ICT-FaceKit's light model, or incomplete ({error}); clone {HOME}, pass its FaceXModel"
        ) from error
    return content


def pack_face_model(folder: Path, path: Path) -> None:
    """Write the folder `FaceXModel` of the ICT-FaceKit repository, 400 MB, as one `.npz` of 10 MB.

    Raises:
        DataError: the folder is no such model, or is incomplete.
    """
    neutral, faces, identity, expression, landmarks = _read(folder)
    file = io.BytesIO()
    np.savez_compressed(
        file,
        neutral=neutral,
        faces=faces,
        identity=identity.astype(np.float16),
        expression_names=list(expression),
        expression=np.stack([*expression.values()]).astype(np.float16),
        landmarks68=landmarks,
    )
    write_file(path, file.getvalue())


def _check(neutral: Floats, faces: Ints, identity: Floats, expression: dict[str, Floats], landmarks: Ints) -> None:
    """Raise ValueError if a part is missing; otherwise an incomplete head would be drawn and labelled as complete."""
    _expect("vertices", neutral, (VERTICES, 3))
    _expect("faces", faces, (FACES, 4))
    _expect("identity modes", identity, (MODES, VERTICES, 3))
    _expect("landmarks", landmarks, (68,))
    names = {name for shapes in SHAPES.values() for name in shapes} - OWN_SHAPES
    if missing := sorted(n for n in names if n not in expression and not {f"{n}_L", f"{n}_R"} <= expression.keys()):
        raise ValueError(f"no blendshape {', '.join(missing)}")
    for name, moved in expression.items():
        _expect(f"blendshape {name}", moved, (VERTICES, 3))
    if not (landmarks.min() >= 0 and landmarks.max() < VERTICES and faces.max() < VERTICES):
        raise ValueError(f"landmarks or faces beyond the {VERTICES} vertices")


def _expect(what: str, array: "Floats | Ints", shape: tuple[int, ...]) -> None:
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{what}: expected finite numbers of shape {shape}, found shape {array.shape}")


def _read_archive(path: Path) -> Content:
    file = read_arrays(path)
    names = [str(name) for name in file["expression_names"]]
    expression = dict(zip(names, file["expression"].astype(np.float32), strict=True))
    identity = file["identity"].astype(np.float32)
    return file["neutral"], file["faces"], identity, expression, file["landmarks68"]


def _read_folder(folder: Path) -> Content:
    neutral, faces = _read_obj(folder / "generic_neutral_mesh.obj")
    indices = read_json_object(folder / "vertex_indices.json", DataError)
    landmarks = np.array(indices["idx_to_landmark_verts"], np.int32)
    modes = sorted(folder.glob("identity*.obj"))[:MODES]
    if not modes:
        raise ValueError("no identity*.obj")
    identity = np.stack([_read_obj(path)[0] - neutral for path in modes])
    known = {"generic_neutral_mesh", *(path.stem for path in folder.glob("identity*.obj"))}
    shapes = sorted(path for path in folder.glob("*.obj") if path.stem not in known)
    expression = {path.stem: _read_obj(path)[0] - neutral for path in shapes}
    return neutral, faces, identity, expression, landmarks


def _read_obj(path: Path) -> tuple[Floats, Ints]:
    """Vertices and quads of a Wavefront file; -1 as the fourth index marks a triangle."""
    vertices, faces = [], []
    for line in path.read_text().splitlines():
        if line.startswith("v "):
            vertices.append(line.split()[1:4])
        elif line.startswith("f "):
            corners = [int(corner.split("/")[0]) - 1 for corner in line.split()[1:]]
            faces.append(([*corners, -1])[:4])
    return np.array(vertices, np.float32), np.array(faces, np.int32)


def _triangles(faces: Ints, *parts: tuple[int, int]) -> Ints:
    """The triangles of some parts, each given by its first and end vertex; quads are cut in two."""
    quads = faces[faces[:, 3] >= 0]
    triangles = np.concatenate([faces[:, :3], quads[:, [0, 2, 3]]])
    drawn = np.zeros(VERTICES, bool)
    for first, end in parts:
        drawn[first:end] = True
    return np.ascontiguousarray(triangles[drawn[triangles].all(axis=1)].astype(np.int32))
