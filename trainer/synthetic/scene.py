"""One picture of one head: person, pose, camera, light, accessories, background."""

from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numba
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from sdk.arrays import Floats
from trainer.synthetic.accessories import Accessories, draw_accessories, wear
from trainer.synthetic.backdrop import SOFT_EDGES, as_image, background, body, draw_colour, merge_planes
from trainer.synthetic.expression import Expression
from trainer.synthetic.face_model import PARTS, FaceModel
from trainer.synthetic.hair import HairStyle, draw_style, grow, lock_colours, locks
from trainer.synthetic.light import illuminate, under_lids
from trainer.synthetic.materials import EYE, KIND, SKIN, Clothes, draw_clothes, materials
from trainer.synthetic.noise import NoiseBank
from trainer.synthetic.own_shapes import own_shapes
from trainer.synthetic.portraits import portrait_skin, rest_as_portrait
from trainer.synthetic.raster import interpolate, rasterise, sample_map, vertex_normals
from trainer.synthetic.regions import Regions, place_on_map
from trainer.synthetic.resting import Side, at_rest, draw_angles, head_rotation, project, turned_eye
from trainer.synthetic.skin import Skin, draw_skin, paint

CLOSED_LIPS = 0.03  # centimetres between the inner lips of a closed mouth
UPPER_LASHES = 3.41  # height above which only lashes of upper lids grow, in centimetres on the mean face
SHUT_LIDS = -0.02  # centimetres between the lids of a closed eye: they overlap a little
OPEN_LIDS = 0.26  # between the lids of an open eye at least; half shut ones could be called either
SQUEEZED_LIDS = 0.12  # below which an eye that is squeezed, as in laughter, shuts
LIDS = np.array([[[37, 38], [43, 44]], [[41, 40], [47, 46]]])  # of the 68: upper and lower, each of two eyes
Lids: TypeAlias = Literal["free", "shut", "open", "squeezed"]
EYES: tuple[tuple[str, Side], ...] = (("eye_left", "L"), ("eye_right", "R"))


@dataclass(frozen=True)
class Render:
    """A picture and its exact labels.

    Attributes:
        image: (S, S, 3) uint8 RGB.
        landmarks68: (68, 2) in pixels of the picture; 0 is the centre of the first.
        points: (106, 2) in the same unit.
        yaw, pitch, roll: degrees; positive where the face turns to the right of the picture, looks up, and leans
            anticlockwise, as the picture shows it.
        lip_gap: centimetres between the inner lips.
        lid_gap: centimetres between the lids of the eye that is wider open; below 0 where they overlap.
        skin: skin and hair colour of the person.
        hidden: action units that are not visible in this picture.
        worn: glasses, hat and hand.
        covered: whether a hat or a scarf is on the head.
    """

    image: npt.NDArray[np.uint8]
    landmarks68: Floats
    points: Floats
    yaw: float
    pitch: float
    roll: float
    lip_gap: float
    lid_gap: float
    skin: Skin
    hidden: frozenset[int]
    worn: Accessories
    covered: bool


