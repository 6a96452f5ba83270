"""Saving over something leaves the old or the new, whole: on a full disk, in a killed process, under a reader."""

import json
import os
import signal
import stat
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from prophet_gym._io import atomic
from prophet_gym._io.atomic import atomic_directory, atomic_file, atomic_write, is_temporary
from prophet_gym.envs._initial_states import InitialStates, read_initial_states, write_initial_states
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet import Prophet, tiny_prophet
from prophet_gym.rewards import ObjectReader, ObjectReaderConfig, SuccessHead, SuccessHeadConfig
from prophet_gym.specs import InitialState
from prophrl_algos.vla import SmallVLA

FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails as on a full disk
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
"""
PLAIN = "import torch; from pathlib import Path; torch.manual_seed(1); out = Path({out!r})\n"
SAVES = {
    "world model": "from prophet_gym.prophet import tiny_prophet; tiny_prophet(seed=1).save_pretrained(out)",
    "success head": "from prophet_gym.rewards import SuccessHead; SuccessHead().save_pretrained(out)",
    "object reader": "from prophet_gym.rewards import ObjectReader; ObjectReader().save_pretrained(out)",
    "policy": "from prophrl_algos.vla import SmallVLA; SmallVLA(width=64, seed=1).save_pretrained(out)",
    "starts": "from tests._io.test_atomic import noise; "
    "from prophet_gym.envs._initial_states import write_initial_states; "
    "write_initial_states(out, noise(1), quality=101)",
    "training state": "import sys; sys.modules['torch.utils.tensorboard'] = None; model = torch.nn.Linear(300, 300); "
    "from prophet_gym.train._fit import FitConfig, fit; "
    "fit(model, lambda model, *_: (model(torch.ones(300)).sum(), {{}}), FitConfig(1, 1e-3), out, name='line')",
    "trainer": "from prophrl_algos._checkpoint import save_checkpoint; "
    "save_checkpoint(out / 'last.pt', {{'policy': {{'weight': torch.rand(100_000)}}}})",
}


def noise(seed, tasks=3):
    generator = np.random.default_rng(seed)
    return InitialStates(
        InitialState(generator.integers(0, 256, (1, 64, 64, 3), dtype=np.uint8), f"do {task}", "suite", task, index)
        for task in range(tasks)
        for index in range(3)
    )


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def python(code, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, **options)


@pytest.fixture
def sets(tmp_path):
    write_initial_states(tmp_path, noise(0))
    return tmp_path


@pytest.mark.skipif(os.name == "nt", reason="limits of a process are POSIX")
@pytest.mark.parametrize("what", SAVES)
def test_a_full_disk_leaves_what_was_there(what, tmp_path):
    earlier = {"world model": tiny_prophet, "success head": lambda: SuccessHead(SuccessHeadConfig(width=8))}
    earlier |= {
        "object reader": lambda: ObjectReader(ObjectReaderConfig(width=8)),
        "policy": lambda: SmallVLA(width=64),
    }
    if what in earlier:
        earlier[what]().save_pretrained(tmp_path)
    elif what == "starts":
        write_initial_states(tmp_path, noise(0))
    else:
        torch.save({"weights": torch.zeros(3)}, tmp_path / ("a.pt" if what == "training state" else "last.pt"))
    before = content(tmp_path)
    code = PLAIN.format(out=str(tmp_path)) + FULL.format(size=20_000) + SAVES[what].format()
    result = python(code, check=False)
    assert result.returncode == 1, result.stderr
    assert "File too large" in result.stderr  # and not that a position is unexpected
    assert content(tmp_path) == before
    assert [*tmp_path.iterdir()] == [path for path in tmp_path.iterdir() if not is_temporary(path)]


def test_after_an_error_a_new_folder_is_not_there(tmp_path):
    def save():
        with atomic_directory(tmp_path / "a" / "b", last="x") as temporary:
            (temporary / "x").write_text("new")
            raise OSError("stop")

    with pytest.raises(OSError, match="stop"):
        save()
    assert not any(tmp_path.iterdir())


def test_an_error_between_two_renames_puts_all_back(tmp_path, monkeypatch):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("old")
    (tmp_path / "last").write_text("old")
    (tmp_path / "other").write_text("kept")
    before, rename = content(tmp_path), os.replace

    def refuse(source, target):
        if str(target).endswith("last"):
            raise OSError("the disk is gone")
        rename(source, target)

    def save():
        with atomic_directory(tmp_path, last="last") as temporary:
            for name in ("one", "two", "three"):
                (temporary / name).mkdir()
                (temporary / name / "file").write_text("new")
            (temporary / "last").write_text("new")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="the disk is gone"):
        save()
    monkeypatch.undo()
    assert content(tmp_path) == before
    save()
    assert content(tmp_path) == {f"{name}/file": b"new" for name in ("one", "three", "two")} | {
        "last": b"new",
        "other": b"kept",
    }


def test_two_writers_never_share_a_draft(tmp_path):
    with atomic_file(tmp_path / "a.json") as one, atomic_file(tmp_path / "a.json") as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.json").read_text() == "one"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_files_have_the_mode_that_the_umask_gives(tmp_path):
    before = os.umask(0o002)
    try:
        atomic_write(tmp_path / "a", "text")
        tiny_prophet().save_pretrained(tmp_path / "checkpoint")
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o664}
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()} == {0o775}


def test_drafts_of_processes_that_have_ended_are_removed(tmp_path):
    code = f"""
