"""How the simulator is drawn: `official`, `plain` (some files replaced) or `light` (plain with few faces).

A result always names the look it was made with. `plain` exists because the bundled weights were trained while 22 of
LIBERO's files were not at hand; it is derived here from the official assets, so anyone can reproduce those results.
`light` draws the decimated visual meshes of `prophet_gym.sims.libero._meshes` and costs a CPU a seventh of `plain`.
"""

import hashlib
import os
import secrets
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np

from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.cache import cache_dir, keeping
from prophet_gym.errors import MissingAssetsError
from prophet_gym.sims.libero._install import ASSETS_VARIABLE, INSTALL

LOOKS = ("light", "plain", "official")
"""The first is the default."""

# Chosen on libero_object at 128x128: 13 k faces in place of 256 k, 33.5 dB against plain.
LIGHT_FACES_PER_METRE = 2000.0
LIGHT_MOST_FACES = 3000
LIGHT_TEXTURE = 512

# visual mesh -> the collision mesh that stands in for it; a pattern is relative to the folder above `visual/`
STAND_IN_MESHES = {
    "scenes/floor_lamp/visual/floor_lamp_vis.msh": "collision/floor_lamp_ch.stl",
    "scenes/kitchen_background/visual/kitchen_background_vis.msh": "collision/*_ch.stl",
    "scenes/kitchen_background_stove/visual/kitchen_background_stove_vis.msh": "collision/*_ch.stl",
    "scenes/kitchen_background_pot/visual/kitchen_background_pot_vis.msh": "kitchen_background_pot.obj",
    "scenes/living_room/visual/living_room_vis.msh": "collision/living_room_ch.stl",
    "stable_scanned_objects/akita_black_bowl/visual/akita_black_bowl_vis.msh": "akita_black_bowl_col.obj",
    "stable_scanned_objects/basket/visual/basket_vis.msh": "basket_col.obj",
}
# texture -> its one colour, RGB
STAND_IN_TEXTURES = {
    "scenes/coffee_table_seats/FabricLeatherBuffaloRustic001_COL_VAR1_4K.png": (120, 85, 60),
    "scenes/short_coffee_table/Marble062_COL_4K.png": (200, 198, 192),
    "stable_scanned_objects/akita_black_bowl/texture.png": (38, 38, 40),
    "stable_scanned_objects/basket/texture.png": (165, 162, 148),
    "stable_scanned_objects/plate/texture.png": (214, 208, 196),
    "stable_scanned_objects/red_bowl/texture.png": (150, 40, 35),
    "stable_scanned_objects/white_bowl/texture.png": (225, 223, 218),
    "textures/dark_green_plaster_wall.png": (70, 90, 70),
    "textures/gray_wall.png": (150, 150, 150),
    "turbosquid_objects/desk_caddy/desk_caddy_texture.png": (150, 120, 90),
    "turbosquid_objects/porcelain_mug/porcelain_mug_texture.png": (230, 230, 230),
    "turbosquid_objects/red_coffee_mug/red_coffee_mug_texture.png": (170, 35, 30),
    "turbosquid_objects/white_yellow_mug/white_yellow_mug_texture.png": (225, 205, 120),
    "turbosquid_objects/wooden_tray/crate_mat_BaseColor.png": (160, 120, 75),
}
CONVERTED_TEXTURES = {
    "scenes/wall_decoration/wall_decoration_texture.png": "scenes/wall_decoration/wall_decoration_texture.jpg"
}
_TEXTURE_SIZE = 64


def look_version(look: str) -> int:
    """Return a number that rises when the same scene in a look gives another image."""
    from prophet_gym.sims.libero._meshes import VERSION

    return VERSION if look == "light" else 1


