"""Cheaper meshes and textures for drawing: a copy of a compiled MuJoCo model whose visual meshes have few faces.

Only the copy changes, and only what the renderer uploads, so physics (which runs on the original) cannot.
"""

# MuJoCo is a compiled module without stubs.
# pyright: reportAttributeAccessIssue=false

import copy
import hashlib
import io
from dataclasses import dataclass
from typing import Any

import cv2
import mujoco
import numpy as np
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.cache import cache_dir, keeping

# Part of every cache key: rises when the decimation gives other meshes.
VERSION = 3
# Texture coordinates and normals are looked up among this many nearby samples of the full surface.
_NEIGHBOURS = 24
# A texture coordinate that is further than this from where the face's centre points lies across a seam.
_SEAM = 0.25
# A normal of the full surface is used for a corner only when it is within about 30 degrees of the new face.
_NORMAL_AGREEMENT = 0.85
# Thin doubled sheets fall apart before they reach their budget: a mesh of up to this many faces is then left as it is.
_KEPT_FACES = 8000


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh with a normal and a texture coordinate (none without texture) for each corner of a face."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    normals: Float[np.ndarray, "f 3 3"]
    uv: Float[np.ndarray, "f 3 2"] | None


def read_mesh(model: mujoco.MjModel, index: int) -> Mesh:
    """Read mesh `index` of a compiled model."""
    rows = slice(model.mesh_faceadr[index], model.mesh_faceadr[index] + model.mesh_facenum[index])
    first = model.mesh_vertadr[index]
    vertices = model.mesh_vert[first : first + model.mesh_vertnum[index]].astype(np.float64)
    normals = model.mesh_normal[model.mesh_normaladr[index] + model.mesh_facenormal[rows]].astype(np.float64)
    uv = None
    if model.mesh_texcoordnum[index] > 0:
        uv = model.mesh_texcoord[model.mesh_texcoordadr[index] + model.mesh_facetexcoord[rows]].astype(np.float64)
    return Mesh(vertices, model.mesh_face[rows].astype(np.int64), normals, uv)


def write_mesh(model: mujoco.MjModel, index: int, mesh: Mesh) -> bool:
    """Put a smaller mesh where mesh `index` is stored; False, and nothing done, when it does not fit there."""
    count, corners = len(mesh.faces), 3 * len(mesh.faces)
    fits = count <= model.mesh_facenum[index] and len(mesh.vertices) <= model.mesh_vertnum[index]
    fits = fits and corners <= model.mesh_normalnum[index]
    if mesh.uv is not None:
        fits = fits and corners <= model.mesh_texcoordnum[index]
    if not fits:
        return False
    rows = slice(model.mesh_faceadr[index], model.mesh_faceadr[index] + count)
    corner_ids = np.arange(corners).reshape(count, 3)
    first = model.mesh_vertadr[index]
    model.mesh_vert[first : first + len(mesh.vertices)] = mesh.vertices
    model.mesh_face[rows] = mesh.faces
    first = model.mesh_normaladr[index]
    model.mesh_normal[first : first + corners] = mesh.normals.reshape(-1, 3)
    model.mesh_facenormal[rows] = corner_ids
    if mesh.uv is not None:
        first = model.mesh_texcoordadr[index]
        model.mesh_texcoord[first : first + corners] = mesh.uv.reshape(-1, 2)
        model.mesh_facetexcoord[rows] = corner_ids
        model.mesh_texcoordnum[index] = corners
    model.mesh_facenum[index], model.mesh_vertnum[index] = count, len(mesh.vertices)
    model.mesh_normalnum[index] = corners
    # The convex hull is drawn on request only, and it indexes the vertices that were just replaced.
    model.mesh_graphadr[index] = -1
    return True


def _face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)


