"""Questions to real vLLM engines, and their answers set beside transformers'.

vLLM lives in an environment of its own (its pins and ours differ); offline_engine.py is run there.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from slimgpt.cli import run
from slimgpt.demo import CALIBRATION, MODEL
from slimgpt.loading import load_model

SCRIPT = Path(__file__).with_name("offline_engine.py")
GIB = 2**30
KV_SPACE_BYTES = GIB
KERNEL_HEAD = 32
"""The narrowest head of vLLM's CPU kernels: narrower ones are padded to it."""
IN_PROCESS = {"distributed_executor_backend": "uni", "enforce_eager": True}
"""Options of an engine that starts in seconds: no processes of its own, nothing compiled."""
CLOSE = 1e-4
"""Largest difference of a log-probability, float32 against float32: sums in another order."""


@dataclass(frozen=True)
class Question:
    """What one engine is asked.

    Attributes:
        model: checkpoint directory.
        prompts: token ids.
        options: of ``LLM``, added to float32 and a seed.
        max_tokens: to generate, greedily.
        adapter: LoRA directory, or None.
        prompt_logprobs: ask for the log-probabilities of the prompt too.
    """

    model: Path
    prompts: Sequence[Sequence[int]]
    options: dict[str, Any]
    max_tokens: int = 16
    adapter: Path | None = None
    prompt_logprobs: bool = True

    def to_json(self) -> dict[str, Any]:
        fixed = {"model": str(self.model), "dtype": "float32", "seed": 0}
        return {
            "options": fixed | self.options,
            "prompts": [list(p) for p in self.prompts],
            "max_tokens": self.max_tokens,
            "adapter": str(self.adapter) if self.adapter else None,
            "prompt_logprobs": self.prompt_logprobs,
        }


@dataclass(frozen=True)
class Engines:
    """Runs engines with the Python of the vLLM environment.

    Attributes:
        python: of that environment.
        shared: folder that all pytest workers see.
    """

    python: Path
    shared: Path

    def once(self, name: str, make: Callable[[Path], Any]) -> Any:
        """JSON of a group, made by the first worker that asks, read by the others."""
        folder = self.shared / name
        folder.mkdir(parents=True, exist_ok=True)
        result = folder / "result.json"
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not result.exists():
                made = make(folder)
                result.write_text(json.dumps(made))
        return json.loads(result.read_text())

    def ask(
        self, questions: Sequence[Question], *, in_process: bool = True, **environment: str
    ) -> tuple[list[dict[str, Any]], str]:
        """Answers in the order of the questions, and what vLLM wrote.

        Args:
            questions: engines run one after the other.
            in_process: the engine shares the script's process; one that has workers can't.
            environment: added to the script's.
        """
        self.shared.mkdir(parents=True, exist_ok=True)
        answers = self.shared / f"answers-{os.getpid()}.json"
        done = subprocess.run(
            [self.python, SCRIPT, answers],
            input=json.dumps([q.to_json() for q in questions]),
            env=self.environment(**environment)
            | ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if in_process else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        return json.loads(answers.read_text()), done.stdout

    def environment(self, **more: str) -> dict[str, str]:
        """One GiB of KV cache, one thread wherever the system puts it, no network."""
        return {
            **os.environ,
            "VLLM_CPU_KVCACHE_SPACE": str(KV_SPACE_BYTES // GIB),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            **more,
        }


@torch.no_grad()
def log_probabilities(model: Path, ids: Sequence[int]) -> Tensor:
    """transformers' log-probabilities (tokens, vocabulary) after each of ``ids``, in float32."""
    loaded, _ = load_model(model, device="cpu")
    return loaded(torch.tensor([list(ids)]), use_cache=False).logits[0].log_softmax(-1)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Agreement:
    """How far one engine's answers are from transformers'.

    Attributes:
        tokens: generated.
        greedy: of them, transformers' own choice, or as likely to within CLOSE.
        largest: difference of a log-probability, prompts included.
        mean: the same, on average.
    """

    tokens: int
    greedy: int
    largest: float
    mean: float

    def __str__(self) -> str:
        return (
            f"{self.greedy}/{self.tokens} greedy tokens, log-probabilities differ by at most "
            f"{self.largest:.1e}, {self.mean:.1e} on average"
        )


def agreement(
    answers: Sequence[dict[str, Any]], prompts: Sequence[Sequence[int]], reference: Path
) -> Agreement:
    """Sets an engine's answers beside transformers' on the same tokens."""
    assert len(answers) == len(prompts)
    greedy, differences = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        new = answer["ids"]
        expected = log_probabilities(reference, [*prompt, *new])[:-1]
        chosen = expected[len(prompt) - 1 :]
        best, given = chosen.max(-1).values, chosen.gather(1, torch.tensor(new)[:, None])[:, 0]
        greedy.append(best - given <= CLOSE)
        said = torch.tensor([*answer["prompt_logprobs"], *answer["logprobs"]])
        following = torch.tensor([*prompt, *new])[1:, None]
        differences.append((expected.gather(1, following)[-len(said) :, 0] - said).abs())
    tokens, off = torch.cat(greedy), torch.cat(differences)
    return Agreement(len(tokens), int(tokens.sum()), float(off.max()), float(off.mean()))


def assert_agrees(
    answers: Sequence[dict[str, Any]], question: Question, reference: Path
) -> Agreement:
    """Every token is transformers' greedy choice, and every log-probability is transformers'."""
    found = agreement(answers, question.prompts, reference)
    assert found.tokens == question.max_tokens * len(question.prompts)
    assert found.greedy == found.tokens
    assert found.largest <= CLOSE
    return found


def kv_tokens(kv_heads: int, head_dim: int, block: int) -> int:
    """Tokens that the shape arithmetic gives one GiB: whole blocks of float32 keys and values."""
    token_bytes = 2 * 4 * kv_heads * max(head_dim, KERNEL_HEAD)
    return KV_SPACE_BYTES // (token_bytes * block) * block


def prune_embedded(out: Path, ratio: str, *options: str) -> None:
    """The embedded model, pruned as a user would."""
    few = ("--calibration", str(CALIBRATION), "--samples", "16", "--sequence-length", "64")
    assert run(["prune", str(MODEL), str(out), "--ratio", ratio, *few, *options, "-q"]) == 0
