"""Where vLLM is, and how a group of engines runs once for all workers."""

import os
from pathlib import Path

import pytest
from transformers.utils.logging import disable_progress_bar

from tests.serving.engines import Engines
from tests.tiny_models import Tiny


@pytest.fixture(scope="session")
def engines(vllm_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Engines:
    """Asks vLLM engines; what they answered is shared by all workers."""
    own = tmp_path_factory.getbasetemp()
    several = "PYTEST_XDIST_WORKER" in os.environ
    return Engines(vllm_python, (own.parent if several else own) / "engines")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """Tiny checkpoints of every family, dense and pruned."""
    disable_progress_bar()
    return Tiny(tmp_path_factory.mktemp("tiny"))
