"""llm-compressor rounds the weights and packs them. The only module that imports it."""

from __future__ import annotations

import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.safety import read_json
from slimgpt.checkpoint.writer import SHARD_BYTES
from slimgpt.errors import EnvironmentProblem, missing_extra
from slimgpt.progress import Progress, stage
from slimgpt_export.quantize_schemes import Scheme

if TYPE_CHECKING:
    from torch import Tensor

_LEFT = ["lm_head"]
_TOKENS_A_BATCH = 2048
_FELL_BACK = "Hessian inversion failed"


@dataclass(frozen=True, slots=True)
class Packed:
    """What was written.

    Attributes:
        settings: ``quantization_config`` of config.json.
        warning: what llm-compressor says of weights that GPTQ could not round; None if all is well.
    """

    settings: dict[str, Any]
    warning: str | None


def require_llmcompressor() -> None:
    """Refuses work that needs the extra.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    if find_spec("llmcompressor") is None:
        raise missing_extra("slimgpt export quantized", "quantize")


def require_device(name: str, kind: str, index: int | None, *, accelerator: bool) -> None:
    """Refuses a device that llm-compressor would not take: it asks torch alone.

    Args:
        name: as ``--device`` has it.
        kind: of the resolved device.
        index: of the resolved device.
        accelerator: whether torch sees a GPU.

    Raises:
        EnvironmentProblem: with what to set instead.
    """
    if index or (kind == "cpu" and accelerator):
        visible = index if kind == "cuda" else ""
        raise EnvironmentProblem(
            f"--device {name}: llm-compressor runs on the first GPU it sees; set "
            f"CUDA_VISIBLE_DEVICES='{visible}' and leave out --device"
        )


def versions() -> dict[str, str]:
    """What the resulting bytes depend on."""
    return {name: version(name) for name in ("llmcompressor", "compressed-tensors")}


def pack(
    model: Any,
    scheme: Scheme,
    group_size: int,
    windows: Tensor | None,
    directory: Path,
    progress: Progress,
) -> Packed:
    """Quantises the matrices of the decoder layers and writes the weights.

    Layer after layer, each on inputs that went through the quantised ones before it.

    Args:
        model: a transformers causal LM in the type that it is stored in; it is used up.
        scheme: how.
        group_size: inputs that share a scale, where the scheme has groups.
        windows: (samples, tokens), for a scheme that is calibrated.
        directory: gets ``model*.safetensors`` and an index above one shard.
        progress: watches.
    """
    with quiet_libraries() as said:
        from llmcompressor.entrypoints.oneshot import oneshot

        processor: Any = object()  # only a set of texts would need a tokenizer
        batch = 1 if windows is None else max(1, _TOKENS_A_BATCH // windows.shape[1])
        loader = None if windows is None else _loader(windows, batch)
        layers = model.model.layers
        steps = 1 if loader is None else 2 * len(loader) * len(layers)
        with stage(progress, f"quantising to {scheme.name}", steps), ExitStack() as hooks:
            watch = _Watch(progress, steps)
            for layer in layers if loader is not None else ():
                hooks.callback(layer.register_forward_hook(watch).remove)
            oneshot(
                model=model,
                recipe=_recipe(scheme, group_size),
                dataset=loader,
                processor=processor,
            )
            watch.finish()
        model.save_pretrained(directory, max_shard_size=SHARD_BYTES)
        _let_go(model)
    for text in said:
        progress.record("llmcompressor", {"warning": text})
    settings = read_json(directory / "config.json")["quantization_config"]
    return Packed(settings, next((text for text in said if text.startswith(_FELL_BACK)), None))


def _let_go(model: Any) -> None:
    """Frees the weights, which llm-compressor's session and what it traced would hold on to."""
    import torch
    from llmcompressor.core import active_session

    session: Any = active_session()  # its methods have no types
    session.reset()
    for parameter in list(model.parameters()):
        parameter.data = torch.empty(0)


class _Watch:
    """Told of every pass of a batch through a layer: one to calibrate, one to go on."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress, self._left = progress, steps

    def __call__(self, *_: Any) -> None:
        if self._left:  # tracing the model may run a layer once more
            self._left -= 1
            self._progress.advance()

    def finish(self) -> None:
        if self._left:
            self._progress.advance(self._left)


def _loader(windows: Tensor, batch: int) -> Any:
    import torch
    from torch.utils.data import DataLoader

    rows: Any = [{"input_ids": w, "attention_mask": torch.ones_like(w)} for w in windows]
    return DataLoader(rows, batch_size=batch)


def _recipe(scheme: Scheme, group_size: int) -> Any:
    """The modifier of a scheme; embeddings and LM head stay as they are."""
    if not scheme.calibrated:
        from llmcompressor.modifiers.quantization import QuantizationModifier

        return QuantizationModifier(targets=["Linear"], scheme="FP8_DYNAMIC", ignore=_LEFT)
    from llmcompressor.modifiers.gptq import GPTQModifier

    if not scheme.grouped:
        return GPTQModifier(targets=["Linear"], scheme="W8A8", ignore=_LEFT)
    weights = {
        "num_bits": 4,
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": group_size,
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return GPTQModifier(config_groups=groups, ignore=_LEFT)


@contextmanager
def quiet_libraries() -> Iterator[list[str]]:
    """Keeps bars and logs of the libraries off stdout and stderr; collects their warnings."""
    # llm-compressor's own log goes to stdout, where results are.
    os.environ.setdefault("LLM_COMPRESSOR_LOG_LEVEL", "CRITICAL")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    said: list[str] = []
    with ExitStack() as undo, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("llmcompressor")
        log: Any = importlib.import_module("loguru").logger
        sink = log.add(
            lambda entry: said.append(entry.record["message"]),
            level="WARNING",
            filter=lambda record: record["level"].name == "WARNING",
        )
        undo.callback(log.remove, sink)
        bar: Any = importlib.import_module("tqdm").tqdm
        undo.callback(setattr, bar, "__init__", bar.__init__)
        bar.__init__ = _disabled(bar.__init__)
        fx = logging.getLogger("torch.fx._symbolic_trace")
        undo.callback(fx.setLevel, fx.level)
        fx.setLevel(logging.ERROR)
        yield said


def _disabled(init: Callable[..., None]) -> Callable[..., None]:
    """tqdm's constructor, which shows nothing whatever its caller says."""

    @wraps(init)
    def without_bar(*args: Any, **kwargs: Any) -> None:
        init(*args, **(kwargs | {"disable": True}))

    return without_bar
