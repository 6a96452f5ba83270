import importlib.util

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="needs the extra prophet-gym[libero]")

import mujoco

from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero import _meshes as meshes
from prophet_gym.sims.libero._meshes import Baked, Mesh, decimate, face_budget, lighten, read_mesh, shrink_texture

needs_decimation = pytest.mark.skipif(
    importlib.util.find_spec("fast_simplification") is None, reason="needs the extra prophet-gym[libero]"
)


def ball(*, charts: int, rings: int = 24, sectors: int = 48) -> Mesh:
    """A unit ball as scans store it: nothing shared between faces; u is longitude / 2 pi, v is latitude / pi.

    One chart goes round and meets itself; of two charts, the east (u over 1/2) lies one further to the right.
    """
    latitude = np.linspace(0, np.pi, rings + 1)
    longitude = np.linspace(0, 2 * np.pi, sectors + 1)
    corners = []
    for ring in range(rings):
        for sector in range(sectors):
            a, b = (ring, sector), (ring + 1, sector)
            c, d = (ring + 1, sector + 1), (ring, sector + 1)
            corners += [[a, b, c]] if ring < rings - 1 else []
            corners += [[a, c, d]] if ring > 0 else []
            corners += [[a, b, d]] if ring == rings - 1 else []
    index = np.array(corners)
    theta, phi = latitude[index[..., 0]], longitude[index[..., 1]]
    points = np.stack([np.sin(theta) * np.cos(phi), np.sin(theta) * np.sin(phi), np.cos(theta)], axis=-1)
    east = (charts == 2) & (phi.mean(axis=1, keepdims=True) > np.pi)
    uv = np.stack([phi / (2 * np.pi) + east, theta / np.pi], axis=-1)
    return Mesh(points.reshape(-1, 3), np.arange(points.size // 3).reshape(-1, 3), points, uv)


@needs_decimation
def test_a_ball_stays_a_ball_with_few_faces():
    full = ball(charts=1)
    small = decimate(full, 300)
    assert len(full.faces) > 2000
    assert 250 <= len(small.faces) <= 300
    np.testing.assert_allclose(np.linalg.norm(small.vertices, axis=1), 1, atol=0.05)
    corners = small.vertices[small.faces]
    assert (np.einsum("fcd,fcd->fc", small.normals, corners) > 0.95).all()
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    assert (np.einsum("fd,fd->f", normals, corners.mean(axis=1)) > 0).all(), "faces look outwards"


@needs_decimation
@pytest.mark.parametrize("charts", [1, 2])
def test_texture_coordinates_follow_the_surface_and_never_cross_a_seam(charts):
    small = decimate(ball(charts=charts), 300)
    assert small.uv is not None
    corners = small.vertices[small.faces]
    latitude = np.arccos(np.clip(corners[..., 2] / np.linalg.norm(corners, axis=-1), -1, 1)) / np.pi
    away_from_poles = (np.abs(corners[..., 2]) < 0.8).all(axis=1)
    assert np.abs(small.uv[..., 1] - latitude)[away_from_poles].max() < 0.06
    u = small.uv[away_from_poles, :, 0]
    assert np.ptp(u, axis=1).max() < 0.3, "a face across the seam would span nearly 1"
    longitude = np.arctan2(corners[..., 1], corners[..., 0])[away_from_poles] / (2 * np.pi)
    assert np.abs((u - longitude + 0.5) % 1 - 0.5).max() < 0.06
    assert (u.max() > 1.1) == (charts == 2)


@needs_decimation
def test_open_sheets_that_are_joined_first_get_no_holes():
    # Tiles a millimetre apart, as a room is modelled: every edge is open.
    x, y = (part.reshape(-1, 1, 1) for part in np.meshgrid(np.arange(20.0), np.arange(20.0)))
    square = np.array([[[0, 0], [1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]]).reshape(1, 6, 2)
    plane = np.concatenate([0.1 * x + 0.099 * square[..., :1], 0.1 * y + 0.099 * square[..., 1:]], axis=-1)
    points = np.concatenate([plane, np.zeros_like(plane[..., :1])], axis=-1).reshape(-1, 3)
    tiles = Mesh(points, np.arange(len(points)).reshape(-1, 3), np.tile([0.0, 0, 1], (len(points) // 3, 3, 1)), None)
    covered = []
    for decimals in (7, 2):
        small = decimate(tiles, 100, decimals)
        assert len(small.faces) <= 150
        corners = small.vertices[small.faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        covered.append(np.linalg.norm(normals, axis=1).sum() / 2)
    assert covered[0] < 3
    assert abs(covered[1] - 4) < 0.3


def test_bigger_meshes_may_keep_more_faces():
    unit = np.array([[0.0, 0, 0], [0.3, 0.4, 0]])
    assert face_budget(unit, 2000.0, 800) == 800
    assert face_budget(unit / 5, 2000.0, 800) == 200
    assert face_budget(unit / 500, 2000.0, 800) == 40


def test_textures_shrink_by_averaging_blocks():
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:2, :2] = [[10, 20, 30]]
    pixels[0, 0] = 50
    small = shrink_texture(pixels, 2)
    assert small.shape == (2, 4, 3)
    np.testing.assert_allclose(small[0, 0], [20, 27.5, 35], atol=0.6)
    assert not small[1:].any()
    assert shrink_texture(pixels, 4) is pixels


def test_textures_of_any_size_shrink_and_cube_maps_stay_cubes():
    assert shrink_texture(np.zeros((7, 13, 1), dtype=np.uint8), 4).shape == (3, 6, 1)
    assert shrink_texture(np.zeros((7 * 6, 7, 3), dtype=np.uint8), 4).shape == (3 * 6, 3, 3)


def model_with_ball(*, shared: bool = False) -> mujoco.MjModel:
    """A ball with a checkered texture, which a box has too where it is `shared`."""
    box = '<geom type="box" size="0.1 0.1 0.1" material="checks" group="1" pos="0 9 0"/>' if shared else ""
    mesh = ball(charts=1)
    numbers = [" ".join(f"{x:.6f}" for x in values.ravel()) for values in (mesh.vertices, mesh.normals, mesh.uv)]
    faces = " ".join(map(str, mesh.faces.ravel()))
    return mujoco.MjModel.from_xml_string(f"""
        <mujoco><asset>
          <texture name="checks" type="2d" builtin="checker" rgb1="1 0 0" rgb2="0 1 0" width="64" height="64"/>
          <material name="checks" texture="checks" reflectance="0.5"/>
          <mesh name="ball" vertex="{numbers[0]}" normal="{numbers[1]}" texcoord="{numbers[2]}" face="{faces}"/>
        </asset><worldbody>
          <light pos="0 -3 3"/><camera name="eye" pos="0 -3 0" xyaxes="1 0 0 0 0 1"/>
          <body><freejoint/><geom type="mesh" mesh="ball" material="checks" group="1" contype="0" conaffinity="0"/>
          <geom type="sphere" size="0.5" group="0"/>{box}</body>
        </worldbody></mujoco>""")


@needs_decimation
def test_only_the_copy_becomes_light(tmp_path, monkeypatch):
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path))
    model = model_with_ball()
    before = read_mesh(model, 0)
    light = lighten(model, density=100.0, most=300, texture=16)
    after = read_mesh(model, 0)
    np.testing.assert_array_equal(after.vertices, before.vertices)
    np.testing.assert_array_equal(after.faces, before.faces)
    assert model.mesh_facenum[0] > 2000
    assert light.mesh_facenum[0] <= 300
    assert light.tex_width[0] == 16 < model.tex_width[0] == 64
    assert light.mat_reflectance[0] == model.mat_reflectance[0]
    np.testing.assert_array_equal(light.body_inertia, model.body_inertia)


@needs_decimation
def test_a_texture_is_made_anew_for_the_mesh_that_has_it_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path))
    monkeypatch.setattr(meshes, "_MISMATCH", -1.0)
    for shared, expected in ((False, 32), (True, 16)):
        model = model_with_ball(shared=shared)
        light = lighten(model, density=100.0, most=300, texture=16, baked=Baked(5.0, 20, side=32, whole=0, widest=9.0))
        assert light.mesh_facenum[0] <= (300 if shared else 20)
        # A texture that was made is not shrunk again.
        assert light.tex_width[0] == expected
        assert model.tex_width[0] == 64
        assert model.mat_reflectance[0] == 0.5
        assert light.mat_reflectance[0] == 0
    whole = lighten(model_with_ball(), density=100.0, most=300, texture=16, baked=Baked(5.0, 20, side=32))
    assert whole.mesh_facenum[0] == model.mesh_facenum[0]


@needs_decimation
def test_meshes_are_decimated_once(tmp_path, monkeypatch):
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path))
    model = model_with_ball()
    first = read_mesh(lighten(model, density=100.0, most=300, texture=16), 0)
    monkeypatch.setattr(meshes, "light_mesh", lambda *_: pytest.fail("made again"))
    again = read_mesh(lighten(model, density=100.0, most=300, texture=16), 0)
    np.testing.assert_array_equal(again.vertices, first.vertices)
    np.testing.assert_array_equal(again.normals, first.normals)
    assert len(list((tmp_path / "meshes").iterdir())) == 1


@needs_decimation
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_the_light_picture_is_nearly_the_full_one(tmp_path, monkeypatch):
    from prophet_gym.sims.libero._rendering import Renderer

    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path))
    model = model_with_ball()
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    drawings = []
    for drawn in (model, lighten(model, density=100.0, most=600, texture=32)):
        images = Renderer(model, drawn, camera="eye", size=64)
        drawings.append(images.draw(data).astype(float))
        images.close()
        images.close()
    full, light = drawings
    assert full[32, 32].max() > 60, "the ball is in the middle"
    assert not full[0, 0].any()
    assert np.abs(full - light).mean() < 6
