"""A plan from a real sweep, held against a server whose truth is known."""

from collections.abc import Callable
from pathlib import Path

import pytest

from slimgpt.errors import GateMissed, Unresolved
from slimgpt.progress import Silent
from slimgpt_bench.artefact import describe
from slimgpt_bench.capacity.job import Asked, Outcome, plan_capacity
from slimgpt_bench.capacity.plan import Margins
from slimgpt_bench.load.job import run_load
from slimgpt_bench.load.options import LoadOptions
from slimgpt_bench.results import save
from tests.capacity_plans import PRUNED_8B, write_checkpoint, write_slo, write_traffic
from tests.mock_openai import Truth, serving

Tell = Callable[[str, object], None]

TOKENS = 6
TRUTH = Truth(ttft_s=0.05, gap_s=0.01, places=1)
"""A tenth of a second each, one after another: 10 requests a second are all it can do."""
BOX = "schema: 1\nname: box\nplatform: cpu\nmemory_gib: 64\nterabytes_per_s: 9\n"
BOX += "teraflops: {float32: 900}\n"


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with model, traffic, SLO and a sweep: at 4 a second it is well, at 16 it drowns."""
    root = tmp_path_factory.mktemp("swept")
    model = write_checkpoint(root / "model", PRUNED_8B)
    write_traffic(root / "traffic.yaml", rate_rps=6, prompt_tokens=8, output_tokens=TOKENS)
    write_slo(root / "slo.yaml", 0.8, ttft_s=0.5)
    (root / "box.yaml").write_text(BOX)
    options = LoadOptions(
        rates=(4.0, 16.0), duration_s=6.0, prompt="8", output=str(TOKENS), artefact=model
    )
    with serving(_truth(model)) as url:
        found = run_load(url, options, Silent())
    save(root / "run", found.document, found.requests)
    return root


def _truth(model: Path, ttft_s: float = TRUTH.ttft_s) -> Truth:
    digest = describe(model).digest
    return Truth(ttft_s=ttft_s, gap_s=TRUTH.gap_s, places=TRUTH.places, digest=digest)


def _plan(root: Path, url: str, duration_s: float) -> Outcome:
    asked = Asked(
        model=root / "model",
        traffic=root / "traffic.yaml",
        slo=root / "slo.yaml",
        accelerator=str(root / "box.yaml"),
        evidence=(root / "run",),
        margins=Margins(headroom=0.0, spares=0),
        verify=url,
        duration_s=duration_s,
    )
    return plan_capacity(asked, Silent())


@pytest.mark.slow
def test_a_plan_that_stands_stores_how_far_it_was_off(swept: Path, record_property: Tell) -> None:
    with serving(_truth(swept / "model")) as url:
        found = _plan(swept, url, 9.0)
    document = found.document
    rates = document["replica"]["rate_rps"]
    assert (rates["lower"]["value"], rates["upper"]["value"]) == (4, 16)
    assert document["plan"]["planned_replicas"]["value"] == 2
    verification = document["verification"]
    assert verification["rate_rps"] == pytest.approx(3)
    assert verification["resolution"] == "met"
    assert found.problem is None
    error = verification["error"]
    shown = ", ".join(f"{k} {v:+.1%}" for k, v in error.items() if not isinstance(v, str))
    record_property("measured", f"prediction error of a plan: {shown}")
    # Offered rates differ by what a Poisson process gives in so few seconds; service does not.
    assert abs(error["tpot_s.median"]) < 0.1
    assert abs(error["ttft_s.median"]) < 0.35
    assert abs(error["attainment"]) < 0.05


@pytest.mark.slow
def test_a_replica_that_misses_the_slo_refutes_the_plan(swept: Path) -> None:
    with serving(_truth(swept / "model", ttft_s=0.8)) as url:
        found = _plan(swept, url, 5.0)
    assert isinstance(found.problem, GateMissed)
    assert found.document["verification"]["resolution"] == "missed"
    assert "the plan is refuted" in str(found.problem)
    assert found.document["valid"] is False


@pytest.mark.slow
def test_too_short_a_look_decides_nothing(swept: Path) -> None:
    with serving(_truth(swept / "model")) as url:
        found = _plan(swept, url, 1.5)
    assert isinstance(found.problem, Unresolved)
    assert "--verify" in str(found.problem)


@pytest.mark.slow
def test_a_server_that_fails_every_request_is_an_invalid_run(swept: Path) -> None:
    truth = Truth(failures={"http_500": 1.0}, digest=describe(swept / "model").digest)
    with serving(truth) as url:
        found = _plan(swept, url, 3.0)
    assert isinstance(found.problem, Unresolved)
    assert "the run is invalid" in str(found.problem)
    assert "http_5xx" in str(found.problem)
    assert found.document["verification"]["measured"] == {}
