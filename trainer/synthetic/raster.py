"""A small rasteriser: the visible point of the head at each pixel, its attributes, and shadows."""

import numba
import numpy as np

from sdk.arrays import Floats, Ints


@numba.njit(cache=True, fastmath=True)
def vertex_normals(vertices: Floats, triangles: Ints) -> Floats:
    """(V, 3) unit normals of the vertices, the mean of the adjacent triangles weighted by area."""
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
        points: (V, 3) column and row in pixels, with 0 at the centre of the first, and depth, larger is farther.
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
    """(A, N) per-vertex attributes (V, A) at N points, given their triangles (N,) and weights (N, 4) of `rasterise`."""
    out = np.empty((attributes.shape[1], len(seen)), np.float32)
    for n in range(len(seen)):
        a, b, c = triangles[seen[n], 0], triangles[seen[n], 1], triangles[seen[n], 2]
        u, v, w = weights[n, 0], weights[n, 1], weights[n, 2]
        for i in range(len(out)):
            out[i, n] = u * attributes[a, i] + v * attributes[b, i] + w * attributes[c, i]
    return out


@numba.njit(cache=True, fastmath=True)
def sample_map(maps: Floats, columns: Floats, rows: Floats) -> Floats:
    """(C, N) bilinear values of maps (C, H, W) at N places; outside, the value of the border."""
    count, height, width = maps.shape
    out = np.empty((count, len(columns)), np.float32)
    for n in range(len(columns)):
        u = min(max(columns[n], 0), width - 1.01)
        v = min(max(rows[n], 0), height - 1.01)
        c, r = int(u), int(v)
        u, v = u - c, v - r
        for i in range(count):
            top = maps[i, r, c] * (1 - u) + maps[i, r, c + 1] * u
            bottom = maps[i, r + 1, c] * (1 - u) + maps[i, r + 1, c + 1] * u
            out[i, n] = top * (1 - v) + bottom * v
    return out


@numba.njit(cache=True, fastmath=True)
def lit_fraction(positions: Floats, depth_map: Floats, scale: float, bias: float) -> Floats:
    """(N,) visible share of a lamp from each point: 0 in shadow, 1 in light, averaged over 3 x 3 depth cells.

    Args:
        positions: (3, N) points in the frame of the lamp: column and row in centimetres from its centre, and depth.
        depth_map: (S, S) depth of the point nearest to the lamp.
        scale: cells per centimetre.
        bias: tolerance of the depth in centimetres, so that a surface does not shadow itself.
    """
    size = len(depth_map)
    lit = np.ones(positions.shape[1], np.float32)
    for n in range(len(lit)):
        column = int(positions[0, n] * scale + size / 2)
        row = int(positions[1, n] * scale + size / 2)
        if column < 1 or row < 1 or column >= size - 1 or row >= size - 1:
            continue
        hits = 0
        for i in range(-1, 2):
            for j in range(-1, 2):
                hits += depth_map[row + i, column + j] < positions[2, n] - bias
        lit[n] = 1 - hits / 9
    return lit
