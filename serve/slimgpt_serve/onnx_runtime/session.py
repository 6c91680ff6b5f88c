"""ONNX Runtime, imported here alone: opening a graph on the device asked for, and running it."""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slimgpt.errors import EnvironmentProblem, IntegrityError, SlimGPTError, UsageError
from slimgpt_serve.onnx_runtime.artefact import IN_PLACE, OnnxArtefact
from slimgpt_serve.onnx_runtime.installed import mending, require_one_runtime, threads_to_use

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_FATAL = 4  # of ONNX Runtime's own log: what it reports as errors is raised too
_NO_MEMORY = re.compile(r"alloc|out of memory", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the session's device.

    Attributes:
        pointer: to the first.
        array: the same bytes, where they are in this process's memory.
        owner: what keeps them alive.
    """

    pointer: int
    array: NDArray[np.uint8] | None
    owner: Any


class OnnxSession:
    """An opened export.

    Attributes:
        artefact: what it is.
        provider: that runs it, as ONNX Runtime names it.
        device: ``cpu`` or ``cuda``, and ``index`` its number.
        threads: of one operator on a CPU.
        inputs: names of the graph's inputs.
        keeps_logits: the graph computes as many logits as it is asked for.
    """

    def __init__(self, artefact: OnnxArtefact, session: Any, index: int, threads: int) -> None:
        self.artefact, self.threads = artefact, threads
        self._session, self._package = session, _onnxruntime()
        self.provider: str = session.get_providers()[0]
        self.device = "cuda" if self.provider == CUDA else "cpu"
        self.index = index if self.device == "cuda" else 0
        self.inputs = frozenset(x.name for x in session.get_inputs())
        self.keeps_logits = any(
            x.name == "logits_to_keep" for x in session.get_overridable_initializers()
        )

    def binding(self) -> Any:
        """An IOBinding; the caller keeps alive what it binds by address."""
        return self._session.io_binding()

    def run(self, binding: Any) -> None:
        """Runs the graph on what is bound.

        Raises:
            EnvironmentProblem: the memory is not enough.
            IntegrityError: ONNX Runtime fails otherwise.
        """
        try:
            self._session.run_with_iobinding(binding)
            if self.device != "cpu":
                binding.synchronize_outputs()
        except Exception as reason:  # noqa: BLE001 - ONNX Runtime has a dozen unrelated kinds
            raise _failure(f"{self.artefact.model} fails while it runs", reason) from None

    def value(self, array: NDArray[Any]) -> Any:
        """An OrtValue of an array in this process's memory."""
        return self._package.OrtValue.ortvalue_from_numpy(array)

    def empty(self, shape: tuple[int, ...], element: int) -> Any:
        """An OrtValue on the device; ``element`` is of onnx.TensorProto.DataType."""
        return self._package.OrtValue.ortvalue_from_shape_and_type(
            shape, element, self.device, self.index
        )

    def memory(self, size: int) -> Memory:
        """So many zero bytes on the device.

        Raises:
            EnvironmentProblem: there are not so many.
        """
        try:
            array = np.zeros(size, np.uint8)
            if self.device == "cpu":
                return Memory(array.ctypes.data, array, array)
            owner = self._package.OrtValue.ortvalue_from_numpy(array, self.device, self.index)
        except Exception as reason:  # noqa: BLE001 - as above
            raise _failure(f"{size} bytes on {self.device} can't be had", reason) from None
        return Memory(owner.data_ptr(), None, owner)

    def copier(self, graph: bytes) -> OnnxSession:
        """A session on the same device of a graph that copies bytes."""
        session = _created(graph, _options(1, prepack=True), self.provider, self.index)
        return OnnxSession(self.artefact, session, self.index, 1)


def open_session(
    artefact: OnnxArtefact,
    *,
    device: str = "auto",
    threads: int | None = None,
    prepack: bool = True,
    arena: bool = True,
) -> OnnxSession:
    """Opens an export on a device, and makes sure that it runs there.

    Args:
        artefact: to open.
        device: ``auto``, ``cpu`` or ``cuda[:i]``; auto takes a GPU where the export runs on one.
        threads: of one operator; by default the cores that this process may use.
        prepack: lay weights out anew for faster products, which takes as much memory again.
        arena: keep a CPU's memory from run to run in an arena, which only grows.

    Raises:
        UsageError: the device is no device, or not for this precision.
        EnvironmentProblem: the device, or a package that it needs, is not there.
        IntegrityError: ONNX Runtime refuses the graph.
    """
    kind, index = _parsed(device)
    name, in_place = str(artefact.directory), artefact.cache == IN_PLACE
    require_device(device, artefact.dtype, name, in_place=in_place)
    threads = threads or threads_to_use(os.environ)
    options = _options(threads, prepack=prepack, arena=arena)
    if kind == "cuda" or (kind == "auto" and _has_kernels(artefact.dtype, in_place=in_place)):
        try:
            session = _on_gpu(artefact, options, device, index)
            return OnnxSession(artefact, session, index, threads)
        except SlimGPTError:
            if kind == "cuda":
                raise
    if artefact.dtype == "bfloat16":
        raise _no_bfloat16(name)
    return OnnxSession(artefact, _created(str(artefact.model), options, CPU, 0), 0, threads)


def require_device(device: str, dtype: str, name: str, *, in_place: bool) -> None:
    """Refuses a device on which an export can't run, as far as that is known before it is opened.

    Args:
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        dtype: of the export's activations.
        name: what to call it.
        in_place: its caches stay in place; else it has standard operators alone.

    Raises:
        UsageError: the device is no device, or has no kernels for it.
        EnvironmentProblem: it is not there.
    """
    kind, _ = _parsed(device)
    if kind == "cuda" and not _has_kernels(dtype, in_place=in_place):
        raise UsageError(
            f"--device {device}: {name} computes attention in float32, which ONNX Runtime has for "
            "CPUs alone: export with --precision fp16 (int8, int4: --activations float16), or give "
            "--device cpu"
        )
    has_cuda = CUDA in _onnxruntime().get_available_providers()
    if kind == "cuda" and not has_cuda:
        raise EnvironmentProblem(f"--device {device}: {_NO_CUDA}")
    if dtype == "bfloat16" and (kind == "cpu" or not has_cuda):
        raise _no_bfloat16(name)


def may_run_on_gpu(artefact: OnnxArtefact) -> bool:
    """Whether ``auto`` would try a GPU: one that ONNX Runtime has, for an export that it takes."""
    has_cuda = CUDA in _onnxruntime().get_available_providers()
    return has_cuda and _has_kernels(artefact.dtype, in_place=artefact.cache == IN_PLACE)


def _has_kernels(dtype: str, *, in_place: bool) -> bool:
    """Whether a GPU runs it: GroupQueryAttention has no float32 there."""
    return dtype != "float32" or not in_place


def _no_bfloat16(name: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"{name} computes in bfloat16, which ONNX Runtime has for GPUs alone: give --device cuda "
        "where there is one, or export it again with --precision fp32"
    )


def _onnxruntime() -> Any:
    """The package, if there is exactly one and it is whole."""
    require_one_runtime()
    import onnxruntime  # type: ignore[import-untyped]

    if not hasattr(onnxruntime, "InferenceSession"):  # another was uninstalled out of its folder
        raise EnvironmentProblem(f"the files of onnxruntime are not whole: {mending()}")
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def _parsed(device: str) -> tuple[str, int]:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", device):
        raise UsageError(f"--device {device}: give auto, cpu, cuda or cuda:0, cuda:1, ...")
    kind, _, number = device.partition(":")
    return kind, int(number or 0)


_NO_CUDA = (
    "ONNX Runtime has no CUDA here: it needs an NVIDIA GPU, CUDA 13, cuDNN 9 and pip install "
    "'slimgpt[onnx-gpu]' in place of [onnx]; --device cpu runs without"
)


def _on_gpu(artefact: OnnxArtefact, options: Any, device: str, index: int) -> Any:
    """A session that does run on the GPU.

    Raises:
        EnvironmentProblem: there is no such GPU, or a library that it needs is missing.
    """
    ort = _onnxruntime()
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    try:
        session = _created(str(artefact.model), options, CUDA, index)
    except IntegrityError as reason:
        raise EnvironmentProblem(f"--device {device}: {reason}") from None
    if CUDA not in session.get_providers():  # a missing library is no error to ONNX Runtime
        raise EnvironmentProblem(f"--device {device}: {_NO_CUDA}")
    return session


def _options(threads: int, *, prepack: bool, arena: bool = True) -> Any:
    ort = _onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    # Threads that wait spin, ONNX Runtime's default: where they sleep, a step of a small model took
    # 1.4 to 2 times as long, on idle cores and on busy ones.
    # A plan of memory is kept for each shape of the inputs, and the mask grows every step.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = arena
    if not prepack:
        options.add_session_config_entry("session.disable_prepacking", "1")
    return options


def _created(model: str | bytes, options: Any, provider: str, index: int) -> Any:
    ort = _onnxruntime()
    asked = [(CUDA, {"device_id": index}), CPU] if provider == CUDA else [CPU]
    try:
        # Without the fallback that tries a CPU after any failure, and says so on stdout.
        return ort.InferenceSession(model, options, providers=asked, enable_fallback=0)
    except Exception as reason:  # noqa: BLE001 - as above
        name = "a graph" if isinstance(model, bytes) else model
        raise _failure(f"{name} can't be loaded by ONNX Runtime", reason) from None


def _failure(what: str, reason: Exception) -> SlimGPTError:
    """ONNX Runtime's error in one line."""
    words = " ".join(str(reason).split())[:300]
    if _NO_MEMORY.search(words) or isinstance(reason, MemoryError):
        return EnvironmentProblem(
            f"{what}: the memory is not enough ({words}); ask for fewer or shorter texts"
        )
    if type(reason).__name__ in ("NotImplemented", "EPFail"):
        return EnvironmentProblem(f"{what}: this version of it lacks an operator ({words})")
    return IntegrityError(f"{what}: {words}")
