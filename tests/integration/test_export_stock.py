"""A stock export is the same function in every family, in transformers without slimgpt."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.checkpoint.writer import write_json
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.shape import LayerShape
from slimgpt_export.stock import StockOptions, StockResult, export_stock
from tests.recovering import quick_collections
from tests.stock_sources import Widths, write_source
from tests.tiny_models import (
    CALIBRATION,
    LENGTH,
    Case,
    Tiny,
    assert_same,
    load,
    logits,
    random_ids,
    write,
)

TEXT = random_ids(2, LENGTH, seed=1)


# Query heads, KV heads and FFN neurons of the four layers; hidden size 64, heads of 8 (or 16).
MHA: Widths = ((8, 8, 96), (5, 5, 40), (0, 0, 70), (3, 3, 0))
KEPT: Widths = ((8, 2, 96), (6, 2, 50), (2, 2, 33), (4, 2, 0))
GROUPS: Widths = ((8, 2, 96), (4, 1, 50), (0, 0, 33), (4, 1, 64))
BOTH: Widths = ((6, 2, 96), (4, 1, 50), (2, 2, 33), (3, 1, 96))
COPIED: Widths = ((6, 6, 96), (4, 1, 50), (0, 0, 0), (6, 2, 11))
EMPTY_FIRST: Widths = ((0, 0, 0), (2, 1, 50), (2, 2, 33), (4, 1, 96))
ALL_SLIDE = {
    "use_sliding_window": True,
    "sliding_window": 7,
    "layer_types": ["sliding_attention"] * 4,
}
OTHERS = {
    "qwen2-all-windows": Case("qwen2", ALL_SLIDE),
    "qwen3-all-windows": Case("qwen3", ALL_SLIDE | {"head_dim": 16}),
    "llama-ffn-biases": Case("llama", {"mlp_bias": True}),
}


@dataclass(frozen=True)
class Export:
    """A model of these widths, the class that it becomes, and its widths there."""

    name: str
    widths: Widths
    architecture: str
    padded: tuple[int, int, int] | None = None

    def __str__(self) -> str:
        return f"{self.name}-{'.'.join(map(str, self.widths[0]))}-{len(set(self.widths))}"


def same(*widths: int) -> Widths:
    return ((widths[0], widths[1], widths[2]),) * 4


EXPORTS = [
    Export("llama-mha", MHA, "LlamaForCausalLM", (8, 8, 96)),
    Export("llama-mha", BOTH, "MistralForCausalLM", (6, 2, 96)),
    Export("llama-mha", COPIED, "MistralForCausalLM", (6, 6, 96)),
    Export("llama-biases", KEPT, "LlamaForCausalLM", (8, 2, 96)),
    Export("llama-biases", COPIED, "LlamaForCausalLM", (8, 8, 96)),
    Export("llama-ffn-biases", EMPTY_FIRST, "LlamaForCausalLM", (4, 2, 96)),
    Export("llama-tied", EMPTY_FIRST, "LlamaForCausalLM", (4, 2, 96)),
    Export("llama-bfloat16", GROUPS, "LlamaForCausalLM", (8, 2, 96)),
    Export("llama-sharded", KEPT, "LlamaForCausalLM", (8, 2, 96)),
    Export("rope-longrope", BOTH, "MistralForCausalLM", (6, 2, 96)),
    Export("old-rope-llama3", MHA, "LlamaForCausalLM", (8, 8, 96)),
    Export("vicuna", COPIED, "MistralForCausalLM", (6, 6, 96)),
    Export("mistral", COPIED, "MistralForCausalLM", (6, 6, 96)),
    Export("mistral-window", GROUPS, "MistralForCausalLM", (8, 2, 96)),
    Export("mistral-window", BOTH, "MistralForCausalLM", (6, 2, 96)),
    Export("qwen2", KEPT, "Qwen2ForCausalLM", (8, 2, 96)),
    Export("qwen2", EMPTY_FIRST, "LlamaForCausalLM", (4, 2, 96)),
    Export("qwen2-all-windows", EMPTY_FIRST, "Qwen2ForCausalLM", (8, 2, 96)),
    Export("qwen3", BOTH, "Qwen3ForCausalLM", (6, 2, 96)),
    Export("qwen3", COPIED, "Qwen3ForCausalLM", (6, 6, 96)),
    Export("qwen3-all-windows", MHA, "Qwen3ForCausalLM", (8, 8, 96)),
    Export("llama-mha", same(4, 4, 50), "LlamaForCausalLM"),
    Export("llama-mha", same(6, 3, 50), "MistralForCausalLM"),
    Export("llama-biases", same(4, 2, 50), "LlamaForCausalLM"),
    Export("llama-biases", same(6, 2, 50), "LlamaForCausalLM", (8, 2, 50)),
    Export("mistral-window", same(6, 2, 50), "MistralForCausalLM"),
    Export("qwen2", same(8, 2, 50), "Qwen2ForCausalLM"),
    Export("qwen2", same(4, 2, 50), "LlamaForCausalLM"),
    Export("qwen2", same(6, 2, 50), "Qwen2ForCausalLM", (8, 2, 50)),
    Export("qwen3", same(6, 2, 50), "Qwen3ForCausalLM"),
]

LOAD_WITHOUT_SLIMGPT = """
import importlib.abc, json, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith("slimgpt"):
            raise ModuleNotFoundError(f"{name} is not there")
sys.meta_path.insert(0, Blocked())
import torch, transformers
from safetensors.torch import save_file
torch.set_num_threads(1)
ids, out, *checkpoints = sys.argv[1:]
ids = torch.tensor(json.loads(ids))
logits = {}
for path in checkpoints:
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()
    with torch.no_grad():
        logits[path] = model(ids).logits
