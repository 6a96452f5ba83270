"""Textures for decimated meshes: every face gets a patch of its own, with the colours of the full surface under it.

A decimated face may span what lay in several charts of the old texture: no texture coordinates there could fit it.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.spatial import KDTree

BAKING_VERSION = 1
"""Rises when the same mesh gets another texture than before."""
# Texels of a patch that lie outside its face, on each side: what is drawn at an edge is averaged over texels.
_MARGIN = 1
_LEAST_CELL = 5
"""Texels along a patch that a face needs at least, margins included."""
# The closest face of the full surface is looked for among this many of its samples near a point.
_NEIGHBOURS = 8
_SAMPLES = 150_000
# Points at which the colours of two surfaces are compared.
_COMPARED = 8000
# Grey levels: less is a print that moved by a texel, more a patch of another side or part.
_CLEARLY = 50
# Faces of the full surface are seen through a new face only when they look the same way, within about 60 degrees.
_AGREEMENT = 0.5
_BLOCK = 4


def cell_size(faces: int, side: int) -> int:
    """Return how many texels a patch measures in a square texture of `side`; 0 where they would be too small."""
    cell = side // int(np.ceil(np.sqrt(faces)))
    return cell if cell >= _LEAST_CELL else 0


def most_faces(side: int) -> int:
    """Return how many faces a square texture of `side` has room for."""
    return (side // _LEAST_CELL) ** 2


def patch_corners(faces: int, side: int) -> Int[np.ndarray, "f 2"]:
    """Return the first texel (x, y) of each patch; patches of consecutive faces lie together, in blocks of 4x4."""
    cell = cell_size(faces, side)
    columns = side // cell
    strip, within = np.divmod(np.arange(faces), _BLOCK * columns)
    # The last strip may have fewer rows than a block.
    height = np.minimum(_BLOCK, columns - _BLOCK * strip)
    return cell * np.column_stack([within // height, _BLOCK * strip + within % height])


def spatial_order(points: Float[np.ndarray, "f 3"]) -> Int[np.ndarray, " f"]:
    """Return an order in which neighbours in space come soon after each other (Morton's)."""
    extent = np.maximum(np.ptp(points, axis=0).max(), 1e-12)
    cells = ((points - points.min(axis=0)) / extent * 1023).astype(np.int64)
    bits = [((cells[:, axis] >> bit) & 1) << (3 * bit + axis) for bit in range(10) for axis in range(3)]
    return np.argsort(np.sum(bits, axis=0), kind="stable")


def _weights(cell: int) -> Float[np.ndarray, "t 3"]:
    """Return the barycentric weights of a patch's texels; beyond the longest side they stay next to it."""
    along = (np.arange(cell) + 0.5 - _MARGIN) / (cell - 2 * _MARGIN)
    second, third = (axis.ravel() for axis in np.meshgrid(along, along))
    over = np.maximum(second + third - 1 - 1 / (cell - 2 * _MARGIN), 0) / 2
    second, third = second - over, third - over
    return np.column_stack([1 - second - third, second, third])


def _closest_weights(
    points: Float[np.ndarray, "n 3"], triangles: Float[np.ndarray, "n 3 3"]
) -> Float[np.ndarray, "n 3"]:
    """Return about where on triangles points are closest: their projection, moved inside by clipping its weights."""
    origin, first, second = triangles[:, 0], triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]
    offset = points - origin
    aa, ab, bb = ((one * other).sum(axis=1) for one, other in ((first, first), (first, second), (second, second)))
    a, b = (offset * first).sum(axis=1), (offset * second).sum(axis=1)
    area = np.maximum(aa * bb - ab * ab, 1e-30)
    u, v = (bb * a - ab * b) / area, (aa * b - ab * a) / area
    weights = np.clip(np.column_stack([1 - u - v, u, v]), 0, None)
    return weights / weights.sum(axis=1, keepdims=True)


def _normals(corners: Float[np.ndarray, "f 3 3"]) -> tuple[Float[np.ndarray, "f 3"], Float[np.ndarray, " f"]]:
    """Return the normals of faces, and twice their areas."""
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(normals, axis=1)
    return normals / np.maximum(area, 1e-30)[:, None], area


