"""Whole layers dropped: the rest is untouched, and the model is the dense one that skips them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from slimgpt.checkpoint.reader import Checkpoint, read_config
from slimgpt.demo import CALIBRATION as CALIBRATION_FILE
from slimgpt.errors import IntegrityError, UsageError
from slimgpt.progress import Silent
from slimgpt.prune.activations import embed
from slimgpt.prune.depth import block_influence
from slimgpt.prune.driver import prune
from slimgpt.prune.forward import LayerForward
from slimgpt.prune.options import PruneOptions
from slimgpt.prune.run import EMBEDDING
from slimgpt.release.lineage import read_lineage
from slimgpt.release.recipe.load import load_recipe
from slimgpt.release.verify.verify import VerifyOptions, verify
from slimgpt.workspace import work_directory
from tests.command_line import Desk
from tests.integration.test_compress import MET, compress, write_recipe
from tests.masking import stored_tensors
from tests.tiny_models import (
    CALIBRATION,
    LAYERS,
    LENGTH,
    Tiny,
    assert_same,
    load,
    logits,
    random_ids,
)

TEXT = random_ids(3, LENGTH, seed=1)
FAMILIES = [
    *("llama-mha", "llama-biases", "llama-tied", "llama-bfloat16", "mistral-window"),
    *("qwen2-windows", "qwen3-windows", "baichuan", "old-rope-yarn"),
]


def manifest(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "slimgpt.json").read_text())  # type: ignore[no-any-return]


def skipping(dense: Path, dropped: list[int]) -> Any:
    """The dense model in which these layers add nothing to the residual stream."""
    model = load(dense)
    for i in dropped:
        layer = model.model.layers[i]
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            for parameter in projection.parameters():
                torch.nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_the_dense_model_that_skips_these_layers(tiny: Tiny, name: str) -> None:
    dense = tiny.dense(name)
    out = tiny.pruned(dense.path, 0.5, method="depth")
    dropped = manifest(out)["recipe"]["dropped_layers"]
    assert len(dropped) == LAYERS // 2
    actual, expected = (logits(m, TEXT) for m in (load(out), skipping(dense.reference, dropped)))
    assert_same(actual, expected)
    unpruned = logits(load(dense.reference), TEXT)
    assert (actual - unpruned).std() > 0.01 * unpruned.std(), "the comparison shows nothing"


@pytest.mark.parametrize("name", ["llama-mha", "qwen2-windows", "qwen3-windows"])
def test_the_config_changes_in_nothing_but_the_layers(tiny: Tiny, name: str) -> None:
    dense = tiny.dense(name).path
    source, out = (
        json.loads((x / "config.json").read_text())
        for x in (dense, tiny.pruned(dense, 0.5, method="depth"))
    )
    changed = {key for key in source.keys() | out.keys() if source.get(key) != out.get(key)}
    assert changed <= {"num_hidden_layers", "layer_types", "max_window_layers"}


def test_the_layers_left_are_stored_as_they_were(tiny: Tiny) -> None:
    dense = tiny.dense("llama-bfloat16").path
    out = tiny.pruned(dense, 0.25, method="depth")
    (gone,) = manifest(out)["recipe"]["dropped_layers"]
    before, after = stored_tensors(dense), stored_tensors(out)
    kept = [i for i in range(LAYERS) if i != gone]
    for name, tensor in after.items():
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(kept[int(parts[2])])
        assert torch.equal(tensor, before[".".join(parts)]), name


def test_the_influence_is_one_minus_the_mean_cosine_of_hidden_states(tiny: Tiny) -> None:
    dense = tiny.dense("llama-mha").path
    checkpoint = Checkpoint(dense)
    meta = checkpoint.meta
    forward = LayerForward(meta.family, meta.config, LENGTH, torch.device("cpu"), torch.float64)
    states = embed(TEXT, checkpoint.outer(EMBEDDING), torch.float64, torch.device("cpu"), None)
    model = load(dense)
    seen: list[torch.Tensor] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda _m, x, y: seen.extend([x[0], y]))
    logits(model, TEXT)
    for i in range(LAYERS):
        layer = forward.layer(checkpoint.shape, i, checkpoint.layer(i))
        cosines = torch.nn.functional.cosine_similarity(seen[2 * i], seen[2 * i + 1], dim=-1)
        assert block_influence(layer, states) == pytest.approx(1 - float(cosines.mean()), abs=1e-5)


def test_the_least_influential_layers_go(tiny: Tiny) -> None:
    told = manifest(tiny.pruned(tiny.dense("llama-mha").path, 0.5, method="depth"))
    influence, dropped = told["quality"]["influence"], told["recipe"]["dropped_layers"]
    assert len(influence) == LAYERS
    kept = [x for i, x in enumerate(influence) if i not in dropped]
    assert max(influence[i] for i in dropped) <= min(kept)


def test_what_is_made_of_it_tells_why_these_layers_went(tiny: Tiny) -> None:
    out = tiny.pruned(tiny.dense("llama-mha").path, 0.5, method="depth")
    kept = read_lineage(Checkpoint(out), "x", "0" * 64)
    assert kept.quality == {"influence": manifest(out)["quality"]["influence"]}
    assert kept.recipe["dropped_layers"] == manifest(out)["recipe"]["dropped_layers"]


def test_it_verifies(tiny: Tiny) -> None:
    dense = tiny.dense("llama-mha").path
    found = verify(tiny.pruned(dense, 0.5, method="depth"), VerifyOptions(source=dense))
    assert not found.failed
    assert {"files", "shape", "parameters", "source"} <= {
        check.check for check in found.checks if check.status == "passed"
    }


def test_dropping_nothing_is_bit_identical(tiny: Tiny) -> None:
    dense = tiny.dense("llama-mha").path
    out = tiny.pruned(dense, 0.0, method="depth")
    before, after = stored_tensors(dense), stored_tensors(out)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert manifest(out)["recipe"]["dropped_layers"] == []


class _Stopped(Exception):
    pass


class _StopWhen(Silent):
    """Ends the run at an event."""

    def __init__(self, stage: str, *, over: bool) -> None:
        self.stage, self.over, self.running = stage, over, ""

    def start(self, stage: str, total: int) -> None:
        self.running = stage
        if stage == self.stage and not self.over:
            raise _Stopped

    def finish(self) -> None:
        if self.running == self.stage and self.over:
            raise _Stopped

    def record(self, event: str, fields: Mapping[str, Any]) -> None:
        """Is told of nothing."""


def run(dense: Path, out: Path, **more: Any) -> None:
    options = PruneOptions(0.5, "depth", device="cpu", activations="memory")
    prune(dense, out, options, lambda _: CALIBRATION, **more)


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("stage", ["measuring layers", "copying layers", "writing checkpoint"])
def test_a_run_stopped_anywhere_ends_with_the_same_bytes(
    tiny: Tiny, tmp_path: Path, stage: str, over: bool
) -> None:
    dense = tiny.dense("llama-mha").path
    run(dense, tmp_path / "whole")
    with pytest.raises(_Stopped):
        run(dense, tmp_path / "out", progress=_StopWhen(stage, over=over))
    run(dense, tmp_path / "out")
    files = sorted(p.name for p in (tmp_path / "whole").iterdir())
    assert files == sorted(p.name for p in (tmp_path / "out").iterdir())
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not work_directory(tmp_path / "out").exists()


@pytest.mark.parametrize(
    "record", ["[", "{}", '{"influence": [0.1]}', '{"influence": ["a", "b", "c", "d"]}']
)
def test_a_damaged_record_of_the_influence_is_told(tiny: Tiny, tmp_path: Path, record: str) -> None:
    dense, out = tiny.dense("llama-mha").path, tmp_path / "out"
    with pytest.raises(_Stopped):
        run(dense, out, progress=_StopWhen("copying layers", over=False))
    (work_directory(out) / "influence.json").write_text(record)
    with pytest.raises(IntegrityError, match=r"influence\.json is damaged: start again with"):
        run(dense, out)


def test_another_ratio_does_not_go_on_with_the_work(tiny: Tiny, tmp_path: Path) -> None:
    dense, out = tiny.dense("llama-mha").path, tmp_path / "out"
    with pytest.raises(_Stopped):
        run(dense, out, progress=_StopWhen("copying layers", over=True))
    with pytest.raises(UsageError, match=r"another recipe\.ratio"):
        prune(dense, out, PruneOptions(0.25, "depth", device="cpu"), lambda _: CALIBRATION)


DEPTH = ("--method", "depth", "--ratio", "0.5")


def test_the_command_tells_the_ratio_that_layers_come_to(desk: Desk) -> None:
    done = desk.run(desk.prune(*DEPTH, "--json"))
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout)["ratio"] == {"asked": 0.5, "achieved": 0.5}
    assert len(read_config(desk.out).shape.layers) == 1
    card = (desk.out / "README.md").read_text()
    assert "whole layers dropped by their block influence" in card
    assert "| layers dropped | " in card


def test_the_plan_of_a_depth_run_has_fewer_layers(desk: Desk) -> None:
    done = desk.run(["plan", str(desk.model), *DEPTH, "--json"])
    assert done.code == 0, done.stderr
    assert len(json.loads(done.stdout)["planned"]["shape"]["layers"]) == 1
    assert desk.run(["plan", str(desk.model), *DEPTH]).code == 0


def test_a_recipe_may_drop_layers(desk: Desk) -> None:
    prune_section = {"ratio": 0.5, "method": "depth", "calibration": str(CALIBRATION_FILE)}
    prune_section |= {"samples": 8, "sequence_length": 32}
    met = MET | {"perplexity_increase": 1000.0, "kl": 1000.0}
    path = write_recipe(desk, prune=prune_section, recover=None, gates=met)
    shown = desk.run(compress(desk, "--dry-run"))
    assert shown.code == 0, shown.stderr
    done = desk.run(compress(desk))
    assert done.code == 0, done.stderr
    assert manifest(desk.out)["recipe"]["method"] == "depth"
    assert verify(desk.out, VerifyOptions(source=desk.model, quick=True)).failed == []
    document = load_recipe(path, files=False).to_document()
    path.write_text(yaml.safe_dump(document))
    assert load_recipe(path, files=False).to_document() == document


def test_a_recipe_that_gives_widths_to_depth_is_refused(desk: Desk) -> None:
    section = {"ratio": 0.5, "method": "depth", "align": 8, "calibration": str(CALIBRATION_FILE)}
    write_recipe(desk, prune=section, recover=None)
    desk.refuses(compress(desk), 2, "prune.align: prune.method depth changes no width")


def test_a_schedule_means_nothing_to_depth(desk: Desk) -> None:
    given = desk.prune(*DEPTH, "--schedule", "log")
    desk.refuses(given, 2, "changes no width: leave out --schedule")
