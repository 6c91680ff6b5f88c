"""Exports of a recipe that are checkpoints of their own: checked first, made last, made once."""

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from slimgpt.demo import CALIBRATION, EVALUATION
from slimgpt.release.manifest import read_manifest
from slimgpt.release.recipe.load import load_recipe
from slimgpt_export import quantize_llmcompressor
from tests.command_line import ENVIRONMENT, INTEGRITY, USAGE, Desk
from tests.integration.test_compress import GATE, compress, report, write_recipe
from tests.releases import verify

needs_quantize = pytest.mark.skipif(
    importlib.util.find_spec("llmcompressor") is None, reason="needs the extra quantize"
)
STOCK: dict[str, Any] = {"format": "stock", "out": "stock", "pad": True}
ONNX: dict[str, Any] = {"format": "onnx", "out": "onnx", "precision": "int8"}
FP8: dict[str, Any] = {"format": "quantized", "out": "fp8", "scheme": "fp8"}


def write(desk: Desk, *exports: dict[str, Any], **changes: Any) -> None:
    """A recipe that only prunes, with these exports."""
    plain = {"recover": None, "evaluate": None, "gates": {"weight_bytes": 1.0}}
    write_recipe(desk, exports=[{"format": "cyclonedx"}, *exports], **(plain | changes))


def state(path: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in sorted(path.rglob("*"))}


@needs_quantize
def test_each_is_made_of_the_release_and_verified(desk: Desk) -> None:
    texts = {"texts": [{"file": str(EVALUATION), "window": 64}]}
    write(desk, STOCK, FP8 | {"max_kl": 1.0}, evaluate=texts, gates={"kl": 9.0})
    ended = desk.run(compress(desk, "--json", "--quiet"))
    assert ended.code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert [(e["made"], e["error"]) for e in document["exports"]] == [(True, None)] * 2
    stages = [s["stage"] for s in document["stages"]]
    assert stages[-3:] == ["release", "export stock", "export fp8"]
    for name in ("stock", "fp8"):
        desk.out = desk.root / name
        ended, found = verify(desk, "--source", desk.model)
        assert (ended.code, found["verified"]) == (0, True), found
    release = read_manifest(desk.root / "out") or {}
    made = read_manifest(desk.root / "fp8") or {}
    assert made["source"] == release["source"]
    windows = made["recipe"]["calibration"]["windows_sha256"]
    assert windows == release["recipe"]["calibration"]["windows_sha256"]
    summary = (desk.root / "out.report" / "summary.txt").read_text()
    assert f"exported to {desk.root}/stock, {desk.root}/fp8" in " ".join(summary.split())
    assert not list(desk.root.glob("*.partial"))


def test_graphs_are_made_of_the_release_and_verified(desk: Desk) -> None:
    fp32 = {"format": "onnx", "out": "onnx-fp32", "precision": "fp32"}
    write(desk, ONNX | {"keep": "head"}, fp32)
    ended = desk.run(compress(desk, "--json", "--quiet"))
    assert ended.code == 0, ended.stderr
    document = json.loads(ended.stdout)
    assert [(e["made"], e["error"]) for e in document["exports"]] == [(True, None)] * 2
    release = read_manifest(desk.root / "out") or {}
    for name, precision in (("onnx", "int8"), ("onnx-fp32", "fp32")):
        made = read_manifest(desk.root / name) or {}
        assert made["source"] == release["source"]
        assert made["shape"] == release["shape"]
        assert made["recipe"]["export"]["precision"] == precision
        assert made["quality"]["export"]["parity"]["decode"]["positions"] == 16
        assert desk.run(["verify", str(desk.root / name), "--quiet"]).code == 0
    assert (read_manifest(desk.root / "onnx") or {})["recipe"]["export"]["keep"] == ["head"]
    assert not list(desk.root.glob("*.partial"))