assert not [m for m in sys.modules if m.startswith("slimgpt")]
save_file(logits, out)
"""


class Exports:
    """Writes each model of its widths once, and exports it once."""

    def __init__(self, tiny: Tiny, root: Path) -> None:
        self._tiny, self._root = tiny, root
        self._done: dict[str, tuple[Path, StockResult]] = {}

    def dense(self, name: str) -> Path:
        if name not in OTHERS:
            return self._tiny.dense(name).path
        folder = self._root / name
        return folder / "dense" if folder.exists() else write(OTHERS[name], folder).path

    def source(self, export: Export) -> Path:
        """A checkpoint with per-layer widths and weights of its own."""
        path = self._root / f"source-{export}"
        if not path.exists():
            write_source(self.dense(export.name), export.widths, path)
        return path

    def result(self, export: Export) -> StockResult:
        key = str(export)
        if key not in self._done:
            source = self.source(export)
            options = StockOptions(pad=export.padded is not None, device="cpu")
            result = export_stock(source, self._root / f"stock-{export}", options)
            self._done[key] = (source, result)
        return self._done[key][1]


@pytest.fixture(scope="module")
def exports(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exports]:
    with quick_collections():
        yield Exports(tiny, tmp_path_factory.mktemp("exports"))


every_export = pytest.mark.parametrize("export", EXPORTS, ids=str)


@every_export
def test_an_export_is_the_same_function(exports: Exports, export: Export) -> None:
    result = exports.result(export)
    assert_same(logits(load(result.out), TEXT), logits(load(exports.source(export)), TEXT))
    assert result.parity
    assert result.parity.relative < 1e-4


def test_an_export_is_the_same_where_slimgpt_is_not_installed(
    exports: Exports, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    """One of each class and way of padding, in one process: a process costs more than a model."""
    chosen = {(e.architecture, e.padded is None): e for e in EXPORTS}.values()
    sources = {str(exports.result(e).out): exports.source(e) for e in chosen}
    out = tmp_path / "logits.safetensors"
    arguments = [str(TEXT.tolist()), str(out), *sources]
    subprocess.run([sys.executable, "-I", "-c", LOAD_WITHOUT_SLIMGPT, *arguments], check=True)
    for path, found in load_file(out).items():
        with subtests.test(path):
            assert_same(found, logits(load(sources[path]), TEXT))


@every_export
def test_an_export_has_a_stock_class_and_one_width(exports: Exports, export: Export) -> None:
    result = exports.result(export)
    config = json.loads((result.out / "config.json").read_text())
    assert config["architectures"] == [export.architecture]
    assert not [key for key in config if key in ("per_layer_config", "auto_map")]
    assert set(Checkpoint(result.out).shape.layers) == {
        LayerShape(*(export.padded or export.widths[0]))
    }
    assert Checkpoint(result.out).meta.dtype == Checkpoint(exports.source(export)).meta.dtype


@every_export
def test_vllm_would_read_the_same_head_width_and_windows(exports: Exports, export: Export) -> None:
    """vLLM's Qwen2 divides the hidden size by the heads; it takes windows of any config.json."""
    meta = Checkpoint(exports.result(export).out).meta
    if export.architecture == "Qwen2ForCausalLM":
        assert meta.shape.layers[0].query_heads * meta.shape.head_dim == meta.shape.hidden_size
    source = Checkpoint(exports.source(export)).meta
    windows = {source.family.sliding_window(source.config, i) for i in range(4)}
    assert {meta.family.sliding_window(meta.config, i) for i in range(4)} == windows
    if export.architecture == "LlamaForCausalLM":
        assert "sliding_window" not in meta.config


@pytest.mark.parametrize(
    "export",
    [e for e in EXPORTS if (e.name, e.widths) in (("qwen2", EMPTY_FIRST), ("qwen3", BOTH))],
    ids=str,
)
def test_an_export_can_be_pruned_on(exports: Exports, tmp_path: Path, export: Export) -> None:
    result = exports.result(export)
    options = PruneOptions(0.0, device="cpu")
    prune(result.out, tmp_path / "again", options, lambda _: CALIBRATION)
    assert_same(logits(load(tmp_path / "again"), TEXT), logits(load(result.out), TEXT))
    prune(result.out, tmp_path / "smaller", PruneOptions(0.3, device="cpu"), lambda _: CALIBRATION)
    assert Checkpoint(tmp_path / "smaller").shape.parameters < result.layout.shape.parameters


def test_what_a_qwen2_leaves_unsaid_means_the_same_in_a_llama(
    exports: Exports, tmp_path: Path
) -> None:
    from transformers import LlamaConfig, Qwen2Config

    export = next(e for e in EXPORTS if e.name == "qwen2" and e.widths == same(4, 2, 50))
    source = tmp_path / "source"
    write_source(exports.dense("qwen2"), export.widths, source)
    config = json.loads((source / "config.json").read_text())
    unsaid = ["max_position_embeddings", "bos_token_id", "eos_token_id", "rope_parameters"]
    unsaid += ["rms_norm_eps", "hidden_act", "use_sliding_window", "sliding_window", "layer_types"]
    config = {k: v for k, v in config.items() if k not in unsaid}
    write_json(source / "config.json", config)
    result = export_stock(source, tmp_path / "out", StockOptions(device="cpu"))
    assert result.layout.architecture == "LlamaForCausalLM"
    written: dict[str, Any] = json.loads((tmp_path / "out/config.json").read_text())
    stock = {"model_type": "qwen2", "per_layer_config": None}
    before = Qwen2Config.from_dict(config | stock).to_dict()
    after = LlamaConfig.from_dict(written).to_dict()
    changed = {key for key in before.keys() & after.keys() if before[key] != after[key]}
    assert changed <= {"architectures", "model_type", "transformers_version"}
