"""``slimgpt verify`` on a checkpoint that makes claims, and on what can be done to one.

Whoever spoils a file can also list its new digest, so each lie is told in a manifest that is
consistent otherwise.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from slimgpt.calibration import load_calibration
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.checkpoint.writer import file_digests
from slimgpt.demo import CALIBRATION, EVALUATION
from slimgpt.evaluate.judge import judge
from slimgpt.evaluate.judgement import TaskOptions, TextSpec
from slimgpt.prune.driver import prune
from slimgpt.prune.options import PruneOptions
from slimgpt.release.card import CardFacts, write_card
from slimgpt.release.gates import evaluate_gates
from slimgpt.release.manifest import describe, read_manifest, seal
from slimgpt.release.sections import Gates
from tests.command_line import INTEGRITY, USAGE, WEIGHTS, Desk, Ended
from tests.spoiling import Spoil, chain

MANIFEST, CARD = "slimgpt.json", "README.md"
UNRESOLVED = 3
OWN, PLAIN, PARITY = "own.jsonl", "plain.txt", "parity.test.jsonl"


# -- a release -------------------------------------------------------------------------------------


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


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Release:
    return write_release(tmp_path_factory.mktemp("release"), small, None)


@pytest.fixture
def bench(desk: Desk, release: Release) -> Desk:
    """A desk with a copy of the release at ``out``, of its data, and its source at ``model``."""
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


# -- what holds ------------------------------------------------------------------------------------


def test_a_true_release_is_verified(bench: Desk) -> None:
    before = bench.contents()
    ended, document = verify(bench, *everything(bench))
    assert (ended.code, ended.stderr) == (0, "")
    assert document["verified"] is True
    assert document.keys() == {"verified", "checks"}
    assert all(check.keys() == {"check", "status", "detail"} for check in document["checks"])
    assert by_status(document, "passed").keys() == {
        *("manifest", "files", "weights", "shape", "parameters", "source", "card", "gates"),
        *(
            f"{quantity} ({text})"
            for quantity in ("perplexity", "source's perplexity", "KL to the source")
            for text in (f"{OWN}, raw, windows of 64", f"{PLAIN}, paper, windows of 32")
        ),
    }
    assert by_status(document, "not checked") == {"signature": "there is no model.sig"}
    assert bench.contents() == before


def test_quick_measures_nothing_and_needs_nothing(bench: Desk) -> None:
    shutil.rmtree(bench.root / "data")
    ended, document = verify(bench, "--quick")
    assert (ended.code, ended.stderr, document["verified"]) == (0, "", True)
    assert by_status(document, "not checked") == {
        "source": "give --source with the dense model",
        "signature": "there is no model.sig",
        "claims": "--quick leaves measuring out",
    }


_PROBE = """
import sys
from slimgpt.cli import run
code = run(["verify", *sys.argv[1:], "--quick", "--json"])
assert not {"torch", "transformers", "matplotlib", "lm_eval"} & set(sys.modules)
sys.exit(code)
"""


def test_quick_imports_no_torch(bench: Desk) -> None:
    command = [sys.executable, "-c", _PROBE, str(bench.out), "--source", str(bench.model)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["verified"] is True


def test_what_was_only_pruned_claims_nothing(desk: Desk) -> None:
    assert desk.run(desk.prune("--quiet")).code == 0
    ended, document = verify(desk, "--source", desk.model)
    assert (ended.code, document["verified"]) == (0, True)
    assert by_status(document, "not checked")["claims"] == f"{MANIFEST} claims no measured quality"


def test_losses_of_a_recovery_are_said_to_be_unchecked(bench: Desk) -> None:
    manifest("quality", "recovery", value={"held_out_loss": {"before": 2.0, "after": 1.0}})(bench)
    ended, document = verify(bench, "--quick")
    assert ended.code == 0
    assert "kept back while training" in by_status(document, "not checked")["recovery"]


def test_people_get_a_table(bench: Desk) -> None:
    ended = bench.run(["verify", str(bench.out), "--quick"])
    shown = " ".join(ended.stdout.split())
    assert ended.code == 0
    for words in ("check", "passed", "not checked", "--quick leaves measuring out"):
        assert words in shown


def test_hidden_files_and_a_signature_are_no_part_of_the_list(bench: Desk) -> None:
    (bench.out / ".git" / "objects").mkdir(parents=True)
    (bench.out / ".git" / "objects" / "x").write_text("x")
    (bench.out / ".gitattributes").write_text("x")
    (bench.out / "model.sig").write_text("{}")
    ended, document = verify(bench, "--quick")
    assert ended.code == 0
    assert by_status(document, "not checked")["signature"] == "give --public-key"


def test_a_release_in_the_hub_cache_is_verified(bench: Desk) -> None:
    blobs, snapshot = bench.root / "hub" / "blobs", bench.root / "hub" / "snapshots" / "main"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(bench.out.iterdir())):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    bench.out = snapshot
    assert verify(bench, "--quick")[0].code == 0


# -- what was not given ----------------------------------------------------------------------------


def test_texts_are_found_by_their_digest_wherever_they_lie(
    bench: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = ("--source", bench.model, "--device", "cpu", "--quiet")
    monkeypatch.chdir(bench.root)
    assert verify(bench, *quiet)[0].code == 0, "below the working directory, as they were named"
    deep = bench.root / "elsewhere" / "deep"
    deep.mkdir(parents=True)
    (bench.root / "data" / OWN).rename(deep / "renamed.jsonl")
    (bench.root / "data" / PLAIN).rename(bench.root / "one.txt")
    places = ("--data", bench.root / "elsewhere", "--data", bench.root / "one.txt")
    assert verify(bench, *quiet, *places)[0].code == 0


def test_texts_that_are_not_found_leave_it_open(bench: Desk) -> None:
    (bench.root / "data" / PLAIN).write_text("another text")
    ended, document = verify(bench, *everything(bench))
    assert ended.code == UNRESOLVED
    assert document["verified"] is False
    assert not by_status(document, "failed")
    open_ = by_status(document, "not checked")
    assert [name for name in open_ if name.startswith(f"data data/{PLAIN}, SHA-256 ")]
    assert f"perplexity ({OWN}, raw, windows of 64)" in by_status(document, "passed")
    (line,) = ended.stderr.splitlines()
    assert f"is not verified to the end: give --data with data/{PLAIN}; or leave" in line
    assert "with --quick" in line


def test_without_the_source_its_claims_are_open(bench: Desk) -> None:
    ended, document = verify(bench, "--data", bench.root / "data", "--device", "cpu", "--quiet")
    assert ended.code == UNRESOLVED
    assert "give --source with the dense model" in ended.stderr
    assert len([n for n in by_status(document, "passed") if n.startswith("perplexity")]) == 2
    assert len([n for n in by_status(document, "not checked") if "source" in n]) == 5


# -- what is spoilt --------------------------------------------------------------------------------


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


PERPLEXITY = "    - type: perplexity\n"
FILES: dict[str, tuple[Spoil, set[str], str]] = {
    "a bit of the weights": (flip, {"files"}, f"{WEIGHTS}: has another SHA-256"),
    "a space in the config": (
        text_of("config.json", lambda s: s + " "),
        {"files"},
        "config.json: has another SHA-256",
    ),
    "the card": (text_of(CARD, lambda s: s + "!"), {"files"}, f"{CARD}: has another SHA-256"),
    "a file missing": (gone("tokenizer.json"), {"files"}, "tokenizer.json: is missing"),
    "the config missing": (gone("config.json"), {"files", "weights"}, "config.json: is missing"),
    "the weights missing": (gone(WEIGHTS), {"files", "weights"}, f"{WEIGHTS}: is missing"),
    "weights cut short": (
        lambda desk: os.truncate(desk.out / WEIGHTS, 9000),
        {"files", "weights"},
        f"{WEIGHTS}: has another SHA-256",
    ),
    "a file too many": (put("modeling_x.py"), {"files"}, "modeling_x.py: is not listed"),
    "a file too many in a folder": (
        chain(folder("x"), put("x/y.py")),
        {"files"},
        "x/y.py: is not listed",
    ),
    "several at once": (
        chain(put("a"), gone("tokenizer.json"), flip),
        {"files"},
        f"a: is not listed; tokenizer.json: is missing; {WEIGHTS}: has another SHA-256",
    ),
    "very many": (
        chain(*(put(f"{i}.py") for i in range(9))),
        {"files"},
        "0.py, 1.py, 2.py, 3.py, 4.py and 4 more: is not listed",
    ),
    "a link out": (
        chain(
            lambda desk: shutil.move(desk.out / CARD, desk.root / "moved"),
            linked(CARD, "{root}/moved"),
        ),
        {"files", "weights", "card"},
        f"{CARD}: is no file of the checkpoint",
    ),
    "a link to a folder": (
        linked("x", "{root}"),
        {"files", "weights"},
        "x: is not listed",
    ),
    "a parent listed": (listed("../x"), {"files"}, "../x: is no plain relative path"),
    "a path listed": (listed("/etc/passwd"), {"files"}, "/etc/passwd: is no plain relative"),
    "a Windows path listed": (listed(r"..\x"), {"files"}, "is no plain relative path"),
    "a file listed twice": (listed("./config.json"), {"files"}, "./config.json: is no plain"),
    "twice in a folder": (listed("x/../config.json"), {"files"}, "is no plain relative path"),
    "nothing listed": (listed(""), {"files"}, "is no plain relative path"),
    "the folder listed": (listed("."), {"files"}, "is no plain relative path"),
    "a zero byte listed": (listed("\0"), {"files"}, "is no plain relative path"),
    "a long name listed": (listed("x" * 5000), {"files"}, "xxx...: is missing"),
    "the manifest listed": (listed(MANIFEST), {"files"}, f"{MANIFEST}: lists itself"),
    "a folder in place of a file": (
        chain(gone("tokenizer.json"), folder("tokenizer.json")),
        {"files"},
        "tokenizer.json: is no file of the checkpoint",
    ),
    "a pipe in place of a file": (
        chain(gone(CARD), pipe(CARD)),
        {"files", "weights", "card"},
        f"{CARD}: is no file of the checkpoint",
    ),
}
SHAPES: dict[str, tuple[Spoil, set[str], str]] = {
    "a layer wider": (
        manifest("shape", "layers", 1, "ffn", value=lambda n: n + 1),
        {"shape"},
        "layer 1: slimgpt.json says otherwise than config.json",
    ),
    "a layer missing": (
        manifest("shape", "layers", value=lambda layers: layers[:1]),
        {"shape"},
        "1 layers, not 2",
    ),
    "a layer too many": (
        manifest("shape", "layers", value=lambda layers: layers + layers[:1]),
        {"shape"},
        "3 layers, not 2",
    ),
    "a wider stream": (manifest("shape", "hidden_size", value=256), {"shape"}, "hidden_size"),
    "more parameters": (
        manifest("parameters", "after", value=lambda n: n + 1),
        {"parameters"},
        "but the weights have",
    ),
    "more in the decoder": (
        manifest("parameters", "decoder_after", value=1),
        {"parameters"},
        "decoder_after is 1, but",
    ),
    "fewer before": (
        manifest("parameters", "before", value=lambda n: n - 1),
        {"source"},
        "parameters before are",
    ),
    "config and manifest agree on a lie": (
        text_of(
            "config.json",
            lambda s: s.replace('"vocab_size": 4096', '"vocab_size": 4095'),
            relist=True,
        ),
        {"weights"},
        "but config.json makes it",
    ),
    "another source": (
        manifest("source", "digest", value="0" * 64),
        {"source"},
        f"{MANIFEST} names {'0' * 64}",
    ),
    "a card with other results": (
        text_of(
            CARD,
            lambda s: s.replace(f"{PERPLEXITY}      value: ", f"{PERPLEXITY}      value: 1"),
            relist=True,
        ),
        {"card"},
        "the results in README.md are not those of slimgpt.json",
    ),
    "a card without results": (put(CARD, "# Best model\n"), {"files", "card"}, "not those of"),
    "a card that is damaged": (
        text_of(CARD, lambda s: s.replace("model-index:", "model-index: ["), relist=True),
        {"card"},
        "can't be read",
    ),
    "no card": (
        chain(gone(CARD), relisted),
        {"card"},
        f"there is no {CARD}",
    ),
    "a gate that passed after all": (
        manifest("gates", 2, "passed", value=True),
        {"gates"},
        f"kl[{OWN}@64] is recorded",
    ),
    "a gate with another number": (
        manifest("gates", 4, "measured", value=0.1),
        {"gates"},
        "weight_bytes is recorded with 0.1",
    ),
}


@pytest.mark.parametrize(
    ("spoil", "fails", "says"),
    [*FILES.values(), *SHAPES.values()],
    ids=[*FILES, *SHAPES],
)
def test_what_is_not_as_the_manifest_has_it(
    bench: Desk, spoil: Spoil, fails: set[str], says: str
) -> None:
    spoil(bench)
    ended, document = verify(bench, "--quick", "--source", bench.model)
    assert ended.code == INTEGRITY
    assert document["verified"] is False
    failed = by_status(document, "failed")
    assert failed.keys() == fails
    assert says in "; ".join(failed.values())
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"slimgpt: {bench.out} failed {len(fails)} of ")
    assert all(name in line for name in fails)


CLAIM = {"text": "x", "sha256": "0" * 64, "window": 64, "protocol": "raw", "perplexity": 1.0}
MANIFESTS: dict[str, tuple[Spoil, str]] = {
    "empty": (raw(""), "not valid JSON"),
    "a list": (raw("[]"), "holds a JSON list"),
    "an empty object": (raw("{}"), "has schema None"),
    "deep": (raw("[" * 100_000), "not valid JSON"),
    "no UTF-8": (lambda d: (d.out / MANIFEST).write_bytes(b"\xff"), "not valid JSON"),
    "endless": (lambda d: os.truncate(d.out / MANIFEST, 2**40), "is larger than"),
    "a link out": (linked(MANIFEST, "/etc/hostname"), "a link to a file outside"),
    "a loop of links": (linked(MANIFEST, MANIFEST), "is no file"),
    "a folder": (chain(gone(MANIFEST), folder(MANIFEST)), "is no file"),
    "another schema": (manifest("schema", value=2), "has schema 2, and slimgpt"),
    "a schema that equals 1": (manifest("schema", value=True), "has schema True"),
    "a key twice": (
        text_of(MANIFEST, lambda s: s.replace('"files": {', '"files": {}, "files": {')),
        "'files' stands there twice",
    ),
    "a file twice": (
        text_of(MANIFEST, lambda s: s.replace('"README.md":', '"config.json": "0", "README.md":')),
        "'config.json' stands there twice",
    ),
    "NaN": (manifest("quality", "texts", 0, "perplexity", value=float("nan")), "NaN is no number"),
    "beyond numbers": (
        text_of(MANIFEST, lambda s: s.replace('"perplexity": ', '"perplexity": 9e999, "x": ', 1)),
        "quality.texts.0.perplexity: input should be a finite number",
    ),
    "no files": (manifest("files", value={}), "files: dictionary should have at least 1"),
    "files null": (manifest("files", value=None), "files: input should be a valid dictionary"),
    "files a list": (manifest("files", value=["config.json"]), "files: input should be"),
    "a digest null": (manifest("files", "config.json", value=None), "files.config.json: "),
    "a digest too short": (manifest("files", "config.json", value="0"), "files.config.json: "),
    "no source": (without("source"), "source: field required"),
    "source null": (manifest("source", value=None), "source: "),
    "no shape": (without("shape"), "shape: field required"),
    "no layers": (manifest("shape", "layers", value=[]), "shape.layers: list should have"),
    "layers null": (manifest("shape", "layers", value=[None]), "shape.layers.0: "),
    "half a layer": (manifest("shape", "layers", 0, "ffn", value=0.5), "shape.layers.0.ffn: "),
    "a layer below nothing": (manifest("shape", "layers", 0, "ffn", value=-1), "greater than"),
    "a width that is true": (manifest("shape", "layers", 0, "ffn", value=True), "layers.0.ffn: "),
    "parameters of nothing": (
        manifest("parameters", "decoder_before", value=0),
        "parameters.decoder_before: ",
    ),
    "parameters in words": (manifest("parameters", "after", value="many"), "parameters.after: "),
    "quality null": (manifest("quality", value=None), "quality: "),
    "texts null": (manifest("quality", "texts", value=None), "quality.texts: "),
    "a text null": (manifest("quality", "texts", value=[None]), "quality.texts.0: "),
    "tasks a list": (manifest("quality", "tasks", value=[]), "quality.tasks: "),
    "a task null": (manifest("quality", "tasks", value={"x": None}), "quality.tasks.x: "),
    "a text without a name": (
        manifest("quality", "texts", value=[CLAIM | {"text": ""}]),
        "quality.texts.0.text: ",
    ),
    "a task from an unknown file": (
        manifest("quality", "tasks", value={"x": {"acc": 1.0, "n": 9, "file": "x.jsonl"}}),
        "quality.tasks.x: a task from a file needs its sha256",
    ),
    "a seed beyond seeds": (
        manifest("quality", "tasks", value={"x": {"acc": 1.0, "n": 9, "seed": 2**40}}),
        "quality.tasks.x.seed: ",
    ),
    "perplexity in words": (
        manifest("quality", "texts", value=[CLAIM | {"perplexity": "low"}]),
        "quality.texts.0.perplexity: ",
    ),
    "no perplexity": (
        manifest("quality", "texts", value=[{k: CLAIM[k] for k in CLAIM if k != "perplexity"}]),
        "quality.texts.0.perplexity: field required",
    ),
    "a window of one": (manifest("quality", "texts", value=[CLAIM | {"window": 1}]), "0.window: "),
    "a type of its own": (
        manifest("quality", "texts", value=[CLAIM | {"dtype": "__class__"}]),
        "quality.texts.0.dtype: ",
    ),
    "a protocol of its own": (
        manifest("quality", "texts", value=[CLAIM | {"protocol": "kind"}]),
        "quality.texts.0.protocol: ",
    ),
    "accuracy in words": (manifest("quality", "accuracy", value="good"), "quality.accuracy: "),
    "gates null": (manifest("gates", value=[None]), "gates.0: "),
    "environment of numbers": (manifest("environment", value={"torch": 2}), "environment.torch: "),
    "wrong everywhere": (raw('{"schema": 1, "files": [], "source": 5}'), "; and 3 more"),
}


@pytest.mark.parametrize(("spoil", "says"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none(bench: Desk, spoil: Spoil, says: str) -> None:
    spoil(bench)
    ended, document = verify(bench, "--quick")
    assert ended.code == INTEGRITY
    assert says in by_status(document, "failed")["manifest"]
    assert by_status(document, "passed").keys() == {"weights"}


def test_what_slimgpt_did_not_make_has_no_manifest(desk: Desk) -> None:
    says = ("has no manifest (slimgpt.json)", "slimgpt did not make it")
    desk.refuses(["verify", str(desk.model)], INTEGRITY, *says)


def test_names_cannot_steer_a_terminal(bench: Desk) -> None:
    (bench.out / "\x1b[2Jx\u202egnp.exe").write_text("x")
    listed("\x1b]0;title\x07")(bench)
    ended = bench.run(["verify", str(bench.out), "--quick"])
    assert ended.code == INTEGRITY
    assert all(c.isprintable() for c in (ended.stdout + ended.stderr).replace("\n", ""))


# -- what is not true ------------------------------------------------------------------------------


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


RATIO = {"metric": "acc", "mean": 1, "baseline_mean": 1, "ratio": 1, "lower": 1, "upper": 1}
RATIO |= {"confidence": 0.95, "tasks": 1, "n": 99}
FIRST = f"({OWN}, raw, windows of 64)"
LIES: dict[str, tuple[Spoil, set[str], str]] = {
    "a better perplexity": (claim(0, perplexity=50.0), {f"perplexity {FIRST}"}, "50 claimed, "),
    "a worse dense model": (
        claim(0, baseline_perplexity=99.0),
        {f"source's perplexity {FIRST}"},
        "99 claimed, ",
    ),
    "a smaller divergence": (claim(0, kl=0.01), {f"KL to the source {FIRST}"}, "0.01 claimed, "),
    "no perplexity": (
        claim(0, perplexity=None),
        {f"perplexity {FIRST}"},
        "no finite number claimed, ",
    ),
    "a text of another name": (
        claim(0, text="wikitext.jsonl", perplexity=3.0),
        {"perplexity (wikitext.jsonl, raw, windows of 64)"},
        "3 claimed, ",
    ),
    "another window": (
        claim(0, window=16),
        {f"{what} ({OWN}, raw, windows of 16)" for what in ("perplexity", "source's perplexity")}
        | {f"KL to the source ({OWN}, raw, windows of 16)"},
        " measured: at most",
    ),
    "a window beyond the context": (claim(0, window=100_000), {"claims"}, "--window 100000"),
    "a ratio of nothing": (
        manifest("quality", "accuracy", value=RATIO),
        {"accuracy ratio"},
        "no task is claimed",
    ),
}


@pytest.mark.parametrize(("spoil", "fails", "says"), LIES.values(), ids=LIES)
def test_what_is_measured_otherwise(bench: Desk, spoil: Spoil, fails: set[str], says: str) -> None:
    spoil(bench)
    ended, document = verify(bench, *everything(bench))
    failed = by_status(document, "failed")
    assert (ended.code, set(failed)) == (INTEGRITY, fails)
    assert all(says in detail for detail in failed.values())


def test_a_spoilt_checkpoint_is_not_measured(bench: Desk) -> None:
    flip(bench)
    _, document = verify(bench, *everything(bench))
    assert "a check above failed" in by_status(document, "not checked")["claims"]


@pytest.mark.slow
def test_tasks_are_asked_again(desk: Desk, small: Path) -> None:
    if not importlib.util.find_spec("lm_eval"):
        pytest.skip("needs the eval extra")
    tasks = TaskOptions((str(desk.root / "data" / PARITY),))
    made = write_release(desk.root, small, tasks)
    (made.data / PARITY).rename(made.data / "renamed.jsonl")
    ended, document = verify(desk, *everything(desk))
    assert (ended.code, ended.stderr) == (0, "")
    expected = {f"task parity, {PARITY}", f"source's task parity, {PARITY}", "accuracy ratio"}
    assert expected <= by_status(document, "passed").keys()
    manifest("quality", "tasks", "parity", "baseline", "acc", value=0.9)(desk)
    _, document = verify(desk, *everything(desk))
    assert by_status(document, "failed").keys() == {f"source's task parity, {PARITY}"}
    (made.data / "renamed.jsonl").rename(desk.root / PARITY)
    ended, document = verify(desk, *everything(desk))
    assert ended.code == UNRESOLVED
    assert "accuracy ratio" in by_status(document, "not checked")


# -- options ---------------------------------------------------------------------------------------

OPTIONS: dict[str, tuple[list[str], int, str]] = {
    "no data": (["--data", "{root}/nothing"], USAGE, "'--data': Path '{root}/nothing' does not"),
    "no key": (["--public-key", "{root}/nothing"], USAGE, "--public-key {root}/nothing can't be"),
    "no source": (["--source", "{root}/nothing"], USAGE, "{root}/nothing does not exist"),
    "no device": (["--device", "tpu"], USAGE, "--device tpu: give auto"),
    "no model": ([], USAGE, "{root}/out does not exist"),
}


@pytest.mark.parametrize(("options", "code", "says"), OPTIONS.values(), ids=OPTIONS)
def test_options_that_cannot_be(
    desk: Desk, release: Release, options: list[str], code: int, says: str
) -> None:
    if options:
        shutil.copytree(release.out, desk.out)
    arguments = desk.fill(["verify", "{out}", *options])
    desk.refuses(arguments, code, says.format(root=desk.root))


def test_a_signature_that_is_asked_for_must_be_there(bench: Desk) -> None:
    pytest.importorskip("model_signing", reason="needs the sign extra")
    from cryptography.hazmat.primitives.asymmetric import ec

    from slimgpt.release.signing import sign
    from tests.signing_keys import write_keys

    write_keys(bench.root, "own", ec.generate_private_key(ec.SECP256R1()))
    options = ("--quick", "--public-key", bench.root / "own.pub")
    ended, document = verify(bench, *options)
    assert ended.code == INTEGRITY
    assert by_status(document, "failed").keys() == {"signature"}
    sign(bench.out, bench.root / "own")
    ended, document = verify(bench, *options)
    assert ended.code == 0
    assert "signature" in by_status(document, "passed")
    # Whoever lists the new digest of what they changed can't sign it.
    text_of("config.json", lambda s: s + " ", relist=True)(bench)
    ended, document = verify(bench, *options)
    failed = by_status(document, "failed")
    assert (ended.code, set(failed)) == (INTEGRITY, {"signature"})
    assert f"config.json, {MANIFEST} added or changed" in failed["signature"]


# -- export ----------------------------------------------------------------------------------------


def test_a_bill_of_materials_can_be_exported(bench: Desk) -> None:
    file = bench.root / "bill.json"
    ended = bench.run(["export", "bom", str(bench.out), str(file), "--json"])
    assert ended.code == 0
    document = json.loads(ended.stdout)
    assert file.read_bytes() == (bench.out / "bom.cdx.json").read_bytes()
    assert document["serial_number"] == json.loads(file.read_text())["serialNumber"]
    assert verify(bench, "--quick")[0].code == 0
    assert (
        "CycloneDX 1.6"
        in bench.run(["export", "bom", str(bench.out), str(bench.root / "again.json")]).stdout
    )


EXPORTS: dict[str, tuple[list[str], int, str]] = {
    "what is there": (["{out}", "{model}/config.json"], USAGE, "config.json exists: give a FILE"),
    "within the model": (["{out}", "{out}/x.json"], USAGE, "lies inside MODEL"),
    "nowhere": (["{out}", "{root}/no/x.json"], USAGE, "{root}/no is no directory"),
    "no manifest": (["{model}", "{root}/x.json"], INTEGRITY, "has no manifest (slimgpt.json)"),
}


@pytest.mark.parametrize(("arguments", "code", "says"), EXPORTS.values(), ids=EXPORTS)
def test_bills_that_cannot_be(bench: Desk, arguments: list[str], code: int, says: str) -> None:
    command = bench.fill(["export", "bom", *arguments])
    bench.refuses(command, code, says.format(root=bench.root))
