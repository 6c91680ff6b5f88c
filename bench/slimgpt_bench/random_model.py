"""Checkpoints with random weights of a given shape: for what depends on widths alone."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.reader import INDEX
from slimgpt.checkpoint.writer import SHARD_BYTES, write_durably, write_json
from slimgpt.errors import EnvironmentProblem
from slimgpt.families.llama import Llama
from slimgpt.shape import ModelShape

if TYPE_CHECKING:
    from torch import Tensor

BOS, EOS, UNKNOWN = 0, 1, 2
VALUE_BYTES = 2


def llama_config(shape: ModelShape, context: int) -> dict[str, Any]:
    """config.json of a dense Llama of uniform shape, in bfloat16."""
    layer = shape.layers[0]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden_size,
        "intermediate_size": layer.ffn,
        "num_attention_heads": layer.query_heads,
        "num_key_value_heads": layer.kv_heads,
        "head_dim": shape.head_dim,
        "num_hidden_layers": len(shape.layers),
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-6,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "dtype": "bfloat16",
    }


def make_random_model(
    directory: Path, dense: ModelShape, shape: ModelShape, *, context: int, seed: int, device: str
) -> None:
    """Writes a checkpoint, in a process that leaves nothing on the device.

    Args:
        directory: must not exist.
        dense: uniform; what ``shape`` was planned from.
        shape: of the checkpoint.
        context: tokens.
        seed: of the weights.
        device: where they are drawn.

    Raises:
        EnvironmentProblem: the process died.
    """
    directory.mkdir(parents=True)
    config = Llama().pruned_config(llama_config(dense, context), shape)
    process = multiprocessing.get_context("spawn").Process(
        target=_write, args=(directory, shape, seed, device)
    )
    process.start()
    process.join()
    if process.exitcode:
        raise EnvironmentProblem(f"{directory} can't be made: its process ended with an error")
    _write_tokenizer(directory, shape.vocab_size)
    write_json(directory / "config.json", config)  # last: it marks the model as whole


def _write(directory: Path, shape: ModelShape, seed: int, device: str) -> None:
    """Shards of about a GiB, each drawn, written and forgotten."""
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    weight_map: dict[str, str] = {}
    total = 0
    for number, names in enumerate(_shards(shape), 1):
        tensors = {name: _draw(size, generator, device) for name, size in names.items()}
        file = f"model-{number:05}.safetensors"
        write_durably(directory / file, tensors, {})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(x.nbytes for x in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_json(directory / INDEX, index)


def _shards(shape: ModelShape) -> Iterator[dict[str, tuple[int, ...]]]:
    """Names and sizes of the tensors of each shard."""
    blocks = [shape.outer_tensors()]
    for i, layer in enumerate(shape.layers):
        prefix = f"model.layers.{i}."
        blocks.append({prefix + n: s for n, s in shape.layer_tensors(layer).items()})
    shard: dict[str, tuple[int, ...]] = {}
    for block in blocks:
        shard |= block
        if sum(_values(s) for s in shard.values()) * VALUE_BYTES >= SHARD_BYTES:
            yield shard
            shard = {}
    if shard:
        yield shard


def _values(size: tuple[int, ...]) -> int:
    return size[0] if len(size) == 1 else size[0] * size[1]


def _draw(size: tuple[int, ...], generator: Any, device: str) -> Tensor:
    """Weights that keep the residual stream's scale, so that greedy tokens are not all alike."""
    import torch

    if len(size) == 1:
        return torch.ones(size, dtype=torch.bfloat16)
    drawn = torch.randn(size, generator=generator, device=device, dtype=torch.float32)
    scaled: Tensor = drawn * size[1] ** -0.5
    return scaled.to(torch.bfloat16).cpu()


def _write_tokenizer(directory: Path, vocabulary: int) -> None:
    """A word a token, which is all that benchmarks of random tokens need."""
    from tokenizers import Tokenizer, decoders
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit

    words = {"<s>": BOS, "</s>": EOS, "<unk>": UNKNOWN}
    words |= {f"t{i}": i for i in range(len(words), vocabulary)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))  # noqa: S106, RUF100
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    write_json(directory / "tokenizer_config.json", settings)