import os, signal
from prophet_gym._io.atomic import atomic_file
with atomic_file({str(tmp_path / "a")!r}) as draft:
    draft.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert python(code, check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    atomic_write(tmp_path / "a", "first")
    assert left.is_file()
    os.utime(left, (time.time() - 2 * 24 * 3600,) * 2)
    with atomic_file(tmp_path / "a") as temporary:  # whose own draft, and those of processes that live, stay
        temporary.write_text("whole")
        atomic_write(tmp_path / "a", "other")
        assert temporary.is_file()
    assert content(tmp_path) == {"a": b"whole"}


def test_a_set_written_over_another_is_never_a_mixture(sets):
    index = json.loads((sets / "index.json").read_text())
    write_initial_states(sets, noise(1), quality=101)
    for found, written in zip(read_initial_states(sets), noise(1), strict=True):
        np.testing.assert_array_equal(found.frames, written.frames)
    named = {entry["sheet"] for entry in json.loads((sets / "index.json").read_text())["starts"]}
    assert named == {path.name for path in sets.glob("*.webp")}
    assert not named & {entry["sheet"] for entry in index["starts"]}  # so no reader of the old index gets new frames
    write_initial_states(sets, noise(0))
    assert {path.name for path in sets.glob("*.webp")} == {entry["sheet"] for entry in index["starts"]}


@pytest.mark.parametrize("name", ["../outside.webp", "/etc/hostname", "sub/x.webp", ".."])
def test_an_index_names_sheets_in_its_own_folder(name, sets):
    index = json.loads((sets / "index.json").read_text())
    index["starts"][0]["sheet"] = name
    (sets / "index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="must name sheets in its own folder"):
        read_initial_states(sets)


def test_parts_of_two_saves_are_refused(tmp_path):
    tiny_prophet().save_pretrained(tmp_path / "one")
    tiny_prophet(seed=1).save_pretrained(tmp_path / "two")
    for part in ("transformer", "autoencoder", "tracker"):
        mixed = tmp_path / part
        Prophet.from_pretrained(tmp_path / "one").save_pretrained(mixed)
        (mixed / part).rename(mixed / "out")
        (tmp_path / "two" / part).rename(mixed / part)
        with pytest.raises(CheckpointError, match=f"{part}.* are of two different saves"):
            Prophet.from_pretrained(mixed)
    SuccessHead().save_pretrained(tmp_path / "head")
    config = (tmp_path / "head" / "config.json").read_bytes()
    SuccessHead(SuccessHeadConfig(threshold=0.9)).save_pretrained(tmp_path / "head")
    (tmp_path / "head" / "config.json").write_bytes(config)
    with pytest.raises(CheckpointError, match="are of two different saves"):
        SuccessHead.from_pretrained(tmp_path / "head")


def test_the_same_content_is_the_same_save(tmp_path):
    for name in ("one", "two"):
        tiny_prophet().save_pretrained(tmp_path / name)
    assert content(tmp_path / "one") == content(tmp_path / "two")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_who_reads_while_it_is_saved_gets_one_save_whole(tmp_path):
    whole = {total([p.half() for p in tiny_prophet(seed=seed).parameters()]) for seed in (0, 1)}
    tiny_prophet(seed=0).save_pretrained(tmp_path)
    code = f"""
import time
from prophet_gym.prophet import tiny_prophet
models = [tiny_prophet(seed=seed) for seed in (1, 0)]
print("ready", flush=True)
for number in range(10_000):
    models[number % 2].save_pretrained({str(tmp_path)!r})
    time.sleep(0.2)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        found = {loaded(tmp_path) for _ in range(60)}
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    # On a machine that loads more slowly than the other process saves, it is told so.
    assert found <= {*whole, None}
    tiny_prophet().save_pretrained(tmp_path)  # the other process may have been killed between two renames
    assert total(Prophet.from_pretrained(tmp_path).parameters()) in whole


def test_a_save_and_the_one_before_again_while_it_is_read_is_no_mixture(tmp_path):
    def save(content):
        with atomic.atomic_directory(tmp_path, last="config") as folder:
            for name in ("weights", "config"):
                (folder / name).write_text(content)

    def load():
        config = (tmp_path / "config").read_text()
        if len(reads) == 0:
            save("other")
        reads.append((config, (tmp_path / "weights").read_text()))
        if len(reads) == 1:
            save("one")  # what is there says again what it said at first
        return reads[-1]

    reads = []
    save("one")
    assert atomic.read_whole(tmp_path, load, last="config") == ("one", "one")
    assert reads == [("one", "other"), ("one", "one")]


def loaded(folder):
    try:
        return total(Prophet.from_pretrained(folder).parameters())
    except CheckpointError:
        return None


def total(parameters):
    return float(sum(parameter.double().sum() for parameter in parameters))


def test_a_draft_that_a_killed_process_left_does_not_let_damage_be_read_for_ever(tmp_path, monkeypatch):
    (tmp_path / ".prophet.json.draft-elsewhere.1.ab").mkdir()
    monkeypatch.setattr(atomic, "PATIENCE", 0.0)
    reads = []

    def load():
        reads.append(len(reads))
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        atomic.read_whole(tmp_path, load, last="prophet.json")
    assert len(reads) == 2
