"""Measure the full Prophet on a CPU from a released file to a dreamt chunk: seconds and peak memory of each stage.

    OMP_NUM_THREADS=1 python -m benchmarks.speed.full_chunk --clean --json benchmarks/results/speed/full_chunk.json
    python -m benchmarks.speed.full_chunk --tiny                         # the same code in seconds

The weights are random, which changes nothing about what they cost: a `.pt` in the released layout and a Wan VAE are
written, converted by `prophet convert`, and dreamt with through `gym.make`. Each stage is a process of its own, whose
result stays in the folder, so that a run that was stopped continues; they need 10 GB of the disk. The peak is that of
the resident memory, pages of mapped files among it, which the system takes back where memory is short. CPU seconds are
those of an idle machine, where there is one thread.
`env:DTYPE:STEPS` steps once with so many steps of the sampler, and says what the parts of it took. `window` asks how
much of a past frame's latents depends on where the window of the history begins: every chunk encodes all of it again.
"""

import dataclasses
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from benchmarks.speed.harness import ROOT, recorded

GOLDEN = ROOT / "tests" / "data" / "prophet_dit.safetensors"  # its names are those of a released file
TINY = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "text_embed_dim": 6, "adaln_lora_dim": 4}
CLEAR_PEAK = "5"  # proc_pid_clear_refs(5)


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    stages: tuple[str, ...] = ("write", "convert", "window", "env:float32:1", "env:bfloat16:2")
    """Measure these, in this order."""
    folder: Path = Path("outputs/full_chunk")
    """Files and results of the stages; a stage that has a result there is not run again."""
    clean: bool = False
    """Delete the folder at the end."""
    tiny: bool = False
    """Tiny networks and frames of 64x64, to try this script."""
    stage: str | None = None
    """Run this stage alone, in this process."""
    json: Path | None = None
    """Write the numbers to this file."""

    @property
    def size(self) -> int:
        """Return the side of the frames in pixels."""
        return 64 if self.tiny else 256


def status(name: str) -> int:
    """Return bytes of a line of this process's /proc/self/status."""
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


@contextmanager
def measured(found: dict[str, Any], name: str) -> Iterator[None]:
    """Note seconds, CPU seconds, the peak of resident memory of what runs inside, and what is kept without a file."""
    Path("/proc/self/clear_refs").write_text(CLEAR_PEAK, encoding="utf-8")
    began, used = time.perf_counter(), time.process_time()
    yield
    found[name] = {
        "seconds": round(time.perf_counter() - began, 2),
        "cpu_seconds": round(time.process_time() - used, 2),
        "peak_gb": round(status("VmHWM") / 1e9, 2),
        "kept_gb": round(status("RssAnon") / 1e9, 2),
    }


