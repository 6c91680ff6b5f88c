"""Wrong MODELs and OUTs, and what the machine lacks: one line, the exit code, nothing written."""

import json
import os
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.command_line import ENVIRONMENT, INTEGRITY, SHORT, USAGE, WEIGHTS, Desk

WRONG_MODELS: dict[str, tuple[str, int, str]] = {
    "missing": ("{root}/no", USAGE, "no does not exist: MODEL is a checkpoint directory"),
    "missing, relative": ("./no", USAGE, "does not exist"),
    "a file": ("{model}/config.json", USAGE, "config.json is a file: MODEL is"),
    "a folder without config": ("{root}", USAGE, "has no config.json"),
    "a word": ("llama", USAGE, "does not exist"),
    "too long a name": ("{root}/" + "x" * 5000, USAGE, "name too long"),
    "home of no user": ("~nobody-of-this-name/model", USAGE, "can't be a path"),
    "no hub id": ("org/na--me", USAGE, "neither a directory here nor a repository"),
}


@pytest.mark.parametrize(("model", "code", "says"), WRONG_MODELS.values(), ids=WRONG_MODELS)
def test_a_model_that_is_none(desk: Desk, model: str, code: int, says: str) -> None:
    command = desk.prune()
    command[1] = model.format(root=desk.root, model=desk.model)
    desk.refuses(command, code, says)


# -- OUT -----------------------------------------------------------------------------------------


def _folder(desk: Desk) -> Path:
    desk.out.mkdir()
    (desk.out / "mine.txt").write_text("mine")
    return desk.out


def _empty_folder(desk: Desk) -> Path:
    desk.out.mkdir()
    return desk.out


def _file(desk: Desk) -> Path:
    desk.out.write_text("mine")
    return desk.out


def _dangling_link(desk: Desk) -> Path:
    desk.out.symlink_to(desk.root / "nothing")
    return desk.out


def _inside_by_link(desk: Desk) -> Path:
    (desk.root / "alias").symlink_to(desk.model)
    return desk.root / "alias" / "out"


def _below_a_file(desk: Desk) -> Path:
    (desk.root / "file").write_text("mine")
    return desk.root / "file" / "deep" / "out"


def _foreign_work(desk: Desk) -> Path:
    work = desk.root / "out.partial"
    work.mkdir()
    (work / "mine.txt").write_text("mine")
    return desk.out


def _empty_work_beside_a_result(desk: Desk) -> Path:
    (desk.root / "out.partial").mkdir()
    return _folder(desk)


def _work_is_a_file(desk: Desk) -> Path:
    (desk.root / "out.partial").write_text("mine")
    return desk.out


def _work_would_be_the_model(desk: Desk) -> Path:
    desk.model = desk.model.rename(desk.root / "out.partial")
    return desk.out


WRONG_OUTS: dict[str, tuple[Callable[[Desk], Path], str]] = {
    "a folder": (_folder, "exists: give an OUT that does not"),
    "an empty folder": (_empty_folder, "exists: give an OUT that does not"),
    "a file": (_file, "exists: give an OUT that does not"),
    "a dangling link": (_dangling_link, "exists: give an OUT that does not"),
    "the model": (lambda desk: desk.model, "exists: give an OUT that does not"),
    "inside the model": (lambda desk: desk.model / "a" / "out", "lies inside MODEL"),
    "inside the model by a link": (_inside_by_link, "lies inside MODEL"),
    "below a file": (_below_a_file, "file is a file"),
    "too long a name": (lambda desk: desk.root / ("x" * 300), "name too long"),
    "no name": (lambda desk: Path(), "names no new directory"),
    "two dots": (lambda desk: desk.root / "no" / "..", "names no new directory"),
    "foreign work": (_foreign_work, "out.partial, where the run would work, exists"),
    "empty work beside a result": (_empty_work_beside_a_result, "exists: give an OUT"),
    "work is a file": (_work_is_a_file, "out.partial, where the run would work, exists"),
    "work would be the model": (_work_would_be_the_model, "out.partial, where the run would"),
}


@pytest.mark.parametrize("fresh", [[], ["--fresh"]], ids=["resume", "fresh"])
@pytest.mark.parametrize(("place", "says"), WRONG_OUTS.values(), ids=WRONG_OUTS)
def test_an_out_that_is_taken_or_impossible(
    desk: Desk, place: Callable[[Desk], Path], says: str, fresh: list[str]
) -> None:
    out = place(desk)
    command = desk.prune(*fresh)
    command[2] = str(out)
    desk.refuses(command, USAGE, says)


