"""Work of a recovery that was damaged since is found, and the way out is named."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from slimgpt.errors import IntegrityError
from slimgpt.prune.journal import Journal
from slimgpt.workspace import work_directory
from tests.recovering import Recovery, Stages, StopAt, checkpoints, digests, quick_collections
from tests.tiny_models import Tiny


@pytest.fixture(scope="module")
def recovery(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recovery]:
    with quick_collections():
        yield Recovery(tiny, tmp_path_factory.mktemp("recovery"))


@pytest.fixture
def unfinished(tmp_path: Path, recovery: Recovery) -> Path:
    """An OUT whose run was stopped at step 4, when only the checkpoint of step 2 was whole."""
    recovery.stop(tmp_path / "out", StopAt(4))
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-2"]
    return tmp_path / "out"


@pytest.fixture
def nearly(tmp_path: Path, recovery: Recovery) -> Path:
    """An OUT whose run was stopped when all but publishing was done."""
    recovery.copy_trained(tmp_path / "out")
    return tmp_path / "out"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 10)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_text("{}")


DAMAGE: list[tuple[str, Callable[[Path], None]]] = [
    ("run.json", cut),
    ("training/before.json", cut),
    ("training/before.json", empty),
    ("training/checkpoint-2/optimizer.pt", cut),
    ("training/checkpoint-2/adapter_model.safetensors", flip),
    ("training/checkpoint-2/rng_state.pth", Path.unlink),
    ("training/checkpoint-2/slimgpt-whole.json", cut),
    ("training/best.safetensors", cut),
]
DAMAGE_WHEN_TRAINED: list[tuple[str, Callable[[Path], None]]] = [
    ("training/trained.json", cut),
    ("training/trained.json", empty),
    ("training/best.safetensors", flip),
    ("training/best.safetensors", Path.unlink),
]


def refuses_damage(out: Path, name: str, spoil: Callable[[Path], None], recovery: Recovery) -> None:
    spoil(work_directory(out) / name)
    with pytest.raises(IntegrityError, match=r"damaged: start again with --fresh"):
        recovery.run(out)
    assert not out.exists()


@pytest.mark.parametrize(("name", "spoil"), DAMAGE)
def test_damaged_work_is_found_and_fresh_named(unfinished, recovery, name, spoil):
    refuses_damage(unfinished, name, spoil, recovery)


@pytest.mark.parametrize(("name", "spoil"), DAMAGE_WHEN_TRAINED)
def test_damage_after_training_is_found_and_fresh_named(nearly, recovery, name, spoil):
    refuses_damage(nearly, name, spoil, recovery)


def test_merged_blocks_are_not_trusted_but_made_again(nearly, recovery):
    journal = Journal(nearly)
    cut(journal.block(1))
    flip(journal.block(2))
    flip(journal.outer)
    recovery.run(nearly)
    assert digests(nearly) == recovery.undisturbed


def test_a_finished_training_is_not_repeated(nearly, recovery):
    stages = Stages()
    recovery.run(nearly, progress=stages)
    assert stages.begun == ["merging", "checking the merged model", "writing checkpoint"]
    assert digests(nearly) == recovery.undisturbed
