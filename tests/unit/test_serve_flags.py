"""vLLM's flags after --, which vLLM is installed, and why it died."""

from __future__ import annotations

import pytest

from slimgpt.errors import EnvironmentProblem, UsageError
from slimgpt_serve.launcher.failure import refused_flag, root_cause
from slimgpt_serve.preflight.installed import Vllm, platform_of, require_vllm
from slimgpt_serve.preflight.vllm_flags import VllmFlags


def test_flags_are_handed_on_as_they_are():
    words = ("--kv_cache_dtype", "fp8", "--max-num-seqs=7", "-O3", "--lora-modules", "a=b", "-1.5")
    flags = VllmFlags(words)
    assert flags.words == words
    assert flags.value("kv-cache-dtype") == "fp8"
    assert flags.number("max-num-seqs", 1) == 7
    assert flags.number("max-num-batched-tokens", 1) == 1
    assert flags.number("kv-cache-dtype", 3) == 3
    assert "lora-modules" in flags
    assert "enable-lora" not in flags


@pytest.mark.parametrize(
    ("given", "number"),
    [("4096", 4096), ("2G", 2 * 2**30), ("2g", 2 * 10**9), ("2.5k", 2500), ("2.5K", 0), ("0.5", 0)],
)
def test_numbers_are_read_as_vllm_reads_them(given, number):
    assert (
        VllmFlags(["--kv-cache-memory-bytes", given]).number("kv-cache-memory-bytes", 0) == number
    )


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        (["--host", "0.0.0.0"], "--host"),
        (["--port=1"], "--port"),
        (["--api-key", "x"], "--api-key-file"),
        (["--tensor-parallel-size", "2"], "--tensor-parallel"),
        (["--tensor_parallel_size=2"], "--tensor-parallel"),
        (["-tp", "2"], "--tensor-parallel"),
        (["--tensor-par", "2"], "--tensor-parallel"),
        (["--max-model-len", "2"], "--max-model-len"),
        (["--speculative-config.model", "x"], "--draft"),
        (["-sc", "{}"], "--draft"),
        (["--seed", "1"], "--seed"),
        (["--uds", "/tmp/x"], "--host and --port"),
    ],
)
def test_a_flag_that_an_option_of_ours_sets_is_refused(words, ours):
    with pytest.raises(UsageError, match=f"after --: give it as {ours}"):
        VllmFlags(["--enable-lora", *words])


def test_a_word_that_is_no_flag_is_refused():
    with pytest.raises(UsageError, match="again after -- is no flag"):
        VllmFlags(["again"])


# -- the installed vLLM -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "found", "platform"),
    [
        ("auto", Vllm("0.32.0+cpu", "cpu"), "cpu"),
        ("cpu", Vllm("0.32.0+cpu", "cpu"), "cpu"),
        ("cuda:1", Vllm("0.33.0", "cuda"), "cuda"),
        ("cuda", None, "cuda"),
        ("cpu", None, "cpu"),
    ],
)
def test_the_platform_is_what_vllm_was_built_for(device, found, platform):
    assert platform_of(device, found) == platform


def test_another_device_than_vllm_was_built_for_is_refused():
    with pytest.raises(EnvironmentProblem, match=r"--device cuda: the vLLM .* built for cpu"):
        platform_of("cuda", Vllm("0.32.0+cpu", "cpu"))
    with pytest.raises(UsageError, match="--device tpu: give auto, cpu, cuda"):
        platform_of("tpu", None)


def test_an_old_vllm_is_refused_and_a_missing_one_names_the_extra():
    assert require_vllm(Vllm("0.26.0", "cuda"), "slimgpt x").release == (0, 26, 0)
    with pytest.raises(EnvironmentProblem, match=r"0.25.3 is installed, and slimgpt x needs 0.26"):
        require_vllm(Vllm("0.25.3", "cuda"), "slimgpt x")
    with pytest.raises(EnvironmentProblem, match=r"slimgpt x needs .* 'slimgpt\[vllm\]'"):
        require_vllm(None, "slimgpt x")


# -- why it died --------------------------------------------------------------------------------

ENGINE = """
(EngineCore pid=9) INFO 11-22 13:00:01 [core.py:133] Initializing a V1 LLM engine
(EngineCore pid=9) WARNING 11-22 13:00:01 [x.py:1] ValueError: of no consequence, said in passing
(Worker pid=10) ERROR 11-22 13:00:02 [multiproc_executor.py:870] Traceback (most recent call last):
(Worker pid=10) ERROR 11-22 13:00:02 [multiproc_executor.py:870]   File "x.py", line 1, in y
(Worker pid=10) ERROR 11-22 13:00:02 [multiproc_executor.py:870] slimgpt.errors.UsageError: tensor parallel 2 does not divide layer 1: give 1
(EngineCore pid=9) ERROR 11-22 13:00:03 [core.py:1100] Exception: WorkerProc initialization failed due to an exception in a background process. See stack trace for root cause.
(APIServer pid=8) Traceback (most recent call last):
(APIServer pid=8) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""  # noqa: E501


def test_the_cause_is_the_exception_that_others_follow_from():
    assert root_cause(ENGINE.splitlines()) == (
        "UsageError: tensor parallel 2 does not divide layer 1: give 1"
    )


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("ValueError: No available memory for the cache blocks.", True),
        ("torch.OutOfMemoryError: CUDA out of memory.", True),
        ("pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig", True),
        ("  Note: this is no exception", False),
        ("INFO: 127.0.0.1:1 - GET /health", False),
    ],
)
def test_exceptions_are_told_from_other_lines(line, cause):
    assert (root_cause([line]) is not None) is cause


PYDANTIC = """
pydantic_core._pydantic_core.ValidationError: 1 validation error for VllmConfig
  Value error, Cannot find the config file for awq [type=value_error, input_value=ArgsKwargs((), {}]
    For further information visit https://errors.pydantic.dev/2.13/v/value_error
"""


def test_what_pydantic_found_is_told_too():
    assert root_cause(PYDANTIC.splitlines()) == (
        "ValidationError: 1 validation error for VllmConfig: Value error, Cannot find the config "
        "file for awq"
    )


def test_what_the_argument_parser_said_is_found():
    lines = ["usage: vllm [-h]", "vllm: error: unrecognized arguments: --no-such-flag"]
    assert refused_flag(lines) == "unrecognized arguments: --no-such-flag"
    assert refused_flag(lines[:1]) is None