class Studio:
    """Data that all renders share: the mesh, its static attributes, maps and noise.

    Args:
        model: the head.
        size: side of the picture that is rendered, before it is scaled down.
    """

    def __init__(self, model: FaceModel, size: int = 256) -> None:
        self.model, self.size = model, size
        self.regions, self.noise = Regions(model), NoiseBank()
        self.kind = np.zeros(len(model.neutral), np.float32)
        for part, (first, end) in PARTS.items():
            self.kind[first:end] = KIND[part]
        self.triangle_kind = self.kind[model.triangles[:, 0]].astype(np.int32)
        self.occlusion = _occlusion(model)
        self.points106 = points106(model)
        self.shapes = model.expression | own_shapes(model)

    def shape(
        self, weights: dict[str, float], random: np.random.Generator, *, parted: bool, lids: Lids = "free"
    ) -> Floats:
        """(V, 3) positions of a new person with an expression.

        Args:
            parted: whether the lips shall be apart; the effect of the identity on them is corrected.
            lids: "shut" and "open" correct them in the same way; "squeezed" ones shut or stay open, but not half shut.
        """
        identity = random.normal(0, 1.0, len(self.model.identity)).astype(np.float32).clip(-2.2, 2.2)
        vertices = self.model.neutral + np.tensordot(identity, self.model.identity, 1)
        for name, weight in weights.items():
            if name in self.shapes:
                vertices += np.float32(weight) * self.shapes[name]
        for part, side in EYES:
            eye = slice(*PARTS[part])
            vertices[eye] = turned_eye(vertices[eye], weights, side)
            lowered = weights.get(f"eyeBlink_{side}", 0.0) + 0.7 * weights.get(f"eyeLookDown_{side}", 0.0)
            vertices[eye, 2] -= 0.3 * min(lowered, 1.0)  # keeps the eyeball behind the lid
        if lids != "free":
            vertices = self._with_lids(vertices, lids)
        return self._with_lips(vertices, random, parted)

    def _with_lids(self, vertices: Floats, lids: Lids) -> Floats:
        gaps = self._lid_gaps(vertices)
        shut = lids == "shut" or (lids == "squeezed" and gaps.max() < SQUEEZED_LIDS)
        for index, (_, side) in enumerate(reversed(EYES)):  # the landmarks begin with the right eye
            blink = self.shapes[f"eyeBlink_{side}"]
            closing = self._lid_gaps(blink)[index]
            wanted = SHUT_LIDS if shut else max(gaps[index], OPEN_LIDS)
            if closing < 0:
                vertices = vertices + blink * ((wanted - gaps[index]) / closing)
        return vertices

    def _with_lips(self, vertices: Floats, random: np.random.Generator, parted: bool) -> Floats:
        gap = self.lip_gap(vertices)
        # A sneer may open a closed mouth.
        shut = gap < 0.3 or random.random() < (0.93 if gap < 0.4 else 0.6 if gap < 1.0 else 0)
        wanted = max(gap, 0.2) if parted else min(gap, CLOSED_LIPS) if shut else gap
        if shut and not parted:  # teeth must not show between lips that press or roll in
            vertices[PARTS["gums"][0] : PARTS["teeth"][1], 2] -= 1.2
        if wanted != gap:
            names = [f"mouth{lip}_{side}" for lip in ("UpperUp", "LowerDown") for side in "LR"]
            opening = np.sum([self.model.expression[name] for name in names], axis=0)
            vertices = vertices - opening * (gap - wanted) / self.lip_gap(opening)
        return vertices.astype(np.float32)

    def lip_gap(self, vertices: Floats) -> float:
        """Height between the inner lips, in the unit of the vertices."""
        upper, lower = self.model.landmarks68[[62, 66]]
        return float(vertices[upper, 1] - vertices[lower, 1])

    def lid_gap(self, vertices: Floats) -> float:
        """Height between the lids of the eye that is wider open, in the unit of the vertices; below 0 they overlap."""
        return float(self._lid_gaps(vertices).max())

    def _lid_gaps(self, vertices: Floats) -> Floats:
        """(2,) of the right eye and the left one."""
        upper, lower = (vertices[self.model.landmarks68[each], 1] for each in LIDS)
        gaps: Floats = (upper - lower).mean(axis=1)
        return gaps


def points106(model: FaceModel) -> npt.NDArray[np.int32]:
    """106 vertices of the face: the 68 of Multi-PIE and 19 pairs, left and right, spread over the rest of the face."""
    chosen = model.landmarks68.tolist()
    face = model.neutral[:6706]
    distance = np.min(np.linalg.norm(face[:, None] - model.neutral[None, chosen], axis=2), axis=1)
    distance[np.abs(face[:, 0]) < 0.5] = 0  # points on the middle line have no counterpart
    while len(chosen) < 106:  # farthest point sampling
        farthest = int(distance.argmax())
        twin = int(np.linalg.norm(face - face[farthest] * np.array([-1, 1, 1], np.float32), axis=1).argmin())
        for vertex in (farthest, twin):
            chosen.append(vertex)
            distance = np.minimum(distance, np.linalg.norm(face - face[vertex], axis=1))
    return np.array(chosen, np.int32)


