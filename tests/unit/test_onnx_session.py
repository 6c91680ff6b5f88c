"""Opening an export: the package, the device, threads; and what goes wrong while it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from slimgpt.errors import EnvironmentProblem, IntegrityError, SlimGPTError, UsageError
from slimgpt_serve.onnx_runtime import installed
from slimgpt_serve.onnx_runtime.artefact import read_artefact
from slimgpt_serve.onnx_runtime.runner import BadLogits, Runner
from slimgpt_serve.onnx_runtime.session import OnnxSession, open_session
from tests.onnx_graphs import (
    CONTEXT,
    VOCABULARY,
    Edit,
    following,
    told,
    with_caches,
    write_table,
)

HAS_GPU = Path("/dev/nvidiactl").exists()
USAGE, ENVIRONMENT, INTEGRITY = UsageError, EnvironmentProblem, IntegrityError


def opened(
    folder: Path, *, device: str = "cpu", threads: int = 1, prepack: bool = True
) -> OnnxSession:
    return open_session(read_artefact(folder), device=device, threads=threads, prepack=prepack)


# -- the package -----------------------------------------------------------------------------------


def test_two_packages_in_one_folder_are_refused_with_what_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / "packages/onnxruntime_directml-1.32.0.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-directml\nVersion: 1.32.0\n")
    export = write_table(tmp_path / "export")
    opened(export)
    monkeypatch.syspath_prepend(metadata.parent.parent)
    with pytest.raises(EnvironmentProblem) as caught:
        opened(export)
    for words in (
        "and onnxruntime-directml are installed over each other",
        "pip uninstall -y onnxruntime",
        "pip install 'slimgpt[onnx]' (or 'slimgpt[onnx-gpu]'",
    ):
        assert words in str(caught.value)


def test_no_package_is_a_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "_DISTRIBUTIONS", ("no-such-runtime",))
    with pytest.raises(EnvironmentProblem, match=r"pip install 'slimgpt\[onnx\]'"):
        installed.require_one_runtime()


def test_a_package_without_its_files_is_told_from_a_missing_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    with pytest.raises(EnvironmentProblem, match="files of onnxruntime are not whole: run pip un"):
        opened(write_table(tmp_path))


# -- the device ------------------------------------------------------------------------------------


def bfloat16(model: Any) -> None:
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16


def half(folder: Path) -> Path:
    return write_table(folder, following(dtype="float16"))


def whole(folder: Path) -> Path:
    return write_table(folder)


def brain(folder: Path) -> Path:
    return write_table(folder, edit=bfloat16)


NO_CUDA = "an NVIDIA GPU, CUDA 13, cuDNN 9 and pip install 'slimgpt[onnx-gpu]'"
DEVICES: dict[str, tuple[Callable[[Path], Path], str, type[SlimGPTError], tuple[str, ...]]] = {
    "no device": (whole, "gpu", USAGE, ("--device gpu", "auto, cpu, cuda or cuda:0")),
    "fp32 on a GPU": (whole, "cuda", USAGE, ("--device cuda:", "float32", "--precision fp16")),
    "bf16 on a CPU": (brain, "cpu", ENVIRONMENT, ("bfloat16", "--precision fp32")),
    "GPU missing": (half, "cuda", ENVIRONMENT, ("--device cuda:", NO_CUDA, "--device cpu")),
    "second GPU missing": (half, "cuda:1", ENVIRONMENT, ("--device cuda:1:", NO_CUDA)),
}


@pytest.mark.parametrize(("write", "device", "kind", "says"), DEVICES.values(), ids=DEVICES)
def test_a_device_that_it_cannot_run_on(
    tmp_path: Path,
    write: Callable[[Path], Path],
    device: str,
    kind: type[SlimGPTError],
    says: tuple[str, ...],
    capfd: pytest.CaptureFixture[str],
) -> None:
    if HAS_GPU and kind is ENVIRONMENT and device.startswith("cuda"):
        pytest.skip("there is a GPU here")
    with pytest.raises(kind) as caught:
        opened(write(tmp_path), device=device)
    for words in says:
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", ""), "ONNX Runtime adds no lines of its own"


@pytest.mark.skipif(HAS_GPU, reason="auto would take the GPU")
@pytest.mark.parametrize("write", [whole, half])
def test_auto_is_a_cpu_where_there_is_no_gpu(
    tmp_path: Path, write: Callable[[Path], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    session = opened(write(tmp_path), device="auto")
    assert (session.provider, session.device) == ("CPUExecutionProvider", "cpu")
    assert capfd.readouterr() == ("", "")


def test_threads_are_those_given_or_those_that_may_run(tmp_path: Path) -> None:
    assert opened(write_table(tmp_path), threads=3).threads == 3
    assert installed.threads_to_use({"OMP_NUM_THREADS": "5"}) == 5
    most = len(os.sched_getaffinity(0))
    for odd in ("", "0", "many", "1,2"):
        assert 1 <= installed.threads_to_use({"OMP_NUM_THREADS": odd}) <= most


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("x", None),
        ("1 0", None),
    ],
)
def test_a_containers_limit_is_rounded_up_to_cores(
    tmp_path: Path, text: str, cores: int | None
) -> None:
    path = tmp_path / "cpu.max"
    assert installed._quota(path) is None
    path.write_text(text)
    assert installed._quota(path) == cores


def test_weights_may_stay_as_they_are_in_the_file(tmp_path: Path) -> None:
    folder = write_table(tmp_path)
    packed, plain = (opened(folder, prepack=prepack) for prepack in (True, False))
    expected = Runner(packed, 4, 1).prefill(0, [1, 2])
    assert np.array_equal(Runner(plain, 4, 1).prefill(0, [1, 2]), expected)


# -- ONNX Runtime's own failures -------------------------------------------------------------------


def unknown_operator(model: Any) -> None:
    model.graph.node.append(helper.make_node("NoSuchOperator", ["table"], ["x"]))


def test_what_onnx_runtime_refuses_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = write_table(tmp_path, edit=unknown_operator)
    with pytest.raises(
        IntegrityError, match=r"model\.onnx can't be loaded by ONNX Runtime: "
    ) as caught:
        opened(folder)
    assert "NoSuchOperator" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_what_fails_while_it_runs_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    session = opened(write_table(tmp_path))
    binding = session.binding()
    binding.bind_cpu_input("input_ids", np.array([[VOCABULARY]]))
    binding.bind_output("logits")
    with pytest.raises(IntegrityError, match="fails while it runs: ") as caught:
        session.run(binding)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_memory_that_is_not_there_is_said_before_it_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(write_table(tmp_path / "small"))
    with pytest.raises(
        EnvironmentProblem, match="bytes on cpu can't be had: the memory is not enough"
    ):
        session.memory(2**60)
    monkeypatch.setattr("slimgpt_serve.onnx_runtime.kv_cache.free_memory_bytes", lambda: 2**20)

    def edit(model: Any) -> None:
        with_caches(("b", 64, "past", 64))(model)
        told(shape='{"layers": [{"kv_heads": 64}]}', head_dim="64")(model)

    large = opened(write_table(tmp_path / "large", edit=edit))
    says = (
        r"keys and values of 10 texts of 20 tokens need 6\.2 MiB, and 1\.0 MiB of memory are free"
    )
    with pytest.raises(EnvironmentProblem, match=says):
        Runner(large, 20, 10)


# -- the runner's limits ---------------------------------------------------------------------------


def runner(folder: Path, edit: Edit = lambda model: None, **options: Any) -> Runner:
    made = Runner(opened(write_table(folder, following(**options), edit)), 6, 3)
    assert (made.capacity, made.slots, made.vocabulary, made.kv_bytes) == (6, 3, VOCABULARY, 0)
    return made


LIMITS: dict[str, tuple[Callable[[Runner], object], tuple[str, ...]]] = {
    "nothing": (lambda r: r.prefill(0, []), ("no tokens to read",)),
    "too long": (lambda r: r.prefill(0, [1] * 7), ("7 tokens after 0", "capacity of 6 tokens")),
    "too long after others": (lambda r: r.prefill(0, [1, 2], 5), ("2 tokens after 5",)),
    "a slot is full": (lambda r: r.decode([1, 1], [2, 6]), ("1 tokens after 6", "capacity of 6")),
    "beyond the vocabulary": (lambda r: r.prefill(0, [3, 8]), ("token id 8", "vocabulary of 8")),
    "below the vocabulary": (lambda r: r.decode([-1], [1]), ("token id -1",)),
    "no context": (lambda r: Runner(r.session, CONTEXT + 1, 1), ("33 tokens", "1 to 32")),
    "no capacity": (lambda r: Runner(r.session, 0, 1), ("0 tokens: give 1 to 32",)),
}


@pytest.mark.parametrize(("ask", "says"), LIMITS.values(), ids=LIMITS)
def test_what_does_not_fit_is_refused(
    tmp_path: Path, ask: Callable[[Runner], object], says: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        ask(runner(tmp_path))
    for words in says:
        assert words in str(caught.value)


def test_logits_that_are_no_numbers_name_their_rows_and_spare_the_others(tmp_path: Path) -> None:
    made = runner(tmp_path, nan=(2, 5))
    assert made.decode([1, 3], [0, 0]).argmax(1).tolist() == [2, 4]
    with pytest.raises(BadLogits, match=r"no numbers.*--precision fp32") as caught:
        made.decode([2, 3, 5], [0, 0, 0])
    assert caught.value.rows == (0, 2)
    assert caught.value.logits[1].argmax() == 4
    with pytest.raises(BadLogits) as caught:
        made.prefill(1, [1, 2])
    assert (caught.value.rows, caught.value.exit_code) == ((0,), 5)


def test_a_model_without_attention_runs_too(tmp_path: Path) -> None:
    made = runner(tmp_path, dtype="float16")
    assert made.prefill(0, [1, 2]).dtype == np.float32
    made.move(0, 2, 2)
    assert made.prefill(2, [4], 2).argmax() == 5
