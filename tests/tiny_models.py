"""Tiny checkpoints of every family, written by transformers' own classes, and pruning runs on them.

Hidden size 64, 4 layers, 128 tokens; weights so large that every sub-block moves the logits.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from slimgpt.calibration import Calibration
from slimgpt.planning import Constraints, Plan
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.shape import LayerShape, ModelShape

VOCABULARY, HIDDEN, LAYERS, FFN = 128, 64, 4, 96
LENGTH = 24
"""Tokens of a text: longer than the sliding windows and than the reach of unscaled rope below."""

SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
MHA = {"num_key_value_heads": 8}
ROPES: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 16},
    "longrope": {
        "short_factor": [1.0, 1.1, 1.3, 1.6],
        "long_factor": [1.0, 2.0, 3.0, 4.0],
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


@dataclass(frozen=True)
class Case:
    """A checkpoint to write: its class, what its config adds to SHAPE, and how it is stored.

    Attributes:
        model_type: of the transformers class that writes it.
        config: entries of the config.
        dtype: of the stored weights.
        shard: largest shard, as save_pretrained has it.
        rewrite: changes the finished directory into what an older or foreign tool wrote.
    """

    model_type: str
    config: dict[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    shard: str = "1GB"
    rewrite: Callable[[Path], None] | None = None


@dataclass(frozen=True)
class Dense:
    """A written case: the directory, and one of the same function that transformers loads."""

    path: Path
    reference: Path


def _old_rope(path: Path) -> None:
    """The spelling before transformers 5: ``rope_scaling`` and ``rope_theta``."""
    config = json.loads((path / "config.json").read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    if rope["rope_type"] in ("linear", "dynamic"):  # the oldest key of all
        rope["type"] = rope.pop("rope_type")
    config["torch_dtype"] = config.pop("dtype")
    (path / "config.json").write_text(json.dumps(config))


def _vicuna(path: Path) -> None:
    """A config.json of early 2023, by hand, and the rotary buffers that were stored then."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": FFN,
        "max_position_embeddings": 64,
        "model_type": "llama",
        "num_attention_heads": 8,
        "num_hidden_layers": LAYERS,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.28.1",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    (path / "config.json").write_text(json.dumps(config))
    weights = load_file(path / "model.safetensors")
    for i in range(LAYERS):
        weights[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.rand(4)
    save_file(weights, path / "model.safetensors", {"format": "pt"})


def _baichuan(path: Path) -> None:
    """A Llama with q, k and v in one matrix, and the config and code that Baichuan-7B brings."""
    weights = load_file(path / "model.safetensors")
    for i in range(LAYERS):
        block = f"model.layers.{i}.self_attn."
        parts = [weights.pop(f"{block}{letter}_proj.weight") for letter in "qkv"]
        weights[f"{block}W_pack.weight"] = torch.cat(parts)
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    sizes = {k: SHAPE[k] for k in SHAPE if k != "num_key_value_heads"}
    own = {
        "architectures": ["BaiChuanForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_baichuan.BaiChuanConfig",
            "AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM",
        },
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_act": "silu",
        "model_type": "baichuan",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }
    (path / "config.json").write_text(json.dumps(sizes | own))
    for module in ("configuration", "modeling", "tokenization"):
        (path / f"{module}_baichuan.py").write_text("raise SystemExit('code of a checkpoint ran')")
    settings = {
        "auto_map": {"AutoTokenizer": ["tokenization_baichuan.BaiChuanTokenizer", None]},
        "tokenizer_class": "BaiChuanTokenizer",
        "add_bos_token": False,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings))


def _rope(kind: str) -> dict[str, Any]:
    rope = {"rope_parameters": {"rope_type": kind, "rope_theta": 500.0, **ROPES[kind]}}
    # Dynamic scaling begins beyond the positions of the config; here that is within a text.
    return rope | ({"max_position_embeddings": 16} if kind == "dynamic" else {})