def _occlusion(model: FaceModel) -> Floats:
    """(V,) ambient light in 0..1 that reaches each point of the mean head, estimated from its concavity."""
    normals = vertex_normals(model.neutral, model.triangles)
    openness = np.ones(len(model.neutral), np.float32)
    inside = PARTS["skin"][1]
    openness[:inside] = _openness(model.neutral[:inside], normals)
    openness[inside:] = np.interp(model.neutral[inside:, 2], (3.0, 7.5, 9.8), (0.06, 0.3, 0.95))
    openness[PARTS["eye_left"][0] : PARTS["eye_right"][1]] = 0.8
    return openness.clip(0.15, 1)


@numba.njit(cache=True, fastmath=True)
def _openness(places: Floats, normals: Floats) -> Floats:
    """(V,) 1 less the mean height of the surface within two centimetres above each place (V, 3)."""
    openness = np.empty(len(places), np.float32)
    for v in range(len(places)):
        count, above = 0, 0.0
        for other in range(0, len(places), 3):
            x = places[other, 0] - places[v, 0]
            y = places[other, 1] - places[v, 1]
            z = places[other, 2] - places[v, 2]
            length = np.sqrt(x * x + y * y + z * z)
            if 0.15 < length < 2.0:
                count += 1
                above += max(x * normals[v, 0] + y * normals[v, 1] + z * normals[v, 2], 0) / length
        openness[v] = 1 - 1.6 * above / max(count, 1)
    return openness


def render(
    studio: Studio,
    expression: Expression,
    random: np.random.Generator,
    face_pixels: float = 142,
    *,
    portrait: bool = False,
    angles: tuple[float, float, float] | None = None,
    backdrop: Image.Image | None = None,
) -> Render:
    """Render a new person with an expression.

    Args:
        face_pixels: width of the face in pixels of the picture; the head is centred.
        portrait: draw what `portraits` changes in resting face and skin.
        angles: yaw, pitch and roll in degrees; drawn by default.
        backdrop: what is behind the person; drawn by default.
    """
    model, size = studio.model, studio.size
    skin = draw_skin(random)
    style = draw_style(random, draw_colour(random))
    if style.cut == "long" and random.random() < 0.8:
        skin = replace(skin, beard=0.0)
    clothes = draw_clothes(random, draw_colour(random), draw_colour(random))
    weights = at_rest(expression, random)
    if portrait:
        rest_as_portrait(weights, expression, random)
        skin = portrait_skin(skin, random)
    for name, weight in expression.weights().items():
        weights[name] = max(weight, weights.get(name, 0.0)) if weight > 0 else weights.get(name, 0.0) + weight
    units = expression.units.keys()
    lids: Lids = "shut" if 43 in units else "squeezed" if units & {6, 7, 9, 12} else "open"
    vertices = studio.shape(weights, random, parted=bool(units & {16, 25, 26, 27}), lids=lids)
    gaps = studio.lip_gap(vertices), studio.lid_gap(vertices)
    vertices, hair = grow(style, model.neutral, studio.kind == SKIN, vertices, model.triangles)
    angles = angles or draw_angles(random)
    rotation = head_rotation(*angles)
    posed = (vertices @ rotation.T).astype(np.float32)
    screen = project(posed, size, face_pixels, random)
    head = _Head(posed, hair, rotation, skin, style, clothes)
    light, mask = _shade(studio, head, screen, expression, random)
    marks = screen[model.landmarks68, :2]
    worn = draw_accessories(style.cut, random)
    if backdrop is None:
        backdrop = background(size, studio.noise, random)
    picture = _compose(light, mask, marks, studio, head, worn, backdrop, random)
    return Render(picture, marks, screen[studio.points106, :2], *angles, *gaps, skin, worn.hidden, worn, style.is_cloth)


@dataclass(frozen=True)
class _Head:
    """A posed head: (V, 3) positions, (V,) share of hair, (3, 3) rotation, and its appearance."""

    posed: Floats
    hair: Floats
    rotation: Floats
    skin: Skin
    style: HairStyle
    clothes: Clothes