def _charts(mesh: Mesh, welded: np.ndarray) -> np.ndarray:
    """Return the texture chart of each face: faces joined through corners of equal position and equal uv."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    count = len(mesh.faces)
    if mesh.uv is None:
        return np.zeros(count, dtype=np.int64)
    corners = np.column_stack([welded[mesh.faces].ravel(), np.round(mesh.uv.reshape(-1, 2) * 1e4)])
    _, ids = np.unique(corners, axis=0, return_inverse=True)
    ids = ids.ravel()
    owners = np.repeat(np.arange(count), 3)
    graph = coo_matrix((np.ones(len(ids)), (owners, count + ids)), shape=(count + ids.max() + 1,) * 2)
    return connected_components(graph, directed=False)[1][:count]


def _uv_slopes(mesh: Mesh) -> np.ndarray:
    """Return how texture coordinates change with position on each face, (f, 2, 3); 0 on slivers."""
    slopes = np.zeros((len(mesh.faces), 2, 3))
    if mesh.uv is None:
        return slopes
    corners = mesh.vertices[mesh.faces]
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    regular = area > 0.05 * (edges**2).sum(axis=-1).max(axis=1)
    steps = mesh.uv[regular, 1:] - mesh.uv[regular, :1]
    slopes[regular] = np.swapaxes(np.linalg.pinv(edges[regular]) @ steps, -1, -2)
    return slopes


@dataclass(frozen=True)
class _Samples:
    """Points on the full surface with what is known there."""

    tree: Any
    face_normal: np.ndarray
    normal: np.ndarray
    uv: np.ndarray | None
    chart: np.ndarray
    uv_slope: np.ndarray


def _sample(mesh: Mesh, welded: np.ndarray) -> _Samples:
    """Sample corners, edge middles and centres of every face."""
    from scipy.spatial import cKDTree

    weights = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    )

    def spread(values: np.ndarray) -> np.ndarray:
        return np.einsum("sc,fcd->fsd", weights, values).reshape(-1, values.shape[-1])

    repeats = len(weights)
    return _Samples(
        tree=cKDTree(spread(mesh.vertices[mesh.faces])),
        face_normal=np.repeat(_face_normals(mesh.vertices, mesh.faces), repeats, axis=0),
        normal=spread(mesh.normals),
        uv=None if mesh.uv is None else spread(mesh.uv),
        chart=np.repeat(_charts(mesh, welded), repeats),
        uv_slope=np.repeat(_uv_slopes(mesh), repeats, axis=0),
    )


def _first(allowed: np.ndarray) -> np.ndarray:
    """Return the index of the first True in each row (0 where there is none)."""
    return np.argmax(allowed, axis=-1)


def _simplify(mesh: Mesh, welded: np.ndarray, points: np.ndarray, faces: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices and faces of the surface with about `faces` faces."""
    import fast_simplification

    connected = welded[mesh.faces]
    distinct = (connected[:, 0] != connected[:, 1]) & (connected[:, 1] != connected[:, 2])
    connected = connected[distinct & (connected[:, 0] != connected[:, 2])]
    simplify: Any = fast_simplification.simplify
    vertices, triangles = simplify(points.astype(np.float32), connected.astype(np.int32), target_count=faces, agg=5)
    return vertices.astype(np.float64), triangles.astype(np.int64)


def decimate(mesh: Mesh, faces: int) -> Mesh:
    """Reduce a mesh to about `faces` faces; normals and texture coordinates are looked up on the full surface.

    A new face takes all its texture coordinates from one chart of the atlas and from one side of its seam, so that
    none stretches across; where it reaches over the seam, its coordinates go on beyond the chart.
    """
    points, welded = np.unique(np.round(mesh.vertices, 7), axis=0, return_inverse=True)
    welded = welded.ravel()
    vertices, triangles = _simplify(mesh, welded, points, faces)
    samples = _sample(mesh, welded)
    new_normals = _face_normals(vertices, triangles)
    centres = vertices[triangles].mean(axis=1)
    neighbours = min(_NEIGHBOURS, len(samples.normal))
    _, near = samples.tree.query(centres, k=neighbours)
    agrees = np.einsum("fkd,fd->fk", samples.face_normal[near], new_normals) > _NORMAL_AGREEMENT
    middle = near[np.arange(len(triangles)), _first(agrees)]

    # Corners are pulled a little towards the centre: on a seam, both sides are equally near.
    corners = 0.98 * vertices[triangles] + 0.02 * centres[:, None]
    _, near = samples.tree.query(corners.reshape(-1, 3), k=neighbours)
    near = near.reshape(len(triangles), 3, neighbours)
    agrees = np.einsum("fckd,fd->fck", samples.face_normal[near], new_normals) > _NORMAL_AGREEMENT
    best = np.take_along_axis(near, _first(agrees)[..., None], axis=-1)[..., 0]
    normals = np.where(agrees.any(axis=-1)[..., None], samples.normal[best], new_normals[:, None])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-20)
    if samples.uv is None:
        return Mesh(vertices, triangles, normals, None)
    usable = agrees & (samples.chart[near] == samples.chart[middle][:, None, None])
    nearest = samples.uv[np.take_along_axis(near, _first(usable)[..., None], axis=-1)[..., 0]]
    steps = corners - centres[:, None]
    expected = samples.uv[middle][:, None] + np.einsum("fud,fcd->fcu", samples.uv_slope[middle], steps)
    fits = usable.any(axis=-1) & (np.abs(nearest - expected).max(axis=-1) < _SEAM)
    return Mesh(vertices, triangles, normals, np.where(fits[..., None], nearest, expected))


