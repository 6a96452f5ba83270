"""Run a transformer: by PyTorch as it is, compiled by PyTorch, or by OpenVINO, which is faster on most CPUs."""

import hashlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable
from functools import cache, cached_property, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prophet_gym._checks import require_known, unknown_option
from prophet_gym._io.atomic import atomic_directory, atomic_write
from prophet_gym._io.cache import cache_dir
from prophet_gym.errors import CacheError

ENGINES = ("auto", "eager", "compiled", "openvino")
Run = Callable[..., Tensor]
"""Called as the transformer is, with the same inputs and outputs."""
_MODEL = "model.xml"
_LARGEST = 10**8  # weights of a network that `auto` exports: a larger one would fill the cache and take minutes
_EQUAL = 1e-3  # largest difference to PyTorch's output, whose standard deviation is about 1; float32's own is 3e-6
_PIECE = 2  # elements of a batch that a thread takes at once
_log = logging.getLogger(__name__)
# The process that OpenVINO was first used in: its threads do not live on in a fork, and to wait for them there might
# last for ever.
_used_in: list[int] = []


def make_engine(transformer: nn.Module, name: str) -> Run | None:
    """Return what runs a transformer in inference; None where it runs itself.

    Args:
        transformer: The network; choose an engine again after its weights were changed.
        name: `eager`, `compiled` (torch.compile, a minute or more at the first call), `openvino` (on a CPU; exported at
            the first call and kept in the cache), or `auto`: the faster of `openvino` and `eager` where a network of at
            most 100 million weights is on a CPU and OpenVINO is installed, measured at the first call and remembered
            for this machine.

    Raises:
        UnknownOptionError: There is no such engine, OpenVINO is not installed, or it cannot run this network.
    """
    require_known("engine", name, ENGINES)
    if name == "compiled":
        return Compiled(transformer)
    installed = find_spec("openvino") is not None
    weights = list(transformer.parameters())
    fits = _plain(weights)
    if name == "openvino" and not installed:
        raise unknown_option("engine without OpenVINO (pip install 'prophet-gym[fast]')", name, ENGINES[:3])
    if name == "openvino" and not fits:
        raise unknown_option("engine of a network that is not on the CPU in float32", name, ENGINES[:3])
    if name == "openvino" or (name == "auto" and installed and fits and sum(w.numel() for w in weights) <= _LARGEST):
        return OpenVino(transformer, measured=name == "auto")
    return None


class Compiled:
    """Run a transformer compiled by PyTorch; a copy compiles again, since its weights are others."""

    def __init__(self, transformer: nn.Module) -> None:
        self._transformer, self._run = transformer, torch.compile(transformer.forward, dynamic=False)

    def __call__(self, hidden_states: Tensor, timestep: Tensor, **conditions: Tensor | None) -> Tensor:
        """Return the transformer's output."""
        return self._run(hidden_states, timestep, **conditions)

    def __reduce__(self) -> tuple[Any, ...]:
        """Compile again in a copy."""
        return Compiled, (self._transformer,)


