"""What every test relies on: threads, checked shapes, reference data, what a marker needs."""

import os
import signal
from pathlib import Path

import jaxtyping
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

# Before anything imports slimgpt: shapes in its annotations are checked while testing.
jaxtyping.install_import_hook("slimgpt.obs", "beartype.beartype")

# A shell without job control starts what runs in the background with SIGINT ignored, and so would
# be every process that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, and in each process it starts
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The project's reference models and texts, which stand beside the repository."""
    folder = Path(os.environ.get("SLIMGPT_SHARED", REPOSITORY.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}; SLIMGPT_SHARED may name another folder")
    return folder


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The Python of the environment that has vLLM and slimgpt; `make test` makes it."""
    home = Path(os.environ.get("SLIMGPT_VLLM_ENV", REPOSITORY / ".venv-vllm"))
    python = home / "bin" / "python"
    if not python.exists():
        pytest.skip(f"needs vLLM, and there is no {python}: make test makes it")
    return python


@pytest.fixture(scope="session")
def vllm_source(vllm_python: Path) -> Path:
    """vLLM's own files, to be read."""
    [found] = vllm_python.parent.parent.glob("lib/python3*/site-packages/vllm")
    return found


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine cannot run."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (reason := _gpu_is_missing()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests measured (`record_property("measured", ...)`), one line each."""
    reports = terminalreporter.stats.get("passed", [])
    told = [
        f"{report.nodeid.removeprefix('tests/')}: {value}"
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "measured" and report.when == "call"
    ]
    if told:
        terminalreporter.section("measured")
        for line in sorted(told):
            terminalreporter.write_line(line)


def _gpu_is_missing() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "needs a CUDA device; torch sees none"