def _shade(
    studio: Studio, head: _Head, screen: Floats, expression: Expression, random: np.random.Generator
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(3, N) linear light of the visible points of the head, and (S, S) their pixels."""
    model, rotation = studio.model, head.rotation
    seen, weights = rasterise(screen, model.triangles, studio.size)
    lashes = _lashes(studio, screen, weights[..., 3], random)
    normals = vertex_normals(head.posed, model.triangles)
    mask = seen >= 0
    seen, weights = seen[mask], weights.reshape(-1, 4).take(np.flatnonzero(mask), axis=0)  # much faster than [mask]
    covers = np.stack([studio.occlusion, head.hair], axis=1)
    normal, rest, place, (openness, hairy) = (
        interpolate(seen, weights, model.triangles, each) for each in (normals, model.neutral, head.posed, covers)
    )
    kind = studio.triangle_kind[seen]
    maps = paint(head.skin, expression.units, studio.regions, studio.noise, random)
    *colour, right, down = sample_map(maps, *place_on_map(rest[0], rest[1]))
    bumpy = (kind == SKIN) & (hairy < 0.5) & (rotation[:, 2] @ normal > 0.2)
    normal -= bumpy * (right * rotation[:, :1] - down * rotation[:, 1:2])
    normal /= np.sqrt((normal * normal).sum(axis=0)) + 1e-6
    albedo, gloss = materials(
        kind, rest, np.stack(colour), hairy, mask, head.skin, head.style, head.clothes, studio.noise, random
    )
    picture = np.full(mask.shape, -1, np.int32)
    picture[mask] = kind
    lids = (under_lids(picture == EYE) * (0.45 + 0.55 * under_lids(picture > EYE)))[mask]
    albedo *= 0.35 + 0.65 * lids
    light = illuminate(normal, place, head.posed, model.triangles, openness * lids, gloss * lids, albedo, random)
    light *= 1 - lashes[mask]
    return light, mask


def _lashes(studio: Studio, screen: Floats, depth: Floats, random: np.random.Generator) -> Floats:
    """(S, S) share of light that lashes keep from the points of the head, whose (S, S) depth is given."""
    model, size = studio.model, studio.size
    strips, places = rasterise(screen, model.lashes, size)
    dense = random.uniform(0.1, 0.5) * (1 + 0.2 * studio.noise.cut(random, 1, size, size))
    upper = model.neutral[model.lashes[strips, 0], 1] > UPPER_LASHES
    behind = (strips >= 0) & (places[..., 3] < depth + 0.25)
    lashes: Floats = (dense * (0.25 + 0.75 * upper) * behind).clip(0, 0.9).astype(np.float32)
    return lashes


_SRGB_LEVELS = (255 * np.linspace(0, 1, 1 << 16) ** (1 / 2.2)).astype(np.uint8)


def _levels(light: Floats) -> npt.NDArray[np.uint8]:
    """8-bit sRGB of linear light in 0..1, from a table: much faster than a power."""
    return _SRGB_LEVELS.take((65535 * light.clip(0, 1)).astype(np.uint16))


def _compose(
    light: Floats,
    mask: npt.NDArray[np.bool_],
    marks: Floats,
    studio: Studio,
    head: _Head,
    worn: Accessories,
    backdrop: Image.Image,
    random: np.random.Generator,
) -> npt.NDArray[np.uint8]:
    """The head over body and background, with long hair and accessories on top, as 8-bit sRGB."""
    style, size = head.style, studio.size
    picture = body(backdrop, size, marks, head.clothes.colour)
    front, tint = None, None
    if style.cut == "long":
        behind, front = locks(style, marks, size, random)
        brightness = float(np.clip(2.2 * light[1].mean(), 0.35, 1.3)) ** 0.45
        tint = brightness * lock_colours(style, head.skin.hair, size, studio.noise, random)
        picture.paste(as_image(0.55 * tint), mask=behind)
    rim = _levels(0.1 * light.mean(axis=1))  # mixed into the soft edge: dark, as rims are
    shown = np.empty((3, size, size), np.uint8)
    for plane, outside, inside in zip(shown, rim, _levels(light), strict=True):
        plane[:] = outside
        plane[mask] = inside  # one plane at a time: a mask over several axes is ten times slower
    soft = Image.fromarray(255 * mask.astype(np.uint8)).filter(SOFT_EDGES)
    picture.paste(merge_planes(shown), mask=soft)
    if front is not None and tint is not None:
        shadow = front.filter(ImageFilter.GaussianBlur(5))
        picture.paste((0, 0, 0), mask=shadow.point([round(0.35 * value) for value in range(256)]))
        picture.paste(as_image(tint), mask=front)
    wear(picture, marks, worn, random)
    return np.asarray(picture)
