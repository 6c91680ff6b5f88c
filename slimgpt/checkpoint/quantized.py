"""A checkpoint with quantised weights, described: such weights are served, not pruned. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from slimgpt.checkpoint.reader import ConfigOnly, read_config, read_headers
from slimgpt.checkpoint.safety import inside, read_json
from slimgpt.errors import IntegrityError

METHOD = "compressed-tensors"
"""``quant_method`` of what ``slimgpt export quantized`` writes."""

_BITS = {"F4": 4, "F8_E4M3": 8, "F8_E5M2": 8, "I8": 8, "U8": 8, "BOOL": 8}
_BITS |= {"F16": 16, "BF16": 16, "I16": 16, "U16": 16, "F32": 32, "I32": 32, "U32": 32}
_BITS |= {"F64": 64, "I64": 64, "U64": 64}
_WHOLE = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class Quantized:
    """What config and headers of a quantised checkpoint say.

    Attributes:
        meta: its config; ``meta.dtype`` is that of what is not quantised.
        method: ``quant_method``, the library that packed the weights.
        format: how they are packed; None where the config does not say.
        weights: like ``int4 in groups of 128``; None where the config does not say.
        activations: like ``int8``; None where they are not quantised.
        files: the weight files, in the order of their names.
        weight_bytes: of all tensors.
    """

    meta: ConfigOnly
    method: str
    format: str | None
    weights: str | None
    activations: str | None
    files: tuple[Path, ...]
    weight_bytes: int

    def to_json(self) -> dict[str, Any]:
        """The ``quantization`` entry of ``slimgpt inspect --json``."""
        return {
            "method": self.method,
            "format": self.format,
            "weights": self.weights,
            "activations": self.activations,
            "weight_bytes": self.weight_bytes,
        }


def is_quantized(directory: Path) -> bool:
    """Whether config.json says that the weights are quantised."""
    return bool(read_json(inside(directory, directory / "config.json")).get("quantization_config"))


def read_quantized(directory: Path) -> Quantized:
    """Reads config and headers of a quantised checkpoint.

    Raises:
        IntegrityError: they are damaged, or disagree.
        UsageError: the architecture is not supported.
    """
    meta = read_config(directory, quantized=True)
    settings = read_json(directory / "config.json").get("quantization_config")
    if not isinstance(settings, dict) or not isinstance(settings.get("quant_method"), str):
        raise IntegrityError(f"{directory}/config.json: quantization_config names no quant_method")
    where, headers = read_headers(directory)
    if settings["quant_method"] == METHOD:
        _check(meta, headers)
    unknown = sorted({dtype for _, dtype in headers.values()} - _BITS.keys())
    if unknown:
        raise IntegrityError(f"{directory} holds {', '.join(unknown)} weights, which are not known")
    weights, activations = _described(settings)
    return Quantized(
        meta=meta,
        method=settings["quant_method"],
        format=settings["format"] if isinstance(settings.get("format"), str) else None,
        weights=weights,
        activations=activations,
        files=tuple(sorted(set(where.values()))),
        weight_bytes=sum(prod(size) * _BITS[dtype] // 8 for size, dtype in headers.values()),
    )


def _check(meta: ConfigOnly, headers: Mapping[str, tuple[tuple[int, ...], str]]) -> None:
    """Every weight is there, whole or packed; what is stored whole has the shape of the config."""
    expected = dict(meta.shape.outer_tensors())
    for index in range(len(meta.shape.layers)):
        for source in meta.family.layer_sources(meta.shape, index).values():
            expected[source.name] = source.shape
    for name, size in expected.items():
        if name in headers:
            if headers[name][0] != size:
                raise IntegrityError(
                    f"{meta.directory}: {name} is {list(headers[name][0])}, but config.json makes "
                    f"it {list(size)}"
                )
        elif f"{name}_packed" not in headers:
            raise IntegrityError(f"{meta.directory} lacks the weight {name}")
        # Without its scale a weight is loaded all the same, with numbers that were never written.
        rounded = name not in headers or headers[name][1] not in _WHOLE
        scale, _ = headers.get(f"{name}_scale", ((), ""))
        if rounded and not scale:
            raise IntegrityError(f"{meta.directory} lacks {name}_scale")


def _described(settings: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Weights and activations of the first group of compressed-tensors, in words."""
    groups = settings.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, dict) else None
    if not isinstance(group, dict):
        return None, None
    return _arguments(group.get("weights")), _arguments(group.get("input_activations"))


def _arguments(arguments: Any) -> str | None:
    if not isinstance(arguments, dict):
        return None
    words = f"{arguments.get('type')}{arguments.get('num_bits')}"
    if arguments.get("strategy") == "group":
        words += f" in groups of {arguments.get('group_size')}"
    return words
