"""A release on a desk, ``slimgpt verify`` of it, and ways to spoil it, as values of test tables."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from slimgpt.calibration import load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.checkpoint.writer import file_digests
from slimgpt.demo import CALIBRATION, EVALUATION
from slimgpt.evaluate.judge import judge
from slimgpt.evaluate.judgement import TaskOptions, TextSpec
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.release.card.card import CardFacts, write_card
from slimgpt.release.gates import evaluate_gates
from slimgpt.release.manifest import describe, read_manifest, seal
from slimgpt.release.recipe.sections import Gates
from tests.command_line import WEIGHTS, Desk, Ended
from tests.spoiling import Spoil

MANIFEST, CARD = "slimgpt.json", "README.md"
UNRESOLVED = 3
OWN, PLAIN, PARITY = "own.jsonl", "plain.txt", "parity.test.jsonl"


@dataclass(frozen=True)
class Release:
    """A pruned checkpoint with claims, and what they were measured on."""

    out: Path
    data: Path


def write_data(folder: Path) -> None:
    folder.mkdir()
    (folder / OWN).write_text("".join(EVALUATION.read_text().splitlines(keepends=True)[:6]))
    (folder / PLAIN).write_text("It was a bright cold day in April.\n" * 20)
    rows = [
        {"question": f"Number {i} is", "choices": ["even", "odd"], "label": i % 2}
        for i in range(32)
    ]
    (folder / PARITY).write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_release(root: Path, dense: Path, tasks: TaskOptions | None) -> Release:
    """What compress does, but for recovery."""
    made = Release(root / "out", root / "data")
    write_data(made.data)
    prune(
        dense,
        made.out,
        PruneOptions(0.25, device="cpu"),
        lambda c: load_calibration(c, [str(CALIBRATION)], samples=8, sequence_length=32, seed=0),
    )
    texts = [
        TextSpec(made.data / OWN, 64, "raw", f"data/{OWN}"),
        TextSpec(made.data / PLAIN, 32, "paper", f"data/{PLAIN}"),
    ]
    measured = rounded(judge(made.out, dense, texts, tasks, device="cpu").to_json())
    before, after = Checkpoint(dense).shape, Checkpoint(made.out).shape
    limits = {"perplexity_increase": 0.5, "kl": 0.01, "weight_bytes": 0.9}
    gates = evaluate_gates(Gates.model_validate(limits), measured, before, after, 2)
    old = read_manifest(made.out) or {}
    manifest = describe(
        source=old["source"],
        recipe=old["recipe"],
        shape=after,
        counts=old["parameters"],
        quality=old["quality"] | measured,
        device="cpu",
        gates=[rounded(asdict(gate)) for gate in gates],
    )
    write_card(made.out, CardFacts(manifest, after, before, dense, stock=False))
    seal(made.out, manifest, bom=True)
    return made


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def lay_out(desk: Desk, release: Release) -> Desk:
    """Copies the release to ``out`` and its data to ``data``; its source is at ``model``."""
    shutil.copytree(release.out, desk.out)
    shutil.copytree(release.data, desk.root / "data")
    return desk


def verify(desk: Desk, *options: str | Path) -> tuple[Ended, dict[str, Any]]:
    ended = desk.run(["verify", str(desk.out), "--json", *map(str, options)])
    return ended, json.loads(ended.stdout)


def by_status(document: dict[str, Any], status: str) -> dict[str, str]:
    found = [c for c in document["checks"] if c["status"] == status]
    return {c["check"]: c["detail"] for c in found}


def everything(desk: Desk) -> tuple[str | Path, ...]:
    return ("--source", desk.model, "--data", desk.root / "data", "--device", "cpu", "--quiet")


# -- spoiling --------------------------------------------------------------------------------------


def manifest(*path: str | int, value: Any) -> Spoil:
    """Sets an entry of the manifest; a function gets the old value."""

    def spoil(desk: Desk) -> None:
        document = json.loads((desk.out / MANIFEST).read_text())
        entry = document
        for key in path[:-1]:
            entry = entry[key]
        old = entry.get(path[-1]) if isinstance(entry, dict) else entry[path[-1]]
        entry[path[-1]] = value(old) if callable(value) else value
        (desk.out / MANIFEST).write_text(json.dumps(document))

    return spoil


def without(*path: str) -> Spoil:
    def spoil(desk: Desk) -> None:
        document = json.loads((desk.out / MANIFEST).read_text())
        entry = document
        for key in path[:-1]:
            entry = entry[key]
        del entry[path[-1]]
        (desk.out / MANIFEST).write_text(json.dumps(document))

    return spoil


def listed(name: str) -> Spoil:
    return manifest("files", value=lambda files: files | {name: "0" * 64})


def text_of(name: str, change: Callable[[str], str], *, relist: bool = False) -> Spoil:
    """Changes a file of the release, and lists its new digest."""

    def spoil(desk: Desk) -> None:
        path = desk.out / name
        path.write_text(change(path.read_text("utf-8")), "utf-8")
        if relist:
            relisted(desk)

    return spoil


def relisted(desk: Desk) -> None:
    """Lists the files as they are now."""
    manifest("files", value=file_digests(desk.out))(desk)


def raw(content: str) -> Spoil:
    return lambda desk: (desk.out / MANIFEST).write_text(content)


def put(name: str, content: str = "x") -> Spoil:
    return lambda desk: (desk.out / name).write_text(content)


def folder(name: str) -> Spoil:
    return lambda desk: (desk.out / name).mkdir()


def pipe(name: str) -> Spoil:
    return lambda desk: os.mkfifo(desk.out / name)


def gone(name: str) -> Spoil:
    return lambda desk: (desk.out / name).unlink()


def linked(name: str, target: str) -> Spoil:
    def spoil(desk: Desk) -> None:
        path = desk.out / name
        path.unlink(missing_ok=True)
        path.symlink_to(target.format(root=desk.root))

    return spoil


def flip(desk: Desk) -> None:
    """One bit in the middle of the weights."""
    content = bytearray((desk.out / WEIGHTS).read_bytes())
    content[len(content) // 2] ^= 1
    (desk.out / WEIGHTS).write_bytes(content)


def claim(index: int, **changes: Any) -> Spoil:
    """Changes a claim on a text, and all that repeats it."""

    def spoil(desk: Desk) -> None:
        manifest("quality", "texts", index, value=lambda text: text | changes)(desk)
        write_sealed(desk)

    return spoil


def write_sealed(desk: Desk) -> None:
    """Makes card and digests fit the manifest as it is now, without gates."""
    old = read_manifest(desk.out) or {}
    made = {key: value for key, value in old.items() if key not in ("files", "gates")}
    after, before = Checkpoint(desk.out).shape, Checkpoint(desk.model).shape
    write_card(desk.out, CardFacts(made, after, before, desk.model, stock=False))
    seal(desk.out, made)
