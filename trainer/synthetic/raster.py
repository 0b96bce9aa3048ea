"""A small rasteriser: which point of the head does each pixel see, how bright is it there, and what is in shadow."""

from typing import TypeAlias

import numba
import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Ints: TypeAlias = npt.NDArray[np.int32]


@numba.njit(cache=True, fastmath=True)
def vertex_normals(vertices: Floats, triangles: Ints) -> Floats:
    """(V, 3) unit normals, weighted by the area of the triangles around."""
    normals = np.zeros_like(vertices)
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for corner in (a, b, c):
            normals[corner, 0] += nx
            normals[corner, 1] += ny
            normals[corner, 2] += nz
    for v in range(len(normals)):
        length = np.sqrt(normals[v, 0] ** 2 + normals[v, 1] ** 2 + normals[v, 2] ** 2) + 1e-12
        for i in range(3):
            normals[v, i] /= length
    return normals


@numba.njit(cache=True, fastmath=True)
def rasterise(points: Floats, triangles: Ints, size: int) -> "tuple[Ints, Floats]":
    """The nearest triangle at each pixel.

    Args:
        points: (V, 3) column and row in pixels, and depth, larger is farther.
        triangles: (T, 3).
        size: side of the picture.

    Returns:
        (size, size) triangle index or -1, and (size, size, 4): barycentric weights of its corners, and depth.
    """
    seen = np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 4), np.float32)
    weights[:, :, 3] = np.inf
    for t in range(len(triangles)):
        a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
        ax, ay, az = points[a, 0], points[a, 1], points[a, 2]
        bx, by, bz = points[b, 0], points[b, 1], points[b, 2]
        cx, cy, cz = points[c, 0], points[c, 1], points[c, 2]
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area >= -1e-9:  # seen from behind (rows run downwards)
            continue
        left, right = max(0, int(np.ceil(min(ax, bx, cx)))), min(size - 1, int(max(ax, bx, cx)))
        top, bottom = max(0, int(np.ceil(min(ay, by, cy)))), min(size - 1, int(max(ay, by, cy)))
        for y in range(top, bottom + 1):
            for x in range(left, right + 1):
                u = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                v = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                w = 1 - u - v
                if u < 0 or v < 0 or w < 0:
                    continue
                depth = u * az + v * bz + w * cz
                if depth < weights[y, x, 3]:
                    seen[y, x] = t
                    weights[y, x, 0], weights[y, x, 1], weights[y, x, 2], weights[y, x, 3] = u, v, w, depth
    return seen, weights


@numba.njit(cache=True, fastmath=True)
def interpolate(seen: Ints, weights: Floats, triangles: Ints, attributes: Floats) -> Floats:
    """(size, size, A) per-vertex attributes (V, A) at each pixel; 0 where nothing is seen."""
    size, count = len(seen), attributes.shape[1]
    out = np.zeros((size, size, count), np.float32)
    for y in range(size):
        for x in range(size):
            t = seen[y, x]
            if t < 0:
                continue
            a, b, c = triangles[t, 0], triangles[t, 1], triangles[t, 2]
            u, v, w = weights[y, x, 0], weights[y, x, 1], weights[y, x, 2]
            for i in range(count):
                out[y, x, i] = u * attributes[a, i] + v * attributes[b, i] + w * attributes[c, i]
    return out


@numba.njit(cache=True, fastmath=True)
def sample_map(maps: Floats, places: Floats) -> Floats:
    """(H, W, C) bilinear values of maps (R, K, C) at (H, W, 2) column and row; beyond the border its value."""
    height, width = places.shape[:2]
    rows, columns, count = maps.shape
    out = np.empty((height, width, count), np.float32)
    for y in range(height):
        for x in range(width):
            u = min(max(places[y, x, 0], 0), columns - 1.01)
            v = min(max(places[y, x, 1], 0), rows - 1.01)
            c, r = int(u), int(v)
            u, v = u - c, v - r
            for i in range(count):
                top = maps[r, c, i] * (1 - u) + maps[r, c + 1, i] * u
                bottom = maps[r + 1, c, i] * (1 - u) + maps[r + 1, c + 1, i] * u
                out[y, x, i] = top * (1 - v) + bottom * v
    return out


@numba.njit(cache=True, fastmath=True)
def lit_fraction(positions: Floats, depth_map: Floats, scale: float, bias: float) -> Floats:
    """How much of a light each pixel sees: 0 in shadow, 1 in light, softened over 3 x 3 cells of the depth map.

    Args:
        positions: (H, W, 3) points in the light's own frame: column and row in centimetres around its centre, depth.
        depth_map: (S, S) depth that the light sees first.
        scale: cells per centimetre.
        bias: centimetres by which a surface may lie behind itself.
    """
    height, width = positions.shape[:2]
    size = len(depth_map)
    lit = np.ones((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            column = int(positions[y, x, 0] * scale + size / 2)
            row = int(positions[y, x, 1] * scale + size / 2)
            if column < 1 or row < 1 or column >= size - 1 or row >= size - 1:
                continue
            hits = 0
            for i in range(-1, 2):
                for j in range(-1, 2):
                    hits += depth_map[row + i, column + j] < positions[y, x, 2] - bias
            lit[y, x] = 1 - hits / 9
    return lit
