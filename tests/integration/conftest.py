"""What integration tests share: tiny checkpoints, each written and pruned once a process."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers.utils.logging import disable_progress_bar

from tests.command_line import Desk, write_small
from tests.tiny_models import Tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiny]:
    """Tiny checkpoints by name (CASES), and what pruning makes of them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    disable_progress_bar()
    yield Tiny(tmp_path_factory.mktemp("tiny"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model cut to two layers; to be copied, not changed."""
    path = tmp_path_factory.mktemp("small") / "model"
    write_small(path)
    return path


@pytest.fixture
def desk(tmp_path: Path, small: Path, capfd: pytest.CaptureFixture[str]) -> Desk:
    """A folder with a copy of the small model, and the command line."""
    shutil.copytree(small, tmp_path / "model")
    return Desk(tmp_path, capture=capfd)
