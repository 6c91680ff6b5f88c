"""Where a job may write: what would be lost or overwritten is refused before anything is done."""

import os
from pathlib import Path

import pytest

from tests.command_line import USAGE, Desk
from tests.integration.test_compress import GATE, compress, write_recipe


@pytest.fixture
def quick(desk: Desk) -> Desk:
    """A desk with a recipe that only prunes."""
    write_recipe(desk, recover=None, evaluate=None, gates={"weight_bytes": 1.0})
    return desk


REPORTS = {
    "in MODEL": ("model/report", "lies inside"),
    "MODEL itself": ("model", "lies inside"),
    "OUT itself": ("out", "lies inside"),
    "in OUT": ("out/report", "lies inside"),
    "in the work directory": ("out.partial/report", "lies inside"),
    "the work directory": ("out.partial", "lies inside"),
    "by a detour": ("other/../model/report", "lies inside"),
    "a file": ("release.yaml", "is a file"),
    "below a file": ("release.yaml/report", "is a file"),
    "a link to nothing": ("dangling", "is a link to nothing"),
    "too long a name": ("r" * 300, "File name too long"),
    "no UTF-8": ("r\udcff", "is no UTF-8"),
}


@pytest.mark.parametrize("what", REPORTS)
def test_a_report_goes_where_it_harms_nothing_and_stays(quick: Desk, what: str) -> None:
    (quick.root / "other").mkdir()
    (quick.root / "dangling").symlink_to(quick.root / "nowhere")
    place, says = REPORTS[what]
    report = f"{quick.root}/{place}"
    quick.refuses(compress(quick, "--quiet", "--report", report), USAGE, "--report", says)


def test_the_usual_place_of_a_report_may_be_the_model(quick: Desk) -> None:
    model = quick.model.rename(quick.root / "out.report")
    command = ["compress", str(model), str(quick.out), "--recipe", str(quick.root / "release.yaml")]
    quick.refuses(command, USAGE, "out.report lies inside", "give a folder outside")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_report_that_can_t_be_written_is_found_before_anything_is_done(quick: Desk) -> None:
    closed = quick.root / "closed"
    closed.mkdir(mode=0o500)
    quick.refuses(compress(quick, "--report", str(closed / "report")), USAGE, "is not writable")


def test_an_out_that_no_library_could_write_to_is_refused(quick: Desk) -> None:
    quick.out = Path(f"{quick.root}/out\udcff")
    quick.refuses(compress(quick, "--quiet"), USAGE, r"out\udcff is no UTF-8")


def test_a_model_in_the_work_directory_is_not_cleared_away(quick: Desk) -> None:
    assert quick.run(compress(quick, "--set", "gates.weight_bytes=0.1")).code == GATE
    pruned = quick.out.with_name("out.partial") / "pruned"
    command = ["compress", str(pruned), str(quick.out), "--ratio", "0.1", "--fresh"]
    quick.refuses(command, USAGE, "out.partial, where the run would work")
