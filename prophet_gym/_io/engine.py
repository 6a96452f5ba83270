"""Run a transformer: by PyTorch as it is, compiled by PyTorch, or by OpenVINO, which is faster on most CPUs."""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prophet_gym._checks import unknown_option
from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.cache import cache_dir
from prophet_gym.errors import CacheError

ENGINES = ("auto", "eager", "compiled", "openvino")
Run = Callable[..., Tensor]
"""Called as the transformer is, with the same inputs and outputs."""
_MODEL = "model.xml"
_LARGEST = 10**8  # weights of a network that `auto` exports: a larger one would fill the cache and take minutes
_EQUAL = 1e-3  # largest difference to PyTorch's output, whose standard deviation is about 1; float32's own is 3e-6
_log = logging.getLogger(__name__)


def make_engine(transformer: nn.Module, name: str) -> Run | None:
    """Return what runs a transformer in inference; None where it runs itself.

    Args:
        transformer: The network; its weights may change later, which is slower and no less right.
        name: `eager`, `compiled` (torch.compile, a minute or more at the first call), `openvino` (on a CPU; exported at
            the first call and kept in the cache), or `auto`: the faster of `openvino` and `eager` where a network of at
            most 100 million weights is on a CPU and OpenVINO is installed, measured at the first call and remembered
            for this machine.

    Raises:
        UnknownOptionError: There is no such engine, or OpenVINO is not installed.
    """
    if name not in ENGINES:
        raise unknown_option("engine", name, ENGINES)
    installed = find_spec("openvino") is not None
    if name == "openvino" and not installed:
        raise unknown_option("engine without OpenVINO (pip install 'prophet-gym[fast]')", name, ENGINES[:3])
    if name == "compiled":
        return torch.compile(transformer.forward, dynamic=False)
    weights = list(transformer.parameters())
    suits = weights[0].device.type == "cpu" and sum(each.numel() for each in weights) <= _LARGEST
    if name == "openvino" or (name == "auto" and installed and suits):
        return OpenVino(transformer, measured=name == "auto")
    return None


class OpenVino:
    """Run a transformer by OpenVINO, and by PyTorch where OpenVINO cannot: on a GPU, or in another dtype than float32.

    Weights that changed since the export are seen, and PyTorch runs them.

    Args:
        transformer: Its batch is the first axis of every input.
        measured: Whether to leave the work to PyTorch where that is faster.
    """

    def __init__(self, transformer: nn.Module, *, measured: bool = False) -> None:
        self._transformer, self._measured = transformer, measured
        # Of the inputs that are given, by name and shape without the batch: there is one export for each.
        self._requests: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self._parameters = list(transformer.parameters())
        self._weights = _versions(self._parameters)
        self._process: int | None = None

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
            request = self._requests[layout]
            if request is None:
                return self._transformer(hidden_states, timestep, **conditions)
            return _infer(request, tensors)

    def _can_run(self, tensors: list[Tensor]) -> bool:
        # OpenVINO's threads do not live on in a forked process, and to wait for them there would last for ever.
        forked = self._process not in (None, os.getpid())
        changed = _versions(self._parameters) != self._weights
        plain = all(t.device.type == "cpu" and t.dtype == torch.float32 and not t.requires_grad for t in tensors)
        return plain and not (forked or changed)

    def __reduce__(self) -> tuple[Any, ...]:
        """Begin again in a copy: what OpenVINO holds can be neither copied nor pickled."""
        return partial(OpenVino, measured=self._measured), (self._transformer,)

    def _prepare(self, hidden_states: Tensor, timestep: Tensor, given: dict[str, Tensor], layout: str) -> Any:
        """Return a request of the exported network; None where PyTorch is to run it."""
        import openvino as ov

        self._process = os.getpid()
        folder = cache_dir() / "engines" / self._key(layout)
        core = ov.Core()
        options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
        model = _read(core, folder / _MODEL)
        if model is None:
            _log.warning("exporting the world model's transformer to OpenVINO, once for this machine: up to a minute")
            model = _export(self._transformer, hidden_states, timestep, given)
            _store(model, folder)
        request = core.compile_model(model, "CPU", options).create_infer_request()
        tensors = [hidden_states, timestep, *given.values()]
        expected = self._transformer(hidden_states, timestep, **given)
        apart = float((_infer(request, tensors) - expected).abs().max())
        if not apart <= _EQUAL:
            _log.warning("OpenVINO's output differs by %g from PyTorch's, which runs the transformer instead", apart)
            return None
        if self._measured and not _remembered(folder, lambda: _faster(request, tensors, self._transformer, given)):
            return None
        return request

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


def _versions(parameters: list[nn.Parameter]) -> list[tuple[int, int]]:
    """Return where the weights are, and how often each was written to."""
    return [(parameter.data_ptr(), parameter._version) for parameter in parameters]


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
    """Return a stored export; None where there is none, or it is damaged."""
    if not path.is_file():
        return None
    try:
        return core.read_model(path)
    except RuntimeError:
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


def _infer(request: Any, tensors: list[Tensor]) -> Tensor:
    arrays = [tensor.detach().contiguous().numpy() for tensor in tensors]
    # Copied: OpenVINO writes the next output to the same place.
    return torch.from_numpy(request.infer(arrays, share_inputs=True, share_outputs=True)[0]).clone()


def _faster(request: Any, tensors: list[Tensor], network: nn.Module, given: dict[str, Tensor]) -> bool:
    """Measure whether OpenVINO is faster than PyTorch on these inputs; the fastest of three calls each."""
    times: list[list[float]] = [[], []]
    for _ in range(3):
        for found, call in zip(
            times, (lambda: _infer(request, tensors), lambda: network(*tensors[:2], **given)), strict=True
        ):
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
    return min(times[0]) < min(times[1])


def _remembered(folder: Path, ask: Callable[[], bool]) -> bool:
    """Return an answer that is kept beside an export, so that a run that resumes computes as it did."""
    path = folder / "faster.json"
    try:
        return bool(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        answer = ask()
    if folder.is_dir():
        path.write_text(json.dumps(answer), encoding="utf-8")
    return answer