def stl_triangles(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Read vertices (three of its own for each face) and faces of a binary STL."""
    (count,) = struct.unpack_from("<I", data, 80)
    records = np.frombuffer(data, dtype=np.dtype([("floats", "<f4", 12), ("tail", "<u2")]), count=count, offset=84)
    vertices = records["floats"][:, 3:].reshape(-1, 3)
    return vertices, np.arange(3 * count, dtype=np.int32).reshape(-1, 3)


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


def msh_bytes(vertices: np.ndarray, faces: np.ndarray) -> bytes:
    """Write MuJoCo's legacy binary mesh without normals and texture coordinates."""
    header = struct.pack("<4i", len(vertices), 0, 0, len(faces))
    return header + vertices.astype("<f4").tobytes() + faces.astype("<i4").tobytes()


def _stand_in_mesh(official: Path, target: str) -> bytes:
    folder = (official / target).parent.parent
    pattern = STAND_IN_MESHES[target]
    sources = sorted(folder.glob(pattern)) or sorted(folder.rglob(Path(pattern).name))
    if not sources:
        raise MissingAssetsError(
            f"the plain look is made from {folder / pattern}, which is missing; fetch the assets again"
        )
    data = sources[0].read_bytes()
    vertices, faces = stl_triangles(data) if sources[0].suffix == ".stl" else obj_triangles(data.decode())
    return msh_bytes(vertices, faces)


def _stand_in_texture(colour: tuple[int, int, int]) -> bytes:
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", np.full((_TEXTURE_SIZE, _TEXTURE_SIZE, 3), colour, dtype=np.uint8), extension=".png")


def has_stand_ins(assets: Path) -> bool:
    """Tell whether the folder holds the plain look already: its basket is painted in one colour."""
    import imageio.v3 as iio

    image = iio.imread(assets / "stable_scanned_objects/basket/texture.png")
    return bool((image == image[0, 0]).all())


def derive_plain(official: Path, target: Path) -> None:
    """Fill `target` (absent so far) with links to the official files and with the stand-ins of the tables above.

    The folder appears whole or not at all, also when two processes make it.
    """
    import imageio.v3 as iio

    target.parent.mkdir(parents=True, exist_ok=True)
    # Not `mkdtemp`: nobody else could read what is in a shared cache.
    work = target.with_name(f".{target.name}.{secrets.token_hex(6)}")
    try:
        shutil.copytree(official, work, copy_function=os.symlink)
        replaced = {name: _stand_in_mesh(official, name) for name in STAND_IN_MESHES}
        replaced |= {name: _stand_in_texture(colour) for name, colour in STAND_IN_TEXTURES.items()}
        for name, source in CONVERTED_TEXTURES.items():
            if (official / source).exists():
                replaced[name] = iio.imwrite("<bytes>", iio.imread(official / source), extension=".png")
        for name, data in replaced.items():
            atomic_write(work / name, data)
        try:
            work.rename(target)
        except OSError:
            # Another process was first: its folder has the same contents.
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def assets_for(look: str, found: Path) -> Path:
    """Return the asset folder to load for a look, given the folder that was found on this machine.

    Raises:
        MissingAssetsError: `official` was asked for and the folder holds stand-ins.
    """
    if has_stand_ins(found):
        if look == "official":
            raise MissingAssetsError(
                f"look='official' needs LIBERO's original assets, but {found} holds stand-ins; use look='plain', or "
                f"unset {ASSETS_VARIABLE} and {INSTALL}"
            )
        return found
    if look == "official":
        return found
    name = hashlib.sha256(str(found).encode()).hexdigest()[:12]
    target = cache_dir() / f"plain_assets_{name}"
    if not target.exists():
        with keeping(target):
            derive_plain(found, target)
    return target


def drawn_model(look: str, model: Any) -> Any:
    """Return the model whose meshes and textures are drawn in a look: `model` itself, or its lightened copy."""
    from prophet_gym.sims.libero._meshes import lighten

    if look != "light":
        return model
    return lighten(model, density=LIGHT_FACES_PER_METRE, most=LIGHT_MOST_FACES, texture=LIGHT_TEXTURE)
