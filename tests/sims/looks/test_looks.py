import hashlib
import struct
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from prophet_gym.errors import MissingAssetsError, UnknownOptionError
from prophet_gym.sims._recorder import Plan
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero import _looks as looks
from prophet_gym.sims.simulator import check_task

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
SIDES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], dtype=np.int32)


def tetrahedron_stl() -> bytes:
    faces = b"".join(struct.pack("<12fH", 0, 0, 1, *CORNERS[side].ravel(), 0) for side in SIDES)
    return bytes(80) + struct.pack("<I", len(SIDES)) + faces


def tetrahedron_obj() -> str:
    points = "".join(f"v {x} {y} {z}\n" for x, y, z in CORNERS)
    return f"# solid\n{points}vt 0 0\n" + "".join(f"f {a + 1}/1 {b + 1}/1 {c + 1}/1\n" for a, b, c in SIDES)


def official_assets(folder: Path) -> Path:
    """As little of the official assets as the light look is made from, with one file more."""
    for model, source in looks.REPLACED_MESHES.items():
        target = folder / model / f"visual/{Path(model).name}_vis.msh"
        target.parent.mkdir(parents=True)
        target.write_bytes(b"the official mesh")
        name = folder / model / source
        name.parent.mkdir(exist_ok=True)
        if name.suffix == ".stl":
            name.write_bytes(tetrahedron_stl())
        else:
            name.write_text(tetrahedron_obj())
    image = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    for target in looks.REPLACED_TEXTURES:
        (folder / target).parent.mkdir(parents=True, exist_ok=True)
        iio.imwrite(folder / target, image)
    wall = folder / looks.CONVERTED_TEXTURE
    wall.parent.mkdir(parents=True)
    iio.imwrite(wall, np.full((16, 16, 3), 77, dtype=np.uint8))
    (folder / "wall.xml").write_text("<mujoco/>")
    return folder


def test_an_stl_is_read_as_faces_with_vertices_of_their_own():
    vertices, faces = looks.stl_triangles(tetrahedron_stl())
    np.testing.assert_array_equal(vertices[faces], CORNERS[SIDES])
    assert len(vertices) == 12


def test_an_obj_shares_vertices_and_cuts_polygons_into_fans():
    vertices, faces = looks.obj_triangles(tetrahedron_obj() + "f 1 2 4 3\nf -4 -3 -2\n")
    np.testing.assert_array_equal(vertices, CORNERS)
    np.testing.assert_array_equal(faces[:4], SIDES)
    np.testing.assert_array_equal(faces[4:], [[0, 1, 3], [0, 3, 2], [0, 1, 2]])


def test_the_light_look_replaces_what_its_tables_name_and_links_the_rest(tmp_path):
    official = official_assets(tmp_path / "official")
    target = tmp_path / "cache" / "light"
    looks.derive_light(official, target)
    for name, colour in looks.REPLACED_TEXTURES.items():
        image = iio.imread(target / name)
        assert image.shape == (64, 64, 3)
        assert (image == colour).all()
    basket = (target / "stable_scanned_objects/basket/visual/basket_vis.msh").read_bytes()
    assert struct.unpack_from("<4i", basket) == (4, 0, 0, 4)
    np.testing.assert_array_equal(np.frombuffer(basket, "<f4", 12, 16).reshape(4, 3), CORNERS)
    lamp = (target / "scenes/floor_lamp/visual/floor_lamp_vis.msh").read_bytes()
    assert struct.unpack_from("<4i", lamp) == (12, 0, 0, 4)
    assert (iio.imread((target / looks.CONVERTED_TEXTURE).with_suffix(".png")) == 77).all()
    assert (target / "wall.xml").resolve() == (official / "wall.xml").resolve()
    assert (official / "stable_scanned_objects/basket/visual/basket_vis.msh").read_bytes() == b"the official mesh"


def test_a_second_process_that_derives_the_same_finds_it_done(tmp_path):
    official = official_assets(tmp_path / "official")
    target = tmp_path / "cache" / "light"
    looks.derive_light(official, target)
    looks.derive_light(official, target)
    assert [path.name for path in target.parent.iterdir()] == ["light"]


def test_looks_are_taken_from_the_folder_that_was_found(tmp_path, monkeypatch):
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path / "cache"))
    official = official_assets(tmp_path / "official")
    assert looks.assets_for("official", official) == official
    light = looks.assets_for("light", official)
    assert light.parent == tmp_path / "cache"
    assert (light / "stable_scanned_objects/basket/visual/basket_vis.msh").read_bytes() != b"the official mesh"
    assert looks.assets_for("light", official) == light


def test_a_missing_source_of_a_replaced_mesh_is_named(tmp_path):
    official = official_assets(tmp_path / "official")
    (official / "stable_scanned_objects/basket/basket_col.obj").unlink()
    with pytest.raises(MissingAssetsError, match=r"basket_col\.obj"):
        looks.derive_light(official, tmp_path / "light")


def test_an_unknown_look_is_an_error_that_lists_the_looks():
    with pytest.raises(UnknownOptionError, match=r"'lihgt'.*Did you mean 'light'.*official"):
        check_task("libero_object", look="lihgt")


def test_the_look_plain_is_an_error_that_names_the_one_to_use():
    with pytest.raises(UnknownOptionError, match=r"the look 'plain' is no more.*use 'light'"):
        check_task("libero_object", look="plain")
    with pytest.raises(UnknownOptionError, match="use 'light'"):
        Plan("libero_object", (0,), 1, seed=0, look="plain").meta()


def surface(mesh: bytes) -> str:
    """A digest of a mesh's triangles, whatever their order and however many vertices they share."""
    vertices, _, _, faces = struct.unpack_from("<4i", mesh)
    points = np.frombuffer(mesh, "<f4", 3 * vertices, 16).reshape(-1, 3)
    corners = points[np.frombuffer(mesh, "<i4", 3 * faces, 16 + 12 * vertices).reshape(-1, 3)]
    triangles = {tuple(sorted(map(tuple, np.round(corner, 5) + 0.0))) for corner in corners.astype(np.float64)}
    return hashlib.sha256(np.array(sorted(triangles)).tobytes()).hexdigest()[:16]


# the surfaces that the frames of the bundled weights were drawn with
SURFACES = {
    "scenes/floor_lamp/visual/floor_lamp_vis.msh": "8a76c28cdc2710ce",
    "scenes/kitchen_background/visual/kitchen_background_vis.msh": "ec3f2b23acff9a04",
    "scenes/kitchen_background_stove/visual/kitchen_background_stove_vis.msh": "4af3c1a656795938",
    "scenes/kitchen_background_pot/visual/kitchen_background_pot_vis.msh": "08ff7e955e07225d",
    "scenes/living_room/visual/living_room_vis.msh": "ae869ff033ec17d3",
    "stable_scanned_objects/akita_black_bowl/visual/akita_black_bowl_vis.msh": "7f10395d1598eaac",
    "stable_scanned_objects/basket/visual/basket_vis.msh": "88e03f14f7512364",
}


@pytest.mark.libero
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_the_light_look_has_the_surfaces_that_the_bundled_weights_were_trained_with(tmp_path):
    target = tmp_path / "light"
    looks.derive_light(install.find_assets(), target)
    for name, digest in SURFACES.items():
        assert surface((target / name).read_bytes()) == digest, name
