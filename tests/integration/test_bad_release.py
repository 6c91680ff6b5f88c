"""What can be done to a release, and what ``slimgpt verify`` says of it.

Whoever spoils a file can also list its new digest, so each lie is told in a manifest that is
consistent otherwise.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.command_line import INTEGRITY, WEIGHTS, Desk
from tests.releases import (
    CARD,
    MANIFEST,
    OWN,
    Release,
    by_status,
    claim,
    everything,
    flip,
    folder,
    gone,
    lay_out,
    linked,
    listed,
    manifest,
    pipe,
    put,
    raw,
    relisted,
    text_of,
    verify,
    without,
    write_release,
)
from tests.spoiling import Spoil, chain


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Release:
    return write_release(tmp_path_factory.mktemp("release"), small, None)


@pytest.fixture
def bench(desk: Desk, release: Release) -> Desk:
    return lay_out(desk, release)


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
