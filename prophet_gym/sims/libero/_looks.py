"""How the simulator is drawn: `official`, `light-v2`, the same with few faces and small textures, or `light`.

The bundled weights were trained on `light`, which has few faces and some files replaced by simpler ones: it is from a
time when a few of LIBERO's files were not at hand. It is derived here from the official assets, so that anyone can
reproduce those results.
"""

import hashlib
import os
import secrets
import shutil
import struct
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np

from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.cache import cache_dir, keeping
from prophet_gym.errors import MissingAssetsError

LOOK_VERSIONS = {"light": 3, "light-v2": 2, "official": 1}
"""Looks, the first of which is the default, and a number that rises when a scene in one gives another image."""

# folder -> the collision mesh in it that is drawn in place of its visual mesh
REPLACED_MESHES = {
    "scenes/floor_lamp": "collision/floor_lamp_ch.stl",
    "scenes/kitchen_background": "collision/kitchen_background_ch.stl",
    "scenes/kitchen_background_stove": "collision/kitchen_background_stove_ch.stl",
    "scenes/kitchen_background_pot": "kitchen_background_pot.obj",
    "scenes/living_room": "collision/living_room_ch.stl",
    "stable_scanned_objects/akita_black_bowl": "akita_black_bowl_col.obj",
    "stable_scanned_objects/basket": "basket_col.obj",
}
# texture -> its one colour, RGB
REPLACED_TEXTURES = {
    "stable_scanned_objects/akita_black_bowl/texture.png": (38, 38, 40),
    "stable_scanned_objects/basket/texture.png": (165, 162, 148),
    "stable_scanned_objects/plate/texture.png": (214, 208, 196),
    "turbosquid_objects/desk_caddy/desk_caddy_texture.png": (150, 120, 90),
    "turbosquid_objects/porcelain_mug/porcelain_mug_texture.png": (230, 230, 230),
    "turbosquid_objects/red_coffee_mug/red_coffee_mug_texture.png": (170, 35, 30),
    "turbosquid_objects/white_yellow_mug/white_yellow_mug_texture.png": (225, 205, 120),
}
# A JPEG without the PNG that its scene names.
CONVERTED_TEXTURE = "scenes/wall_decoration/wall_decoration_texture.jpg"


def stl_triangles(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read vertices (three of its own for each face) and faces of a binary STL."""
    (count,) = struct.unpack_from("<I", data, 80)
    records = np.frombuffer(data, dtype=np.dtype([("floats", "<f4", 12), ("tail", "<u2")]), count=count, offset=84)
    return records["floats"][:, 3:].reshape(-1, 3), np.arange(3 * count, dtype=np.int32).reshape(-1, 3)


def obj_triangles(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Read vertices and faces of a Wavefront OBJ; polygons become fans, texture and normals are left out."""
    vertices, faces = [], []
    for line in text.splitlines():
        kind, *fields = line.split() or [""]
        if kind == "v":
            vertices.append([float(field) for field in fields[:3]])
        elif kind == "f":
            corners = [int(field.split("/")[0]) for field in fields]
            corners = [corner - 1 if corner > 0 else len(vertices) + corner for corner in corners]
            faces.extend([corners[0], corners[i], corners[i + 1]] for i in range(1, len(corners) - 1))
    return np.array(vertices, dtype=np.float32), np.array(faces, dtype=np.int32)


def _mesh_bytes(source: Path) -> bytes:
    """Convert to MuJoCo's legacy binary mesh, without normals and texture coordinates."""
    if not source.exists():
        raise MissingAssetsError(f"the look light is made from {source}, which is missing; fetch the assets again")
    data = source.read_bytes()
    vertices, faces = stl_triangles(data) if source.suffix == ".stl" else obj_triangles(data.decode())
    header = struct.pack("<4i", len(vertices), 0, 0, len(faces))
    return header + vertices.astype("<f4").tobytes() + faces.astype("<i4").tobytes()


def _png(pixels: np.ndarray) -> bytes:
    return iio.imwrite("<bytes>", pixels, extension=".png")


def derive_light(official: Path, target: Path) -> None:
    """Fill `target` (absent so far) with links to the official files and with what the tables above put in place.

    The folder appears whole or not at all, also when two processes make it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # Not `mkdtemp`: nobody else could read what is in a shared cache.
    work = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        shutil.copytree(official, work, copy_function=os.symlink)
        for folder, source in REPLACED_MESHES.items():
            name = Path(folder).name
            atomic_write(work / folder / f"visual/{name}_vis.msh", _mesh_bytes(official / folder / source))
        for name, colour in REPLACED_TEXTURES.items():
            atomic_write(work / name, _png(np.full((64, 64, 3), colour, dtype=np.uint8)))
        if (official / CONVERTED_TEXTURE).exists():
            atomic_write((work / CONVERTED_TEXTURE).with_suffix(".png"), _png(iio.imread(official / CONVERTED_TEXTURE)))
        try:
            work.rename(target)
        except OSError:
            # Another process was first: its folder has the same contents.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def assets_for(look: str, found: Path) -> Path:
    """Return the asset folder to load for a look, given the folder that was found on this machine."""
    if look != "light":
        return found
    target = cache_dir() / f"light_assets_{hashlib.sha256(str(found).encode()).hexdigest()[:12]}"
    if not target.exists():
        with keeping(target):
            derive_light(found, target)
    return target


def drawn_model(look: str, model: Any) -> Any:
    """Return the model whose meshes and textures are drawn in a look: `model` itself, or its lightened copy."""
    from prophet_gym.sims.libero._meshes import Baked, lighten

    if look == "light":
        # Chosen on libero_object at 128x128: 13 k faces in place of 256 k, 33.5 dB against the full meshes.
        return lighten(model, density=2000.0, most=3000, texture=512)
    if look == "light-v2":
        # Objects keep more than the arm, whose normals alone hide its edges.
        return lighten(model, density=3000.0, most=1000, texture=1024, baked=Baked(6000.0, 3000, side=512))
    return model