@contextmanager
def _not_writable(folder: Path) -> Iterator[None]:
    """Only the effective user may write anywhere when it is root: the real one need not be."""
    if os.geteuid() != 0:
        folder.chmod(0o500)
        yield
        folder.chmod(0o700)
    else:
        os.setreuid(65534, -1)
        try:
            yield
        finally:
            os.setreuid(0, -1)


def test_an_out_where_nothing_may_be_written(desk: Desk) -> None:
    locked = desk.root / "locked"
    locked.mkdir()
    command = desk.prune()
    command[2] = str(locked / "out")
    with _not_writable(locked):
        desk.refuses(command, USAGE, "locked is not writable")


def test_a_refused_run_leaves_no_parent_of_out(desk: Desk) -> None:
    command = desk.prune("--ratio", "2")
    command[2] = str(desk.root / "results" / "first" / "out")
    desk.refuses(command, USAGE, "--ratio 2")


# -- the machine -----------------------------------------------------------------------------------


def _write_sparse(desk: Desk) -> None:
    """A valid checkpoint of two tebibytes that takes a block of the disk: all its weights are 0."""
    vocabulary, hidden, heads, ffn = 2**30, 1024, 8, 352
    desk.edit_config(vocab_size=vocabulary, hidden_size=hidden, head_dim=16, num_hidden_layers=1)
    layer = "model.layers.0."
    shapes = {
        "model.embed_tokens.weight": (vocabulary, hidden),
        "model.norm.weight": (hidden,),
        layer + "input_layernorm.weight": (hidden,),
        layer + "post_attention_layernorm.weight": (hidden,),
        layer + "self_attn.o_proj.weight": (hidden, heads * 16),
        layer + "mlp.gate_proj.weight": (ffn, hidden),
        layer + "mlp.up_proj.weight": (ffn, hidden),
        layer + "mlp.down_proj.weight": (hidden, ffn),
    }
    shapes |= {f"{layer}self_attn.{x}_proj.weight": (heads * 16, hidden) for x in "qkv"}
    end, header = 0, {}
    for name, size in shapes.items():
        start, end = end, end + 2 * size[0] * (size[1] if len(size) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": size, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with (desk.model / WEIGHTS).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def test_a_disk_that_is_too_small_is_noticed_first(desk: Desk) -> None:
    _write_sparse(desk)
    desk.refuses(desk.prune(), ENVIRONMENT, "needs 4.0 TiB of disk", "are free", "another disk")


@contextmanager
def _largest_file(size_bytes: int) -> Iterator[None]:
    """As on a full disk, writes fail in the middle."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size_bytes", [100, 300_000])
def test_a_disk_that_fills_up_costs_the_run_nothing(desk: Desk, size_bytes: int) -> None:
    command = desk.prune("--quiet")
    with _largest_file(size_bytes):
        ended = desk.run(command)
    assert ended.code == ENVIRONMENT
    assert ended.stderr.startswith("slimgpt: ")
    assert ended.stderr.count("\n") == 1
    assert "File too large" in ended.stderr
    assert not desk.out.exists()
    assert desk.run(command).code == 0


def test_a_log_file_on_a_full_disk(desk: Desk) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    says = "--log-file /dev/full can't be written: No space left on device"
    desk.refuses(desk.prune("--log-file", "/dev/full"), ENVIRONMENT, says)


def test_the_executable_says_the_same(desk: Desk) -> None:
    command = ["plan", str(desk.model), "--ratio", "1"]
    desk.refuses(command, USAGE, "--ratio 1", "below 1", how=desk.execute)


def test_a_hub_id_without_a_network(desk: Desk) -> None:
    command = ["plan", "some-org/some-model", "--ratio", "0.2"]
    desk.refuses(
        command, ENVIRONMENT, "some-org/some-model is no directory", "hub", how=desk.execute
    )


def test_a_hub_set_without_a_network(desk: Desk) -> None:
    command = ["prune", str(desk.model), str(desk.out), "--ratio", "0.25", *SHORT]
    caches = {name: str(desk.root / "no-cache") for name in ("HF_HOME", "HF_DATASETS_CACHE")}

    def execute(arguments):
        return desk.execute(arguments, **caches)

    says = "--calibration c4", "can't be loaded from the hub", "--calibration self"
    desk.refuses(command, ENVIRONMENT, *says, how=execute)


def test_a_hub_set_without_the_library(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    command = desk.prune("--calibration", "alpaca")
    desk.refuses(command, ENVIRONMENT, "--calibration alpaca", "pip install 'slimgpt[data]'")


def test_names_cannot_steer_the_terminal(desk: Desk) -> None:
    where = desk.shard()
    desk.write_index(where | {"model.norm.weight": "\x1b[2J\x07.safetensors"})
    desk.refuses(desk.prune(), INTEGRITY, r"shard \x1b[2J\x07.safetensors")