@pytest.mark.parametrize(
    ("device", "checked"), [("cuda:1", "auto"), ("auto", "auto"), ("cpu",) * 2]
)
def test_a_gpu_that_prunes_is_none_that_a_graph_must_run_on(
    device: str, checked: str, desk: Desk
) -> None:
    from slimgpt.compress import exports
    from slimgpt.compress.settings import Settings

    write(desk, ONNX)
    recipe = load_recipe(desk.root / "release.yaml")
    [export] = [x for x in recipe.exports if x.out]
    assert exports._onnx_options(export, recipe, Settings(device=device)).device == checked


def test_nothing_is_exported_that_missed_a_gate(desk: Desk) -> None:
    write(desk, STOCK, gates={"weight_bytes": 0.1})
    assert desk.run(compress(desk)).code == GATE
    assert not (desk.root / "stock").exists()
    assert report(desk)["exports"] == [
        {"format": "stock", "out": str(desk.root / "stock"), "made": False, "error": None}
    ]


@needs_quantize
def test_one_that_fails_ends_with_its_code_and_the_same_command_makes_what_is_missing(
    desk: Desk,
) -> None:
    write(desk, STOCK, FP8 | {"max_kl": 0.0})
    ended = desk.run(compress(desk, "--quiet"))
    assert (ended.code, ended.stdout) == (GATE, "")
    (line,) = ended.stderr.splitlines()
    assert f"export {desk.root}/fp8 was not made, though {desk.out} is: KL(" in line
    assert "above exports.max_kl 0" in line
    stock, fp8 = report(desk)["exports"]
    assert (stock["made"], fp8["made"]) == (True, False)
    assert "above exports.max_kl 0" in fp8["error"]
    assert f"NOT MADE {desk.root}/fp8" in (desk.root / "out.report" / "summary.txt").read_text()
    before = state(desk.out) | state(desk.root / "stock")
    write(desk, STOCK, FP8 | {"max_kl": 1.0})
    assert desk.run(compress(desk, "--quiet")).code == 0
    assert state(desk.out) | state(desk.root / "stock") == before
    assert (desk.root / "fp8" / "slimgpt.json").exists()
    assert [s["reused"] for s in report(desk)["stages"]] == [False, True, True, True, False]


class _Stopped(BaseException):
    """As a kill would: nothing is caught on the way out."""


@pytest.fixture
def stopped(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Desk]:
    """A job that was killed at its export, before or after the export was published."""
    from slimgpt.compress import exports

    def stop(published: bool, export: dict[str, Any] = STOCK) -> Desk:
        write(desk, export)
        original = exports._write

        def killed(*args: Any, **options: Any) -> None:
            if published:
                original(*args, **options)
            raise _Stopped

        with monkeypatch.context() as patch:
            patch.setattr(exports, "_write", killed)
            with pytest.raises(_Stopped):
                desk.run(compress(desk, "--quiet"))
        assert desk.out.exists()
        assert (desk.root / export["out"]).exists() == published
        return desk

    return stop


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("export", [STOCK, ONNX | {"keep": "none"}], ids=["stock", "onnx"])
def test_a_job_that_was_killed_at_an_export_is_ended(
    stopped: Callable[..., Desk], published: bool, export: dict[str, Any]
) -> None:
    desk = stopped(published, export)
    out = desk.root / export["out"]
    before = state(out)
    assert desk.run(compress(desk, "--quiet")).code == 0
    assert desk.run(["verify", str(out), "--quick", "--quiet"]).code == 0
    assert not published or state(out) == before
    assert not list(desk.root.glob("*.partial"))


def verify_stock(desk: Desk) -> bool:
    return desk.run(["verify", str(desk.root / "stock"), "--quick", "--quiet"]).code == 0


def test_an_export_that_is_no_longer_wanted_is_left_out(stopped: Callable[..., Desk]) -> None:
    desk = stopped(False)
    write(desk)
    assert desk.run(compress(desk, "--quiet")).code == 0
    assert not (desk.root / "stock").exists()