def released(config: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return random weights of a transformer of this config, in the layout of the released files."""
    from safetensors import safe_open

    from prophet_gym.prophet._transformer import ProphetTransformer3DModel
    from prophet_gym.prophet.convert._layout import is_counter, rename

    with safe_open(GOLDEN, "pt") as file:
        names = {rename(key): key for key in file.keys() if key.startswith("net.") and not is_counter(key)}  # noqa: SIM118
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in ProphetTransformer3DModel(**config).state_dict().items()}
    state = {}
    for name, shape in shapes.items():
        number = re.match(r"transformer_blocks\.(\d+)\.", name)
        key = names[re.sub(r"^(transformer_blocks)\.\d+\.", r"\1.0.", name)]
        drawn = torch.empty(shape, dtype=dtype).normal_(std=0.02)
        state[key if number is None else key.replace("blocks.0.", f"blocks.{number[1]}.")] = (
            drawn[..., None, None, None] if "framepack_mem.proj" in key and drawn.ndim == 2 else drawn
        )
    return state


def write(args: Args) -> dict[str, Any]:
    """Write a released file, a Wan VAE and an initial state."""
    import numpy as np

    from prophet_gym.envs._initial_states import write_initial_states
    from prophet_gym.prophet._autoencoder import WanAutoencoder
    from prophet_gym.prophet._presets import FULL_TRANSFORMER, tiny_vae
    from prophet_gym.specs import InitialState

    found: dict[str, Any] = {}
    torch.manual_seed(0)
    with measured(found, "released file"):
        state = released(FULL_TRANSFORMER | (TINY | {"actions_per_slot": 4} if args.tiny else {}), torch.bfloat16)
        torch.save(state, args.folder / "prophet-libero.pt")
    found["weights"] = {"transformer": sum(value.numel() for value in state.values())}
    del state
    with measured(found, "Wan VAE"):
        vae = tiny_vae() if args.tiny else WanAutoencoder()
        vae.save_pretrained(args.folder / "wan" / "vae")
    found["weights"]["autoencoder"] = sum(value.numel() for value in vae.parameters())
    frame = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    frame = frame.repeat(args.size // 8, axis=1).repeat(args.size // 8, axis=2)
    write_initial_states(args.folder / "starts", [InitialState(frame, "lift the can", "libero_object")])
    return found


def convert(args: Args) -> dict[str, Any]:
    """Convert the released file by the command that users call."""
    from prophet_gym.cli.main import main as prophet

    found: dict[str, Any] = {}
    shutil.rmtree(args.folder / "prophet", ignore_errors=True)
    with measured(found, "prophet convert"):
        command = ["convert", str(args.folder / "prophet-libero.pt"), str(args.folder / "prophet")]
        prophet([*command, "--vae", str(args.folder / "wan"), "--frame-size", str(args.size), str(args.size)])
    return found


def timed(seconds: list[float], call: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that does the same and notes the CPU seconds of each call of it."""

    def run(*given: Any, **named: Any) -> Any:
        began = time.process_time()
        out = call(*given, **named)
        seconds.append(time.process_time() - began)
        return out

    return run


def env(args: Args, dtype: str, steps: str) -> dict[str, Any]:
    """Make the env, reset it, and step it once."""
    import gymnasium as gym
    import numpy as np

    import prophet_gym  # noqa: F401 (registers the ids)

    header = args.folder / "prophet" / "prophet.json"
    content = json.loads(header.read_text(encoding="utf-8"))
    content["steps"] = int(steps)
    header.write_text(json.dumps(content), encoding="utf-8")
    found: dict[str, Any] = {}
    with measured(found, "gym.make"):
        made: Any = gym.make(
            "Prophet-LIBERO-v0",
            weights=str(header.parent),
            starts=str(args.folder / "starts"),
            reward=None,
            dtype=dtype,
        )
    with measured(found, "reset"):
        made.reset(seed=0)
    prophet = made.unwrapped.world_model
    parts: dict[str, list[float]] = {name: [] for name in ("encode", "decode", "transformer")}
    for name in ("encode", "decode"):
        setattr(prophet.autoencoder, name, timed(parts[name], getattr(prophet.autoencoder, name)))
    prophet.transformer.forward = timed(parts["transformer"], prophet.transformer.forward)
    with measured(found, "step"):
        info = made.step(np.zeros(made.action_space.shape, np.float32))[-1]
    found["step"] |= {f"{name}_cpu_seconds": round(sum(seconds), 2) for name, seconds in parts.items()}
    found["step"] |= {"calls": len(parts["transformer"]), "frames": len(info["frames"])}
    return found


@torch.no_grad()
def window(args: Args) -> dict[str, Any]:
    """Compare latents of frames in a window of the history with those in the next window, which begins later."""
    from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, WanAutoencoder
    from prophet_gym.prophet._full import FullConfig, history_video

    config = FullConfig()
    vae: Any = WanAutoencoder.from_pretrained(args.folder / "wan", subfolder="vae")
    torch.manual_seed(0)
    # Small frames of large cells that drift: what a window forgets does not hang on their size.
    cells = torch.rand(2 + config.history_frames + config.chunk, 3, 4, 4).cumsum(0)
    frames = torch.nn.functional.interpolate(127.5 + 127.5 * torch.sin(cells), 64, mode="bilinear")
    video = frames.round().byte().permute(0, 2, 3, 1)[None]
    shift, kept = config.chunk // FRAMES_PER_LATENT, history_video(video[:, : config.history_frames], "oldest_finest")
    earlier, later = (vae.encode(video[:, at : at + kept.shape[1]]) for at in (0, config.chunk))
    same = earlier[:, :, shift:]
    apart = (later[:, :, : same.shape[2]] - same).square().mean((0, 1, 3, 4)).sqrt() / same.std()
    return {"apart": [float(f"{value:.2g}") for value in apart]}


def run_stage(args: Args, name: str) -> dict[str, Any]:
    """Return the result of a stage, which is run in a process of its own unless there is one."""
    result = args.folder / f"{name.replace(':', '-')}.json"
    if not result.is_file():
        print(f"{name} ...", flush=True)
        command = [sys.executable, "-m", "benchmarks.speed.full_chunk", "--folder", str(args.folder), "--stage", name]
        subprocess.run([*command, *(["--tiny"] if args.tiny else [])], check=True, cwd=ROOT)
    found = json.loads(result.read_text(encoding="utf-8"))
    print(f"{name}: {json.dumps(found)}", flush=True)
    return found


def main(args: Args) -> None:
    args = dataclasses.replace(args, folder=args.folder.resolve())
    args.folder.mkdir(parents=True, exist_ok=True)
    if args.stage is not None:
        name, *options = args.stage.split(":")
        found = {"write": write, "convert": convert, "window": window, "env": env}[name](args, *options)
        (args.folder / f"{args.stage.replace(':', '-')}.json").write_text(json.dumps(found), encoding="utf-8")
        return
    with recorded(args.json) as report:
        report["frame_size"] = args.size
        report["stages"] = {name: run_stage(args, name) for name in args.stages}
    if args.clean:
        shutil.rmtree(args.folder)


if __name__ == "__main__":
    main(tyro.cli(Args))