CASES: dict[str, Case] = {
    "llama-mha": Case("llama", MHA),
    "llama-biases": Case("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": Case("llama", {"tie_word_embeddings": True}),
    "llama-bfloat16": Case("llama", dtype=torch.bfloat16),
    "llama-sharded": Case("llama", dtype=torch.float16, shard="60KB"),
    "llama-gelu": Case("llama", {"hidden_act": "gelu", "rms_norm_eps": 1e-2, "head_dim": 16}),
    "vicuna": Case("llama", MHA, torch.float16, rewrite=_vicuna),
    "mistral": Case("mistral", {"sliding_window": None}),
    "mistral-window": Case("mistral", {"sliding_window": 7}),
    "qwen2": Case("qwen2", {"tie_word_embeddings": True}),
    "qwen2-windows": Case(
        "qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 2}
    ),
    "qwen3": Case("qwen3", {"head_dim": 16, "num_attention_heads": 6}),
    "qwen3-windows": Case(
        "qwen3",
        {
            "head_dim": 16,
            "use_sliding_window": True,
            "sliding_window": 7,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
        },
    ),
    "baichuan": Case("llama", MHA, torch.bfloat16, rewrite=_baichuan),
    **{f"rope-{kind}": Case("llama", _rope(kind)) for kind in ROPES},
    **{
        f"old-rope-{kind}": Case("llama", _rope(kind), rewrite=_old_rope)
        for kind in ROPES
        if kind != "default"  # vicuna has no rope entries at all
    },
}


def randomize(model: Any, seed: int) -> None:
    """Weights at which attention is uneven and every block moves the residual stream."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(1 + 0.2 * noise)
            elif "embed" in name:
                p.copy_(noise)
            elif p.ndim == 1:
                p.copy_(noise * 0.3)
            else:
                p.copy_(noise * (2 if "q_proj" in name else 1) / p.shape[1] ** 0.5)


def write(case: Case, path: Path) -> Dense:
    """Writes a case below ``path``."""
    config = AutoConfig.for_model(case.model_type, **(SHAPE | case.config))
    model = AutoModelForCausalLM.from_config(config)
    randomize(model, seed=sum(path.name.encode()))
    model.to(case.dtype)
    dense = Dense(path / "dense", path / ("llama" if case.rewrite is _baichuan else "dense"))
    for folder in {dense.path, dense.reference}:
        model.save_pretrained(folder, max_shard_size=case.shard)
    if case.rewrite:
        case.rewrite(dense.path)
    return dense


def load(path: Path, dtype: torch.dtype = torch.float64) -> Any:
    """A model as every user loads it."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=dtype).eval()


@torch.no_grad()
def logits(model: Any, ids: Tensor, **inputs: Any) -> Tensor:
    """Logits (batch, tokens, vocabulary) of one forward without a cache."""
    return model(ids, use_cache=False, **inputs).logits  # type: ignore[no-any-return]


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """Equal to within rounding: transformers' norms and rope compute in float32 at most."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * float(expected.std()))


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    """Token ids, none of which is special."""
    return torch.randint(3, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def write_rows(path: Path, count: int = 80, *, kinds: int = 8, shortest: int = LENGTH) -> Path:
    """A file of rows of ids to train on, of few kinds of tokens: easy to learn."""
    ids = (random_ids(count, LENGTH) % kinds + 3).tolist()
    lengths = range(shortest, LENGTH + 1)
    rows = [{"input_ids": row[: lengths[i % len(lengths)]]} for i, row in enumerate(ids)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


CALIBRATION = Calibration(random_ids(16, LENGTH), ("random",), 0)


@dataclass(frozen=True)
class ToShape(PruneOptions):
    """Options of a run whose target may be given layer by layer instead of planned from a ratio."""

    layers: tuple[LayerShape, ...] = ()

    def plan(self, shape: ModelShape) -> Plan:
        if not self.layers:
            return PruneOptions.plan(self, shape)
        plan = PruneOptions(0.0, constraints=self.constraints).plan(shape)
        return replace(plan, target=shape.with_layers(self.layers))


class Tiny:
    """Writes and prunes each checkpoint once for all tests of a process."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._dense: dict[str, Dense] = {}
        self._pruned: dict[tuple[Path, PruneOptions], Path] = {}
        self._numbers = count()

    def dense(self, name: str) -> Dense:
        """The checkpoint of a case."""
        if name not in self._dense:
            self._dense[name] = write(CASES[name], self._root / name)
        return self._dense[name]

    def pruned(
        self,
        source: Path,
        ratio: float = 0.3,
        *,
        layers: tuple[LayerShape, ...] = (),
        method: str = "exact",
        **constraints: Any,
    ) -> Path:
        """A checkpoint pruned by a ratio, or to the widths given for each layer."""
        options = ToShape(
            ratio,
            method=method,
            constraints=Constraints(**constraints),
            device="cpu",
            activations="memory",
            layers=layers,
        )
        if (source, options) not in self._pruned:
            out = self._root / f"pruned-{next(self._numbers)}"
            prune(source, out, options, lambda _: CALIBRATION)
            self._pruned[source, options] = out
        return self._pruned[source, options]