def light_mesh(mesh: Mesh, faces: int) -> Mesh:
    """Return the mesh to draw in place of one that has more than `faces` faces."""
    small = decimate(mesh, faces)
    return mesh if len(small.faces) > 1.5 * faces and len(mesh.faces) <= _KEPT_FACES else small


def _key(mesh: Mesh, faces: int) -> str:
    digest = hashlib.sha256(f"{VERSION} {faces}".encode())
    for part in (mesh.vertices, mesh.faces, mesh.normals, mesh.uv):
        if part is not None:
            digest.update(part.tobytes())
    return digest.hexdigest()[:24]


def _load(data: bytes) -> Mesh:
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return Mesh(arrays["vertices"], arrays["faces"], arrays["normals"], arrays.get("uv"))


def _dump(mesh: Mesh) -> bytes:
    arrays: dict[str, Any] = {"vertices": mesh.vertices, "faces": mesh.faces, "normals": mesh.normals}
    if mesh.uv is not None:
        arrays["uv"] = mesh.uv
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _drawn_meshes(model: mujoco.MjModel) -> list[int]:
    """List the meshes that visual geoms use."""
    is_mesh = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_group != 0)
    return sorted(set(model.geom_dataid[is_mesh].tolist()))


def shrink_texture(pixels: UInt8[np.ndarray, "h w c"], limit: int) -> UInt8[np.ndarray, "_ _ c"]:
    """Average areas of pixels, as a mip level does, so that the shorter side is at most `limit`; proportions stay."""
    height, width, channels = pixels.shape
    factor = -(-min(height, width) // limit)
    if factor == 1:
        return pixels
    # The six sides of a cube map lie one under the other: its height stays a multiple of its width.
    shape = (height // factor, width // factor)
    if height % width == 0:
        shape = (height // width * shape[1], shape[1])
    return cv2.resize(pixels, shape[::-1], interpolation=cv2.INTER_AREA).reshape(*shape, channels)


def _shrink_textures(model: mujoco.MjModel, limit: int) -> None:
    for index in range(model.ntex):
        height, width, channels = (
            int(model.tex_height[index]),
            int(model.tex_width[index]),
            int(model.tex_nchannel[index]),
        )
        start = int(model.tex_adr[index])
        pixels = model.tex_data[start : start + height * width * channels].reshape(height, width, channels)
        small = shrink_texture(pixels, limit)
        model.tex_data[start : start + small.size] = small.ravel()
        model.tex_height[index], model.tex_width[index] = small.shape[:2]


def face_budget(vertices: Float[np.ndarray, "v 3"], density: float, most: int) -> int:
    """Return how many faces a mesh may keep: `density` per metre of its bounding box's diagonal, 40 to `most`."""
    diagonal = float(np.linalg.norm(vertices.max(axis=0) - vertices.min(axis=0)))
    return int(np.clip(density * diagonal, 40, most))


def lighten(model: mujoco.MjModel, *, density: float, most: int, texture: int) -> mujoco.MjModel:
    """Copy `model` for drawing: visual meshes within their `face_budget`, textures of at most `texture` pixels.

    Decimated meshes are kept in the cache folder and made once per mesh; two processes may make them at the same time.
    """
    light = copy.copy(model)
    folder = cache_dir() / "meshes"
    meshes = {index: read_mesh(model, index) for index in _drawn_meshes(model)}
    budgets = {index: face_budget(mesh.vertices, density, most) for index, mesh in meshes.items()}
    large = [index for index, mesh in meshes.items() if len(mesh.faces) > budgets[index]]
    paths = {index: folder / f"{_key(meshes[index], budgets[index])}.npz" for index in large}
    absent = [index for index in large if not paths[index].exists()]
    for index in tqdm(absent, desc="light meshes", unit="mesh", leave=False, disable=not absent):
        with keeping(paths[index]):
            atomic_write(paths[index], _dump(light_mesh(meshes[index], budgets[index])))
    for index in large:
        write_mesh(light, index, _load(paths[index].read_bytes()))
    _shrink_textures(light, texture)
    return light
