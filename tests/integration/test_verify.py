"""``slimgpt verify`` and ``slimgpt export`` on a checkpoint that makes claims."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from slimgpt.evaluate.judgement import TaskOptions
from tests.command_line import INTEGRITY, USAGE, Desk
from tests.releases import (
    MANIFEST,
    OWN,
    PARITY,
    PLAIN,
    UNRESOLVED,
    Release,
    by_status,
    everything,
    lay_out,
    manifest,
    text_of,
    verify,
    write_release,
)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, small: Path) -> Release:
    return write_release(tmp_path_factory.mktemp("release"), small, None)


@pytest.fixture
def bench(desk: Desk, release: Release) -> Desk:
    return lay_out(desk, release)


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
    assert (ended.code, document["verified"]) == (0, True)
    assert "every check that was asked for passed" in " ".join(ended.stderr.split())
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
    assert ended.code == UNRESOLVED, document
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


@pytest.mark.parametrize("gates", [{"kl": 9.0}, {"kl": 0.01}, {}, [], "none", {"kl": []}])
def test_recorded_gates_are_those_of_the_recorded_recipe(bench: Desk, gates: object) -> None:
    manifest("recipe", value=lambda recipe: recipe | {"gates": gates})(bench)
    ended, document = verify(bench, "--quick", "--quiet")
    assert ended.code == INTEGRITY
    assert "gates" in by_status(document, "failed")