class OpenVino:
    """Run a transformer by OpenVINO, and by PyTorch where OpenVINO cannot: on a GPU, or in another dtype than float32.

    Weights that an optimizer or `load_state_dict` changed since are seen, and PyTorch runs them; what is written
    through `parameter.data` is not seen.

    Args:
        transformer: Its batch is the first axis of every input.
        measured: Whether to leave the work to PyTorch where that is faster.
    """

    def __init__(self, transformer: nn.Module, *, measured: bool = False) -> None:
        self._transformer, self._measured = transformer, measured
        # Of the inputs that are given, by name and shape without the batch: there is one export for each.
        self._requests: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self._modules = list(transformer.modules())
        self._seen = self._look()

    def __call__(self, hidden_states: Tensor, timestep: Tensor, **conditions: Tensor | None) -> Tensor:
        """Return the transformer's output."""
        given = {name: value for name, value in conditions.items() if value is not None}
        tensors = [hidden_states, timestep, *given.values()]
        if not self._can_run(tensors):
            return self._transformer(hidden_states, timestep, **conditions)
        layout = tuple(zip(["", "", *given], [tuple(tensor.shape[1:]) for tensor in tensors], strict=True))
        with self._lock:
            if layout not in self._requests:
                self._requests[layout] = self._prepare(hidden_states, timestep, given, str(layout))
            requests = self._requests[layout]
            if requests is None:
                return self._transformer(hidden_states, timestep, **conditions)
            return _infer(requests, tensors)

    def _can_run(self, tensors: list[Tensor]) -> bool:
        if _used_in and _used_in[0] != os.getpid():
            return False
        if torch.is_grad_enabled() and any(each.requires_grad for each in (*tensors, *self._transformer.parameters())):
            return False
        return _plain(tensors) and self._look() == self._seen

    def _look(self) -> tuple[list[int], list[tuple[int, int, int]]]:
        """Return which modules there are, which weights, where these lie, and how often each was written to."""
        # Not `parameters()`, which takes longer than the rest of a call: every module that was there is looked into,
        # and a new one is in the place of another, or beside it.
        children = [id(child) for module in self._modules for child in module._modules.values()]
        weights = [weight for module in self._modules for weight in module._parameters.values() if weight is not None]
        return children, [(id(w), w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights]

    def __reduce__(self) -> tuple[Any, ...]:
        """Begin again in a copy: what OpenVINO holds can be neither copied nor pickled."""
        return partial(OpenVino, measured=self._measured), (self._transformer,)

    def _prepare(self, hidden_states: Tensor, timestep: Tensor, given: dict[str, Tensor], layout: str) -> Any:
        """Return what runs the exported network; None where PyTorch is to run it."""
        try:
            return self._exported(hidden_states, timestep, given, layout)
        except Exception as error:  # whatever an exporter or a compiler makes of a network that it does not know
            why = f"OpenVINO cannot run the transformer ({type(error).__name__}: {error})"
            if not self._measured:
                raise RuntimeError(f"{why}; use engine='eager'") from error
            _log.warning("%s: PyTorch does", why)
            return None

    def _exported(self, hidden_states: Tensor, timestep: Tensor, given: dict[str, Tensor], layout: str) -> Any:
        _used_in[:] = [os.getpid()]
        folder = cache_dir() / "engines" / self._key(layout)
        core = _core()
        model = _read(core, folder / _MODEL)
        if model is None:
            _log.warning("exporting the world model's transformer to OpenVINO, once for this machine: up to a minute")
            model = _export(self._transformer, hidden_states, timestep, given)
            _store(model, folder)
        requests = _Requests(core, model)
        tensors = [hidden_states, timestep, *given.values()]
        expected = self._transformer(hidden_states, timestep, **given)
        apart = float((_infer(requests, tensors) - expected).abs().max())
        if not apart <= _EQUAL:
            _log.warning("OpenVINO's output differs by %g from PyTorch's, which runs the transformer instead", apart)
            return None
        if self._measured and not _remembered(folder, lambda: _faster(requests, tensors, self._transformer, given)):
            return None
        return requests

    def _key(self, layout: str) -> str:
        digest = hashlib.sha256()
        for name, value in self._transformer.state_dict().items():
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        config = {name: str(value) for name, value in dict(getattr(self._transformer, "config", {})).items()}
        # diffusers' own entry lists names in the order of a set, which differs from process to process.
        config.pop("_use_default_values", None)
        what = [layout, json.dumps(config, sort_keys=True), version("openvino"), torch.__version__]
        digest.update("\n".join(what).encode())
        return digest.hexdigest()[:24]


@cache
def _core() -> Any:
    """Return the one Core of this process, which is never freed.

    A Core gives the thread that makes it a stack for signals, on processors with AVX-512, and takes it away when it is
    freed. Where two are freed in another order than the reverse, the thread keeps a stack that is no more, and the next
    signal with a handler, as that of a child that ends, kills the process without a word (OpenVINO 2026.4).
    """
    import openvino as ov

    return ov.Core()


def _plain(tensors: list[Any]) -> bool:
    """Return whether OpenVINO takes these tensors: on the CPU and in float32."""
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def _export(network: nn.Module, hidden_states: Tensor, timestep: Tensor, given: dict[str, Tensor]) -> Any:
    """Export with a batch of any size."""
    import openvino as ov

    # Two, since a batch of one is exported as a constant.
    inputs = [tensor[:1].repeat(2, *[1] * (tensor.ndim - 1)) for tensor in (hidden_states, timestep, *given.values())]
    batch = torch.export.Dim("batch", min=1, max=65536)
    kwargs = dict(zip(given, inputs[2:], strict=True))
    shapes = {"hidden_states": {0: batch}, "timestep": {0: batch}} | {name: {0: batch} for name in given}
    exported = torch.export.export(network, tuple(inputs[:2]), kwargs, dynamic_shapes=shapes)
    return ov.convert_model(exported)


def _read(core: Any, path: Path) -> Any:
    """Return a stored export; None where there is none that can be read."""
    try:
        return core.read_model(path) if path.is_file() else None
    except (OSError, RuntimeError):
        return None


def _store(model: Any, folder: Path) -> None:
    import openvino as ov

    try:
        with atomic_directory(folder, last=_MODEL) as temporary:
            ov.save_model(model, temporary / _MODEL, compress_to_fp16=False)
    except (OSError, CacheError, RuntimeError) as error:
        _log.warning(
            "the exported transformer cannot be kept in %s (%s): the next process exports it again", folder, error
        )


class _Requests:
    """Run a small batch on all threads together, and a larger one in pieces, each on a thread of its own.

    Pieces are taken as threads become free, so a thread that shares its core with another process holds up no other;
    they are the same whatever the load, and so are the dreams.
    """

    def __init__(self, core: Any, model: Any, precision: str = "f32") -> None:
        self._core, self._model, self.threads = core, model, torch.get_num_threads()
        # Threads that are bound to cores could not make way for another process.
        self._options = {"INFERENCE_NUM_THREADS": self.threads, "ENABLE_CPU_PINNING": False}
        self._options |= {"INFERENCE_PRECISION_HINT": precision}

    def __call__(self, arrays: list[np.ndarray]) -> Tensor:
        """Return the output for a batch."""
        rows = len(arrays[0])
        if self.threads == 1 or rows < self.threads:
            # Copied: OpenVINO writes the next output to the same place.
            return torch.from_numpy(self._together.infer(arrays, share_inputs=True, share_outputs=True)[0]).clone()
        size = _PIECE if rows >= 2 * _PIECE * self.threads else 1
        pieces: list[Any] = [None] * -(-rows // size)
        for number in range(len(pieces)):
            part = [array[number * size : (number + 1) * size] for array in arrays]
            self._apart.start_async(part, userdata=(pieces, number), share_inputs=True)
        self._apart.wait_all()
        return torch.from_numpy(np.concatenate(pieces))

    # Each is compiled where it is first needed: both hold the weights.
    @cached_property
    def _together(self) -> Any:
        return self._core.compile_model(self._model, "CPU", self._options | {"NUM_STREAMS": 1}).create_infer_request()

    @cached_property
    def _apart(self) -> Any:
        import openvino as ov

        compiled = self._core.compile_model(self._model, "CPU", self._options | {"NUM_STREAMS": self.threads})
        queue = ov.AsyncInferQueue(compiled, self.threads)
        queue.set_callback(_keep_piece)
        return queue


def _keep_piece(request: Any, place: tuple[list[Any], int]) -> None:
    pieces, number = place
    pieces[number] = request.get_output_tensor().data.copy()


def _infer(requests: Callable[[list[np.ndarray]], Tensor], tensors: list[Tensor]) -> Tensor:
    return requests([tensor.detach().contiguous().numpy() for tensor in tensors])


def _faster(requests: Any, tensors: list[Tensor], network: nn.Module, given: dict[str, Tensor]) -> bool:
    """Measure whether OpenVINO is faster than PyTorch on these inputs; the fastest of three calls each."""
    times: list[list[float]] = [[], []]
    for _ in range(3):
        for found, call in zip(
            times, (lambda: _infer(requests, tensors), lambda: network(*tensors[:2], **given)), strict=True
        ):
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
    return min(times[0]) < min(times[1])


def _remembered(folder: Path, ask: Callable[[], bool]) -> bool:
    """Return an answer that is kept beside an export, so that a run that resumes on a machine computes as it did."""
    where = f"{platform.node()} {platform.machine()} {os.cpu_count()} {torch.get_num_threads()}"
    path = folder / f"faster-{hashlib.sha256(where.encode()).hexdigest()[:12]}.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        answer = ask()
    try:
        atomic_write(path, json.dumps(answer))
    except OSError as error:
        _log.warning("which engine is faster cannot be kept in %s (%s): the next process measures again", folder, error)
    return answer
