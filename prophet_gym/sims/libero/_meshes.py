"""Cheaper meshes and textures for drawing: a copy of a compiled MuJoCo model whose visual meshes have few faces.

Only the copy changes, and only what the renderer uploads, so physics (which runs on the original) cannot.
"""

# MuJoCo is a compiled module without stubs.
# pyright: reportAttributeAccessIssue=false

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import mujoco
import numpy as np
from jaxtyping import Float, Int, UInt8
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from prophet_gym._io.atomic import atomic_file
from prophet_gym._io.cache import cache_dir, keeping
from prophet_gym._io.progress import progress
from prophet_gym.sims.libero._baking import BAKING_VERSION, Surface, bake, cell_size, mismatch, most_faces

# Texture coordinates and normals are looked up among this many nearby samples of the full surface.
_NEIGHBOURS = 24
# A texture coordinate that is further than this from where the face's centre points lies across a seam.
_SEAM = 0.25
# A normal of the full surface is used for a corner only when it is within about 30 degrees of the new face.
_NORMAL_AGREEMENT = 0.85
# Thin doubled sheets fall apart before they reach their budget: a mesh of up to this many faces is then left as it is.
_KEPT_FACES = 8000
# Texture coordinates on the old texture stay where they give clearly wrong colours on less of the surface than this.
_MISMATCH = 0.01
# Rises when decimation gives another mesh than before: what is in the cache was made by an earlier one.
_DECIMATION = 3


@dataclass(frozen=True)
class Mesh:
    """Hold a triangle mesh with a normal and a texture coordinate (none without texture) for each corner of a face."""

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
    """Put a smaller mesh where mesh `index` is stored, if it fits there; tell whether it did."""
    count, corners, points = len(mesh.faces), 3 * len(mesh.faces), len(mesh.vertices)
    room = [(count, model.mesh_facenum), (points, model.mesh_vertnum), (corners, model.mesh_normalnum)]
    if mesh.uv is not None:
        room.append((corners, model.mesh_texcoordnum))
    if any(needed > stored[index] for needed, stored in room):
        return False
    rows = slice(model.mesh_faceadr[index], model.mesh_faceadr[index] + count)
    corner_ids = np.arange(corners).reshape(count, 3)
    first = model.mesh_vertadr[index]
    model.mesh_vert[first : first + points] = mesh.vertices
    model.mesh_face[rows] = mesh.faces
    first = model.mesh_normaladr[index]
    model.mesh_normal[first : first + corners] = mesh.normals.reshape(-1, 3)
    model.mesh_facenormal[rows] = corner_ids
    if mesh.uv is not None:
        first = model.mesh_texcoordadr[index]
        model.mesh_texcoord[first : first + corners] = mesh.uv.reshape(-1, 2)
        model.mesh_facetexcoord[rows] = corner_ids
    for needed, stored in room:
        stored[index] = needed
    # The convex hull is drawn on request only, and it indexes the vertices that were just replaced.
    model.mesh_graphadr[index] = -1
    return True


def _face_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normals = np.cross(b - a, c - a)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-20)


def _charts(mesh: Mesh, welded: np.ndarray) -> np.ndarray:
    """Return the texture chart of each face: faces joined through corners of equal position and equal uv."""
    count = len(mesh.faces)
    assert mesh.uv is not None
    corners = np.column_stack([welded[mesh.faces].ravel(), np.round(mesh.uv.reshape(-1, 2) * 1e4)])
    _, ids = np.unique(corners, axis=0, return_inverse=True)
    ids = ids.ravel()
    owners = np.repeat(np.arange(count), 3)
    graph = coo_matrix((np.ones(len(ids)), (owners, count + ids)), shape=(count + ids.max() + 1,) * 2)
    return connected_components(graph, directed=False)[1][:count]