def test_what_came_to_lie_at_the_place_of_an_export_stays(
    stopped: Callable[..., Desk],
) -> None:
    desk = stopped(False)
    write(desk, STOCK | {"out": "other"})
    (desk.root / "other").mkdir()
    ended = desk.run(compress(desk, "--quiet"))
    assert ended.code == USAGE
    assert f"{desk.root}/other exists" in ended.stderr
    assert not list((desk.root / "other").iterdir())


@needs_quantize
def test_an_export_that_was_changed_since_is_told(desk: Desk) -> None:
    write(desk, STOCK, FP8 | {"max_kl": 0.0})
    assert desk.run(compress(desk, "--quiet")).code == GATE
    manifest = desk.root / "stock" / "slimgpt.json"
    manifest.write_text(manifest.read_text() + " ")
    ended = desk.run(compress(desk, "--quiet"))
    assert ended.code == INTEGRITY
    assert "stock was changed since it was made: remove it and run again" in ended.stderr
    shutil.rmtree(desk.root / "stock")
    write(desk, STOCK, FP8)
    assert desk.run(compress(desk, "--quiet")).code == 0
    assert verify_stock(desk)


# -- found before the first weight is read ---------------------------------------------------------


@pytest.mark.parametrize(
    ("export", "says"),
    [
        (STOCK | {"pad": False}, "can't hold: give exports.pad to fill up with zeros"),
        (
            {"format": "quantized", "out": "q", "scheme": "w4a16"},
            "exports.scheme w4a16: layer 0 down_proj reads",
        ),
        (FP8 | {"tensor_parallel": 16}, "exports.tensor_parallel 16 does not divide layer 0"),
        (ONNX | {"portable": True}, "exports.portable exports.precision int8"),
        (STOCK | {"out": "out"}, "and OUT"),
        (STOCK | {"out": "out/stock"}, "and OUT"),
        (STOCK | {"out": "model/stock"}, "and MODEL"),
        (STOCK | {"out": "out.report/stock"}, "and --report"),
        (STOCK | {"out": "colours.jsonl"}, "colours.jsonl exists"),
    ],
)
@pytest.mark.parametrize("dry", [True, False])
def test_an_export_that_can_t_be_made_is_refused(
    desk: Desk, export: dict[str, Any], says: str, dry: bool
) -> None:
    write(desk, export)
    desk.refuses(compress(desk, *["--dry-run"] * dry), USAGE, says)


def test_exports_within_each_other_are_refused(desk: Desk) -> None:
    write(desk, STOCK, FP8 | {"out": "stock/fp8"})
    desk.refuses(compress(desk), USAGE, "and another export", "overlap")


@needs_quantize
def test_a_missing_extra_is_named(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize_llmcompressor, "find_spec", lambda _: None)
    write(desk, FP8)
    desk.refuses(compress(desk), ENVIRONMENT, "slimgpt[quantize]")


@needs_quantize
def test_text_with_nothing_to_hold_out_is_refused(desk: Desk) -> None:
    rows = CALIBRATION.read_text().splitlines(keepends=True)[:2]
    (desk.root / "few.jsonl").write_text("".join(rows))
    prune = {"ratio": 0.25, "calibration": "few.jsonl", "samples": 8, "sequence_length": 32}
    write(desk, FP8, prune=prune | {"samples": 64})
    desk.refuses(compress(desk), USAGE, "prune.samples")


def test_a_dry_run_names_the_exports(desk: Desk) -> None:
    write(desk, STOCK)
    ended = desk.run(compress(desk, "--dry-run", "--json"))
    assert ended.code == 0, ended.stderr
    assert json.loads(ended.stdout)["exports"] == [str(desk.root / "stock")]
    shown = " ".join(desk.run(compress(desk, "--dry-run")).stdout.split())
    assert "The time is without the exports to" in shown
