"""Packing text into windows, as the paper does it."""

import json
import tracemalloc
from pathlib import Path

import pytest
import torch

from slimgpt.calibration import Calibration, load_calibration, window_length
from slimgpt.checkpoint.reader import Checkpoint
from slimgpt.demo import MODEL
from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt.resources import require_disk, require_memory
from slimgpt.tokenizer import encode, load_tokenizer, well_formed

DOCUMENTS = [f"Chapter {n}. The lamp was lit {n * n} times that winter.\n" for n in range(120)]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibration") / "x.jsonl"
    path.write_text("".join(json.dumps({"text": x}) + "\n" for x in DOCUMENTS))
    return path


@pytest.fixture(scope="module")
def stream() -> list[int]:
    """Every document without special tokens, a blank line behind it."""
    tokenizer = load_tokenizer(MODEL)
    return [i for x in DOCUMENTS for i in encode(tokenizer, x + "\n\n")]


def load(path: Path, samples: int = 16, length: int = 24, seed: int = 0) -> Calibration:
    return load_calibration(
        Checkpoint(MODEL), [str(path)], samples=samples, sequence_length=length, seed=seed
    )


def starts(windows: torch.Tensor, stream: list[int]) -> list[int]:
    """Where in the stream each window begins."""
    length = windows.shape[1]
    pieces = [tuple(stream[i : i + length]) for i in range(len(stream) - length + 1)]
    assert len(set(pieces)) == len(pieces)
    place = {piece: i for i, piece in enumerate(pieces)}
    return [place[tuple(window)] for window in windows.tolist()]


def test_windows_are_pieces_of_the_stream_at_distinct_places(text: Path, stream: list[int]) -> None:
    windows = load(text).windows
    assert windows.shape == (16, 24)
    assert windows.dtype == torch.int64
    places = starts(windows, stream)
    assert len(set(places)) == 16
    assert 1 not in windows  # no BOS


def test_every_place_can_be_taken_and_none_twice(text: Path, stream: list[int]) -> None:
    length = 24
    everywhere = len(stream) - length + 1
    assert sorted(starts(load(text, everywhere).windows, stream)) == list(range(everywhere))
    with pytest.raises(UsageError, match="too short"):
        load(text, everywhere + 1)


def test_the_seed_decides(text: Path) -> None:
    first, again, other = (load(text, seed=seed) for seed in (1, 1, 2))
    assert first.windows.equal(again.windows)
    assert not first.windows.equal(other.windows)
    assert first.describe() == again.describe()
    assert first.describe()["windows_sha256"] != other.describe()["windows_sha256"]


def test_rows_of_ids_are_windows_themselves(tmp_path: Path) -> None:
    rows = [list(range(n, n + 10 + n)) for n in range(40)]
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps({"input_ids": row}) + "\n" for row in rows))
    windows = load(path, 20, 30).windows.tolist()
    assert len({tuple(w) for w in windows}) == 20
    assert all(w in [row[:30] for row in rows if len(row) >= 30] for w in windows)


def test_memory_follows_samples_and_length(text: Path) -> None:
    """A window holds its own ids alone: neither the stream nor the model's context."""
    for samples, length in ((4, 16), (8, 16), (8, 32)):
        storage = load(text, samples, length).windows.untyped_storage()
        assert storage.nbytes() == 8 * samples * length


def test_a_long_text_costs_four_bytes_a_token(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    row = json.dumps({"text": "".join(DOCUMENTS)}) + "\n"

    def peak(copies: int) -> int:
        path.write_text(row * copies)
        tracemalloc.start()
        load(path)
        held = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return held

    peak(1)
    tokens = 20 * len(encode(load_tokenizer(MODEL), "".join(DOCUMENTS)))
    characters = 20 * len(row)  # the text itself is held while it is read
    assert peak(21) - peak(1) < 8 * tokens + characters


@pytest.mark.parametrize(
    ("context", "asked", "length"),
    [(None, None, 2048), (4096, None, 2048), (256, None, 256), (256, 64, 64), (None, 9999, 9999)],
)
def test_the_length_is_the_users_or_the_papers_or_the_context(
    context: int | None, asked: int | None, length: int
) -> None:
    assert window_length(context, 1, asked) == length


@pytest.mark.parametrize(("samples", "length"), [(0, 8), (-1, 8), (8, 0), (8, 1), (8, 257)])
def test_sizes_that_cannot_be(samples: int, length: int) -> None:
    with pytest.raises(UsageError, match=r"^--(samples|sequence-length) "):
        window_length(256, samples, length)


def test_text_that_no_tokenizer_takes_is_mended() -> None:
    assert well_formed("a\ud800b") == "a?b"
    assert well_formed("ä😀") == "ä😀"
    assert encode(load_tokenizer(MODEL), "a\ud800b") == encode(load_tokenizer(MODEL), "a?b")


def test_work_beyond_the_machine_is_refused(tmp_path: Path) -> None:
    require_memory(1, "a little")
    require_disk(tmp_path / "not" / "there", 1, "a little")
    with pytest.raises(EnvironmentProblem, match=r"^too much needs .* of memory, and .* are free"):
        require_memory(2**60, "too much")
    with pytest.raises(EnvironmentProblem, match=r"^too much needs .* TiB of disk at "):
        require_disk(tmp_path, 2**60, "too much")