def _uv_slopes(mesh: Mesh) -> np.ndarray:
    """Return how texture coordinates change with position on each face, (f, 2, 3); 0 on slivers."""
    assert mesh.uv is not None
    slopes = np.zeros((len(mesh.faces), 2, 3))
    corners = mesh.vertices[mesh.faces]
    edges = corners[:, 1:] - corners[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    regular = area > 0.05 * (edges**2).sum(axis=-1).max(axis=1)
    steps = mesh.uv[regular, 1:] - mesh.uv[regular, :1]
    slopes[regular] = np.swapaxes(np.linalg.pinv(edges[regular]) @ steps, -1, -2)
    return slopes


def _spread(values: np.ndarray) -> np.ndarray:
    """Return values, given for each corner (f, 3, d), at corners, edge middles and centres, (7 f, d)."""
    weights = np.array(
        [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [1 / 3, 1 / 3, 1 / 3]]
    )
    return np.einsum("sc,fcd->fsd", weights, values).reshape(-1, values.shape[-1])


def decimate(mesh: Mesh, faces: int, decimals: int = 7) -> Mesh:
    """Reduce a mesh to about `faces` faces; normals and texture coordinates are looked up on the full surface.

    Vertices that are equal to `decimals` of a metre are one.

    A new face takes all its texture coordinates from one chart of the atlas and from one side of its seam, so that
    none stretches across; where it reaches over the seam, its coordinates go on beyond the chart.
    """
    import fast_simplification

    points, welded = np.unique(np.round(mesh.vertices, decimals), axis=0, return_inverse=True)
    welded = welded.ravel()
    connected = welded[mesh.faces].astype(np.int32)
    distinct = (connected != np.roll(connected, 1, axis=1)).all(axis=1)
    simplify: Any = fast_simplification.simplify
    # Joining vertices may have done all the work.
    target = min(faces, int(distinct.sum()) - 1)
    found = simplify(points.astype(np.float32), connected[distinct], target_count=target, agg=5)
    vertices, triangles = found[0].astype(np.float64), found[1].astype(np.int64)
    new_normals = _face_normals(vertices, triangles)
    centres = vertices[triangles].mean(axis=1)

    # The full surface is known at samples of each face.
    samples = _spread(mesh.vertices[mesh.faces])
    tree, face_of = cKDTree(samples), np.repeat(np.arange(len(mesh.faces)), len(samples) // len(mesh.faces))
    sample_normals, full_normals = _spread(mesh.normals), _face_normals(mesh.vertices, mesh.faces)
    neighbours = min(_NEIGHBOURS, len(samples))

    def look_up(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the samples near places of new faces, (f, ..., k), and which of them face the same way."""
        _, near = tree.query(places.reshape(-1, 3), k=neighbours)
        near = near.reshape(*places.shape[:-1], neighbours)
        agrees = np.einsum("f...kd,fd->f...k", full_normals[face_of[near]], new_normals) > _NORMAL_AGREEMENT
        return near, agrees

    def first(near: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Return the nearest allowed sample, or the nearest at all where none is."""
        return np.take_along_axis(near, np.argmax(allowed, axis=-1)[..., None], axis=-1)[..., 0]

    middle = first(*look_up(centres))
    # Corners are pulled a little towards the centre: on a seam, both sides are equally near.
    corners = 0.98 * vertices[triangles] + 0.02 * centres[:, None]
    near, agrees = look_up(corners)
    normals = np.where(np.any(agrees, axis=-1)[..., None], sample_normals[first(near, agrees)], new_normals[:, None])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-20)
    if mesh.uv is None:
        return Mesh(vertices, triangles, normals, None)
    uv, chart, slope = _spread(mesh.uv), _charts(mesh, welded)[face_of], _uv_slopes(mesh)[face_of[middle]]
    usable = agrees & (chart[near] == chart[middle][:, None, None])
    nearest = uv[first(near, usable)]
    expected = uv[middle][:, None] + np.einsum("fud,fcd->fcu", slope, corners - centres[:, None])
    fits = usable.any(axis=-1) & (np.abs(nearest - expected).max(axis=-1) < _SEAM)
    return Mesh(vertices, triangles, normals, np.where(fits[..., None], nearest, expected))


def light_mesh(mesh: Mesh, faces: int, decimals: int = 7) -> Mesh:
    """Return the mesh to draw in place of one that has more than `faces` faces; see `decimate`."""
    small = decimate(mesh, faces, decimals)
    return mesh if len(small.faces) > 1.5 * faces and len(mesh.faces) <= _KEPT_FACES else small


def _key(recipe: "_Recipe") -> str:
    mesh, how = recipe.mesh, f"{_DECIMATION} {recipe.faces}"
    if recipe.decimals != 7:
        how += f" joined {recipe.decimals}"
    if recipe.pixels is not None:
        how += f" baked {BAKING_VERSION} {recipe.side} {_MISMATCH}"
    digest = hashlib.sha256(how.encode())
    for part in (mesh.vertices, mesh.faces, mesh.normals, mesh.uv, recipe.pixels):
        if part is not None:
            digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:24]


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


def face_budget(vertices: Float[np.ndarray, "v 3"], density: float, most: int) -> int:
    """Return how many faces a mesh may keep: `density` per metre of its bounding box's diagonal, 40 to `most`."""
    diagonal = float(np.linalg.norm(vertices.max(axis=0) - vertices.min(axis=0)))
    return int(np.clip(density * diagonal, 40, most))


@dataclass(frozen=True)
class Detail:
    """Say how much of meshes is kept: `density` faces per metre of a bounding box's diagonal, but at most `most`."""

    density: float
    most: int


@dataclass(frozen=True)
class Baked(Detail):
    """Say how much is kept of meshes with their own texture; those that do not fit it get one of `side` texels.

    Meshes of up to `whole` faces stay as they are: a plate that is two thin sheets would get holes. Those wider than
    `widest` metres, tables and rooms, keep their texture, whose grain so few texels could not hold, and stay as they
    are up to `wide_whole` faces: the grain moves with its texture coordinates, and a table fills the image.
    """

    side: int
    whole: int = 4000
    wide_whole: int = 16_000
    widest: float = 0.6


def lighten(
    model: mujoco.MjModel, *, density: float, most: int, texture: int, baked: Baked | None = None
) -> mujoco.MjModel:
    """Copy `model` for drawing: visual meshes within their `face_budget`, textures of at most `texture` pixels.

    What is made is kept in the cache folder, once per mesh; two processes may make it at the same time. Texture
    coordinates are looked up on the full surface; `baked` says how textures are made where those do not fit, and there
    are no mirrors then.
    """
    light = copy.copy(model)
    if baked is not None:
        light.mat_reflectance[:] = 0
    large: dict[int, tuple[_Recipe, Path]] = {}
    for index in _visual_meshes(model):
        recipe = _recipe(model, index, Detail(density, most), baked)
        if len(recipe.mesh.faces) > recipe.faces:
            large[index] = recipe, cache_dir() / "meshes" / f"{_key(recipe)}.npz"
    absent = [each for each in large.values() if not each[1].exists()]
    for recipe, path in progress(absent, "light meshes", unit="mesh", passing=True):
        parts: dict[str, Any] = {name: part for name, part in _made(recipe).items() if part is not None}
        with keeping(path), atomic_file(path) as temporary:
            np.savez_compressed(temporary, **parts)
    made: set[int] = set()
    for index, (recipe, path) in large.items():
        with np.load(path, allow_pickle=False) as stored:
            mesh = Mesh(stored["vertices"], stored["faces"], stored["normals"], stored.get("uv"))
            if write_mesh(light, index, mesh) and "pixels" in stored:
                _write_texture(light, recipe.texture, stored["pixels"])
                made.add(recipe.texture)
    for index in set(range(light.ntex)) - made:
        _write_texture(light, index, shrink_texture(_read_texture(light, index), texture))
    return light


@dataclass(frozen=True)
class _Recipe:
    """Hold what a light mesh is made from, see `light_mesh`; `side` is 0 where its texture stays, `pixels`."""

    mesh: Mesh
    faces: int
    decimals: int = 7
    side: int = 0
    texture: int = -1
    pixels: UInt8[np.ndarray, "h w c"] | None = None


def _visual_meshes(model: mujoco.MjModel) -> list[int]:
    visual = (model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_group != 0)
    return sorted(set(model.geom_dataid[visual].tolist()))


def _recipe(model: mujoco.MjModel, index: int, detail: Detail, baked: Baked | None) -> _Recipe:
    mesh = read_mesh(model, index)
    if baked is None:
        return _Recipe(mesh, face_budget(mesh.vertices, detail.density, detail.most))
    wide = np.linalg.norm(np.ptp(mesh.vertices, axis=0)) > baked.widest
    # A room is many open sheets, which tear and vanish one by one; a centimetre of it is less than a pixel of 128.
    decimals = 2 if wide else 7
    texture = _own_texture(model, index) if mesh.uv is not None else None
    if texture is None:
        return _Recipe(mesh, face_budget(mesh.vertices, detail.density, detail.most), decimals)
    pixels = _read_texture(model, texture)
    side = min(baked.side, *pixels.shape[:2])
    faces = face_budget(mesh.vertices, baked.density, min(baked.most, most_faces(side)))
    faces = len(mesh.faces) if len(mesh.faces) <= (baked.wide_whole if wide else baked.whole) else faces
    if wide:
        return _Recipe(mesh, faces, decimals)
    return _Recipe(mesh, faces, decimals, side, texture, shrink_texture(pixels, 2 * side))


def _own_texture(model: mujoco.MjModel, index: int) -> int | None:
    """Return the texture that is laid once over a mesh and over nothing else; None if the mesh has no such texture."""
    role = mujoco.mjtTextureRole.mjTEXROLE_RGB.value
    materials = set(model.geom_matid[(model.geom_type == mujoco.mjtGeom.mjGEOM_MESH) & (model.geom_dataid == index)])
    if len(materials) != 1 or (material := materials.pop()) < 0:
        return None
    texture = int(model.mat_texid[material, role])
    if texture < 0:
        return None
    alone = (model.mat_texid == texture).sum() == 1 and (model.geom_dataid[model.geom_matid == material] == index).all()
    plain = (model.mat_texrepeat[material] == 1).all() and not model.mat_texuniform[material]
    flat = model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_2D
    return texture if alone and plain and flat else None


def _made(recipe: _Recipe) -> dict[str, np.ndarray | None]:
    """Return the parts of a light mesh, and the pixels of its texture where the old one does not fit it."""
    mesh, small = recipe.mesh, light_mesh(recipe.mesh, recipe.faces, recipe.decimals)
    parts: dict[str, np.ndarray | None] = {**vars(small)}
    if recipe.pixels is None or small is mesh or not cell_size(len(small.faces), recipe.side):
        return parts
    assert mesh.uv is not None
    assert small.uv is not None
    corners, full = small.vertices[small.faces], Surface(mesh.vertices[mesh.faces], mesh.uv)
    # Patches blur into each other at a distance, as charts do not.
    if mismatch(corners, small.uv, full, recipe.pixels) > _MISMATCH:
        parts["uv"], parts["pixels"] = bake(corners, full, recipe.pixels, recipe.side)
    return parts


def _read_texture(model: mujoco.MjModel, index: int) -> UInt8[np.ndarray, "h w c"]:
    height, width, channels = (int(part[index]) for part in (model.tex_height, model.tex_width, model.tex_nchannel))
    start = int(model.tex_adr[index])
    return model.tex_data[start : start + height * width * channels].reshape(height, width, channels)


def _write_texture(model: mujoco.MjModel, index: int, pixels: UInt8[np.ndarray, "h w c"]) -> None:
    """Put a texture that is no larger where texture `index` is stored."""
    start = int(model.tex_adr[index])
    model.tex_data[start : start + pixels.size] = pixels.ravel()
    model.tex_height[index], model.tex_width[index] = pixels.shape[:2]
