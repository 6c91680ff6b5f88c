"""A checkpoint on disk: config and headers are checked at once, tensors are read when asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.onnx_export import is_onnx
from slimgpt.checkpoint.safety import inside, read_json, shard_path
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.families import Config, Family, WeightSource, family_of
from slimgpt.families.base import whole
from slimgpt.shape import ModelShape

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
MANIFEST = "slimgpt.json"
CARD = "README.md"
SOURCE_CARD = "SOURCE_README.md"
PICTURE, BOM, SIGNATURE = "widths.png", "bom.cdx.json", "model.sig"
MADE_ANEW = (PICTURE, BOM, SIGNATURE)
"""What we put beside a checkpoint about its very bytes: not to be handed on to the next one."""

BYTES_PER_VALUE = {"float32": 4, "float16": 2, "bfloat16": 2}
_STORED = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")
_COUNTS = (
    "hidden_size",
    "intermediate_size",
    "vocab_size",
    "head_dim",
    "num_attention_heads",
    "num_key_value_heads",
    "num_hidden_layers",
)
_LARGEST_SIZE = 2**31 - 1
_MOST_LAYERS = 10_000
_OTHER_WEIGHTS = (
    *(*_PICKLES, ".safetensors", ".index.json", ".h5", ".msgpack", ".gguf", ".ot", ".tflite"),
    *(".onnx", ".onnx_data", ".onnx.data"),
)


@dataclass(frozen=True, slots=True)
class ConfigOnly:
    """What config.json alone says: enough for plans and estimates.

    Attributes:
        directory: of the checkpoint.
        config: in the terms of a stock transformers class.
        family: adapter.
        shape: widths.
        dtype: of the stored weights, as torch spells it.
        stored_type: ``model_type`` as the file has it.
    """

    directory: Path
    config: Config
    family: Family
    shape: ModelShape
    dtype: str
    stored_type: str

    @property
    def bytes_per_value(self) -> int:
        return BYTES_PER_VALUE[self.dtype]

    @property
    def context_length(self) -> int | None:
        """Most positions the model was made for; None where the config does not say."""
        value = self.config.get("max_position_embeddings")
        return value if isinstance(value, int) else None


def read_config(directory: Path, *, quantized: bool = False) -> ConfigOnly:
    """Reads and checks config.json; no weights, no torch.

    Args:
        directory: of the checkpoint.
        quantized: take one with quantised weights too, to describe it.

    Raises:
        IntegrityError: it is damaged or contradicts itself.
        UsageError: the architecture is not supported.
    """
    raw = read_json(inside(directory, directory / "config.json"))
    _check_values(raw)
    try:
        family = family_of(raw, quantized=quantized)
        config = family.canonical(raw)
        shape = family.shape(config)
    except (TypeError, AttributeError, KeyError, IndexError) as reason:
        raise IntegrityError(f"{directory}/config.json is malformed: {reason}") from None
    dtype = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    if dtype not in BYTES_PER_VALUE:
        raise UsageError(f"{directory} is stored as {dtype}: supported are {_dtypes()}")
    return ConfigOnly(directory, config, family, shape, dtype, raw["model_type"])


def _check_values(config: Config) -> None:
    """What every family needs: names where names belong, and sizes that a model can have."""
    named = config.get("architectures")
    if named is not None and not (
        isinstance(named, list) and all(isinstance(name, str) for name in named)
    ):
        raise IntegrityError(f"config.json: architectures must be a list of names, not {named!r}")
    for key in _COUNTS:
        value = config.get(key)
        limit = _MOST_LAYERS if key == "num_hidden_layers" else _LARGEST_SIZE
        if isinstance(value, int) and value > limit:
            raise IntegrityError(
                f"config.json: {key} is {value}, beyond any model (at most {limit})"
            )
    if isinstance(config.get("rms_norm_eps"), float) and not 0 <= config["rms_norm_eps"] < 1:
        raise IntegrityError(f"config.json: rms_norm_eps can't be {config['rms_norm_eps']}")
    if config.get("max_position_embeddings") is not None:
        whole(config, "max_position_embeddings")


class Checkpoint:
    """A checkpoint whose headers have been checked against its config.

    Attributes:
        meta: what its config says.
        files: the weight files, in the order of their names.
    """

    def __init__(self, directory: Path) -> None:
        """Opens a checkpoint directory.

        Raises:
            IntegrityError: a shard is missing, damaged or outside the directory, or a sidecar is
                a link out of it; a weight is missing, unknown or of the wrong shape; the weights
                are pickled.
            UsageError: the architecture or the number format is not supported.
        """
        self.meta = read_config(directory)
        self._where, headers = read_headers(directory)
        self.files = sorted(set(self._where.values()))
        self._check(headers)
        dtypes = {dtype for _, dtype in headers.values()}
        if dtypes - set(_STORED):
            raise UsageError(
                f"{directory} holds {', '.join(sorted(dtypes - set(_STORED)))} weights: supported "
                f"are {_dtypes()}; prune first, quantise after"
            )
        # What is stored counts, whatever config.json says or leaves out.
        self.meta = replace(self.meta, dtype=_main_dtype(headers))
        self.sidecars()

    @property
    def directory(self) -> Path:
        return self.meta.directory

    @property
    def shape(self) -> ModelShape:
        return self.meta.shape

    def layer(self, index: int) -> dict[str, Tensor]:
        """The tensors of one decoder layer under their canonical names, as stored."""
        sources = self.meta.family.layer_sources(self.shape, index)
        return {name: self._read(source) for name, source in sources.items()}

    def tensor(self, index: int, name: str) -> Tensor:
        """One tensor of a decoder layer, by its canonical name, as stored."""
        return self._read(self.meta.family.layer_sources(self.shape, index)[name])

    def outer(self, name: str) -> Tensor:
        """A tensor outside the decoder layers: embedding, final norm or LM head."""
        return self._read(WeightSource(name, self.shape.outer_tensors()[name]))

    def stored(self) -> Iterator[tuple[str, Tensor]]:
        """Every stored tensor, one at a time, file by file."""
        for name in sorted(self._where, key=lambda n: (self._where[n], n)):
            yield name, self._read(WeightSource(name, ()))

    def sidecars(self) -> list[Path]:
        """Everything beside weights and config: tokenizer, templates, licence, as relative paths.

        Raises:
            IntegrityError: one is a link that leads out of the checkpoint, or to no file.
        """
        found = []
        for path in sorted(self.directory.rglob("*")):
            relative = path.relative_to(self.directory)
            if any(part.startswith(".") for part in relative.parts):
                continue
            if path.is_dir() and not path.is_symlink():
                continue
            if path.name.endswith(_OTHER_WEIGHTS) or str(relative) in ("config.json", MANIFEST):
                continue
            inside(self.directory, path)
            found.append(relative)
        return found

    def _read(self, source: WeightSource) -> Tensor:
        from safetensors import SafetensorError, safe_open

        path = self._where[source.name]
        try:
            with safe_open(path, framework="pt") as file:
                if source.stop is None:
                    return file.get_tensor(source.name)  # type: ignore[no-any-return]
                return file.get_slice(source.name)[source.start : source.stop]  # type: ignore[no-any-return]
        except (SafetensorError, OSError) as reason:
            raise IntegrityError(f"{path} can't be read: {reason}") from None

    def _expected(self) -> dict[str, tuple[int, ...]]:
        expected = dict(self.shape.outer_tensors())
        for i in range(len(self.shape.layers)):
            for source in self.meta.family.layer_sources(self.shape, i).values():
                expected[source.name] = source.shape
        return expected

    def _check(self, headers: dict[str, tuple[tuple[int, ...], str]]) -> None:
        expected = self._expected()
        for name, size in expected.items():
            if name not in headers:
                raise IntegrityError(f"{self.directory} lacks the weight {name}")
            if headers[name][0] != size:
                raise IntegrityError(
                    f"{self._where[name]}: {name} is {list(headers[name][0])}, but config.json "
                    f"makes it {list(size)}"
                )
        for name in headers:
            if name not in expected and not self.meta.family.ignorable(name, self.shape):
                raise IntegrityError(
                    f"{self._where[name]}: {name} is no weight of "
                    f"{self.meta.config.get('model_type')}; pruning would lose it"
                )


def read_headers(
    directory: Path,
) -> tuple[dict[str, Path], dict[str, tuple[tuple[int, ...], str]]]:
    """Where every tensor is, and its shape and stored dtype, from the files' headers."""
    from safetensors import SafetensorError, safe_open

    index = _index(directory)
    where: dict[str, Path] = {}
    headers: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in sorted(set(index.values())) if index else [_single(directory)]:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                    view = file.get_slice(name)
                    where[name] = path
                    headers[name] = (tuple(view.get_shape()), view.get_dtype())
        except (SafetensorError, OSError) as reason:
            raise IntegrityError(
                f"{path} is truncated or damaged ({reason}): download it again"
            ) from None
    for name, path in index.items():
        if where.get(name) != path:
            raise IntegrityError(f"{path} lacks {name}, which the shard index says it holds")
    return where, headers