class Surface:
    """Find the texture coordinates of a full textured surface near points in space."""

    def __init__(self, corners: Float[np.ndarray, "f 3 3"], uv: Float[np.ndarray, "f 3 2"]) -> None:
        self._corners, self._uv = corners, uv
        self._normals, area = _normals(corners)
        rng = np.random.default_rng(0)
        # Every face is sampled once, the larger ones as often as their area asks.
        drawn = rng.choice(len(corners), _SAMPLES, p=area / area.sum())
        self._faces = np.concatenate([np.arange(len(corners)), drawn])
        weights = np.concatenate([np.full((len(corners), 3), 1 / 3), rng.dirichlet(np.ones(3), _SAMPLES)])
        self._tree = KDTree(np.einsum("sc,scd->sd", weights, corners[self._faces]))

    def texture_coordinates(
        self, points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"]
    ) -> Float[np.ndarray, "n 2"]:
        """Read them off the closest face that looks the way of `normals`, or the closest at all if none does."""
        _, near = self._tree.query(points, k=_NEIGHBOURS)
        faces = self._faces[near]
        count = len(points)
        best, found = np.full(count, np.inf), np.zeros((count, 2))
        for candidates in faces.T:
            weights = _closest_weights(points, self._corners[candidates])
            places = np.einsum("nc,ncd->nd", weights, self._corners[candidates])
            away = np.linalg.norm(places - points, axis=1)
            # One that looks elsewhere is taken only for want of another.
            away = away + 1e3 * ((self._normals[candidates] * normals).sum(axis=1) < _AGREEMENT)
            better = away < best
            best[better] = away[better]
            found[better] = np.einsum("nc,ncd->nd", weights[better], self._uv[candidates[better]])
        return found


def _colours(pixels: UInt8[np.ndarray, "h w c"], uv: Float[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n c"]:
    """Read a texture between its texels; it repeats outside 0..1, and its first row is at v = 0."""
    height, width, channels = pixels.shape
    bordered = cv2.copyMakeBorder(pixels, 1, 1, 1, 1, cv2.BORDER_WRAP)
    places = (uv % 1.0) * [width, height] + 0.5
    # OpenCV maps at most 32,767 rows at once.
    read = []
    for part in np.array_split(places.astype(np.float32), -(-len(places) // 30_000)):
        columns, rows = (np.ascontiguousarray(each[:, None]) for each in part.T)
        read.append(cv2.remap(bordered, columns, rows, cv2.INTER_LINEAR))
    return np.concatenate(read).reshape(-1, channels)


def mismatch(
    corners: Float[np.ndarray, "f 3 3"],
    uv: Float[np.ndarray, "f 3 2"],
    full: Surface,
    pixels: UInt8[np.ndarray, "h w c"],
) -> float:
    """Return the fraction of the new faces' area whose colours clearly differ from those of the full surface."""
    normals, area = _normals(corners)
    rng = np.random.default_rng(0)
    faces, weights = rng.choice(len(corners), _COMPARED, p=area / area.sum()), rng.dirichlet(np.ones(3), _COMPARED)
    points = np.einsum("nc,ncd->nd", weights, corners[faces])
    true = full.texture_coordinates(points, normals[faces])
    mapped = np.einsum("nc,ncd->nd", weights, uv[faces])
    away = np.abs(_colours(pixels, true).astype(float) - _colours(pixels, mapped)).max(axis=1)
    return float((away > _CLEARLY).mean())


def bake(
    corners: Float[np.ndarray, "f 3 3"], full: Surface, pixels: UInt8[np.ndarray, "h w c"], side: int
) -> tuple[Float[np.ndarray, "f 3 2"], UInt8[np.ndarray, "s s c"]]:
    """Return texture coordinates of new faces, given by their corners, and the square texture that goes with them.

    `pixels` is the texture of the full surface, and `cell_size` of the faces must not be 0.
    """
    count, cell = len(corners), cell_size(len(corners), side)
    order = spatial_order(corners.mean(axis=1))
    first = np.empty((count, 2), dtype=np.int64)
    first[order] = patch_corners(count, side)
    inner = cell - 2 * _MARGIN
    uv = (first[:, None] + _MARGIN + inner * np.array([[0, 0], [1, 0], [0, 1]])) / side
    normals, _ = _normals(corners)
    weights = _weights(cell)
    baked = np.zeros((side, side, pixels.shape[2]), dtype=np.uint8)
    # A texture's worth of points at once would take gigabytes.
    for part in _parts(count, 200_000 // len(weights)):
        points = np.einsum("tc,fcd->ftd", weights, corners[part]).reshape(-1, 3)
        found = full.texture_coordinates(points, np.repeat(normals[part], len(weights), axis=0))
        patches = _colours(pixels, found).reshape(len(part), cell, cell, -1)
        rows = first[part, 1][:, None, None] + np.arange(cell)[:, None]
        columns = first[part, 0][:, None, None] + np.arange(cell)
        baked[rows, columns] = patches
    return uv, baked


def _parts(count: int, size: int) -> Sequence[np.ndarray]:
    return np.array_split(np.arange(count), -(-count // max(size, 1)))
