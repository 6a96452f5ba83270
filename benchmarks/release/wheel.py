"""Install the wheel into an empty environment, and measure a user's first commands there (`make test-wheel`).

    python -m benchmarks.release.wheel --json benchmarks/results/release/wheel.json

The archives are built of the last commit. What is installed is the wheel and the locked releases of what it needs,
nothing else; the commands run in an empty folder, with an empty home, and see nothing of this checkout. A wheel that is
built of the sdist must have the same files. The first command that fails ends it.
"""

import json
import os
import re
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro

from benchmarks.release.archives import ROOT, build, export, files_of, sdist_problems, wheel_problems
from prophet_gym._io.processor import machine

IMPORTED = "import prophet_gym, prophrl_algos; print(prophet_gym.__file__, prophet_gym.__version__)"


@dataclass(frozen=True)
class Args:
    """Configure the measurement."""

    python: str = sys.executable
    """Interpreter that makes the environment."""
    commit: str = "HEAD"
    """Commit to build."""
    json: Path | None = None
    """Write the seconds to this file."""


@dataclass
class Steps:
    """Run commands one by one and note what each takes."""

    folder: Path
    env: Mapping[str, str]
    done: list[dict[str, Any]] = field(default_factory=list)

    def run(self, name: str, words: list[str | Path], *, log: bool = True) -> str:
        """Run a command in the folder; return what it prints, SystemExit with the end of that if it fails."""
        began, before = time.perf_counter(), _processor()
        done = subprocess.run(
            words, cwd=self.folder, env=self.env, check=False, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        seconds = round(time.perf_counter() - began, 1)
        if done.returncode:
            raise SystemExit(f"{name} ended with {done.returncode} after {seconds} s:\n{done.stdout[-4000:]}")
        if log:
            print(f"{seconds:6.1f} s  {name}", flush=True)
            cpu = round(_processor() - before, 1)
            self.done.append({"command": name, "seconds": seconds, "cpu_seconds": cpu})
        return done.stdout


def _processor() -> float:
    """Return the seconds of the processor that the commands took so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def first_block() -> str:
    """Return the README's first Python block."""
    found = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def clean_environment(folder: Path) -> dict[str, str]:
    """Return the variables of somebody who has never used this: an empty home, and no way into this checkout."""
    (folder / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "UV_", "SSL_", "LANG"))}
    kept |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    # The downloads of the user who measures are not measured again; the home is empty all the same.
    caches = {"PIP_CACHE_DIR": str(Path.home() / ".cache" / "pip"), "UV_CACHE_DIR": str(Path.home() / ".cache" / "uv")}
    path = f"{folder / 'venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin"
    return caches | kept | {"PATH": path, "HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}


def install(steps: Steps, python: str, wheel: Path) -> None:
    """Make the environment and install the lock, torch for the CPU, and the wheel."""
    own, lists = steps.folder.parent / "venv" / "bin" / "python", ROOT / "requirements"
    pip: list[str | Path] = [own, "-m", "pip", "--disable-pip-version-check", "install", "-q"]
    steps.run("python -m venv", [python, "-m", "venv", own.parents[1]])
    locked = [*pip, "--no-deps", "--require-hashes", "-r", lists / "core.txt"]
    steps.run("pip install -r requirements/core.txt", locked)
    uv = Path(sys.executable).with_name("uv")
    torch = ["-r", lists / "torch.txt"]
    if uv.exists():  # it knows where the builds for the CPU are; where it cannot reach them, pip takes what it finds
        words = [uv, "pip", "install", "-q", "--python", own, "--torch-backend=cpu", *torch]
        subprocess.run(words, env={**steps.env, "UV_HTTP_RETRIES": "0"}, check=False, capture_output=True)
    steps.run("pip install -r requirements/torch.txt", [*pip, *torch])
    steps.run(f"pip install {wheel.name}", [*pip, "--no-deps", wheel])
    steps.run("pip check", [*pip[:4], "check"], log=False)


def main(args: Args) -> None:
    """Build, install, run, compare, and print what each took."""
    with TemporaryDirectory(prefix="wheel-") as name:
        folder = Path(name)
        (folder / "empty").mkdir()
        steps = Steps(folder / "empty", clean_environment(folder))
        began = time.perf_counter()
        sdist, wheel = build(export(folder / "source", args.commit), folder / "dist")
        print(f"{time.perf_counter() - began:6.1f} s  build {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")
        if problems := [*wheel_problems(wheel), *sdist_problems(sdist)]:
            raise SystemExit("\n".join(problems))
        install(steps, args.python, wheel)
        where = steps.run("import", ["python", "-c", IMPORTED], log=False)
        if not where.startswith(str(folder / "venv")):
            raise SystemExit(f"the package must come from the wheel, and comes from {where}")
        (steps.folder / "first_dream.py").write_text(first_block(), encoding="utf-8")
        steps.run("python first_dream.py", ["python", "first_dream.py"])
        steps.run("prophet demo", ["prophet", "demo"])
        steps.run("prophrl evaluate --tiny", ["prophrl", "evaluate", "--tiny"])
        made = [str(path.relative_to(steps.folder)) for path in steps.folder.rglob("*") if path.is_file()]
        if missing := {"dream.gif", "outputs/demo.mp4", "outputs/demo.png"} - set(made):
            raise SystemExit(f"the commands must have made {', '.join(sorted(missing))}, and made {', '.join(made)}")
        with tarfile.open(sdist) as archive:
            archive.extractall(folder / "sdist", filter="data")
        (source,) = (folder / "sdist").iterdir()
        (again,) = build(source, folder / "again", ("wheel",))
        if (ours := files_of(wheel)) != (theirs := files_of(again)):
            raise SystemExit(
                f"the sdist must build the same wheel; these differ: {sorted(ours.items() ^ theirs.items())}"
            )
        sizes = {kind: round(path.stat().st_size / 1e6, 1) for kind, path in (("wheel", wheel), ("sdist", sdist))}
    print(f"the sdist of {sizes['sdist']} MB builds the same wheel of {sizes['wheel']} MB, {len(ours)} files")
    if args.json:
        found = {"commands": steps.done, "megabytes": sizes, "files": len(ours), "machine": machine()}
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Args))