def _index(directory: Path) -> dict[str, Path]:
    path = directory / INDEX
    # Where both exist, transformers loads the single file.
    if not path.exists() or (directory / SINGLE).exists():
        return {}
    weight_map: Any = read_json(inside(directory, path)).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise IntegrityError(f"{path} has no weight_map")
    return {str(name): shard_path(directory, shard) for name, shard in weight_map.items()}


def _single(directory: Path) -> Path:
    path = directory / SINGLE
    if path.exists() or path.is_symlink():
        return inside(directory, path)
    if is_onnx(directory):
        raise UsageError(
            f"{directory} is an ONNX export: give the MODEL that it was made from, or run it with "
            "slimgpt generate, serve or evaluate"
        )
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in _PICKLES)
    if pickles:
        raise IntegrityError(
            f"{directory} holds pickled weights ({pickles[0]}), which can run code when loaded and "
            "are not read: convert them to safetensors with save_pretrained of a trusted model"
        )
    raise IntegrityError(f"{directory} has neither {SINGLE} nor {INDEX}: download it again")


def _main_dtype(headers: dict[str, tuple[tuple[int, ...], str]]) -> str:
    """The number format that most values have."""
    values: Counter[str] = Counter()
    for size, dtype in headers.values():
        values[dtype] += prod(size)
    return _STORED[values.most_common(1)[0][0]]


def _dtypes() -> str:
    return ", ".join(sorted(BYTES_PER_VALUE))
