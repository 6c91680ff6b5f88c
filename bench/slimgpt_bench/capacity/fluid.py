"""What a replica does at a rate, from the roofline alone: modelled, where nothing was measured.

Continuous batching as a fluid: prompts take their floor from the device, answers share what is left
of it. With r the rate, p the time of a prompt alone, q its part of a step that it shares with other
prompts, and s(B) the time of a decode step of B sequences,

    u = r E[q]                          share of time that goes into prompts
    TPOT = s(B) / (1 - u)               steps wait for prompts
    B = r E[tokens after the first] TPOT    Little's law
    TTFT = p / (1 - u) + r E[q^2] / (2 (1 - u))    and the queue of an M/G/1 server

Each request of a drawn sample is held against the SLO. Real engines are slower: times are divided
by an efficiency. That they let prompts and answers overlap is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from slimgpt_bench.capacity.replica import Replica
from slimgpt_bench.capacity.traffic import Pairs, Traffic
from slimgpt_bench.roofline.floor import floor
from slimgpt_bench.roofline.products import Step, decode, prefill
from slimgpt_bench.slo import Slo

SAMPLE = 4096
EFFICIENCY = 0.5
"""Of the roofline's speed that engines are assumed to reach."""

_PROMPTS, _BATCHES = 25, 17
_HALVINGS = 50
_MOST_STEPS = 200

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class State:
    """A replica at a rate.

    Attributes:
        prefill_share: of its time that prompts take.
        sequences: that decode at once.
        ttft_s: of each request of the sample.
        tpot_s: of all.
        e2e_s: of each request.
    """

    prefill_share: float
    sequences: float
    ttft_s: Values
    tpot_s: float
    e2e_s: Values


@dataclass(frozen=True)
class Fluid:
    """One replica under one traffic.

    Attributes:
        replica: its widths, devices and room.
        traffic: what comes.
        efficiency: in (0, 1].
        seed: of the sample.
    """

    replica: Replica
    traffic: Traffic
    efficiency: float = 1.0
    seed: int = 0

    @cached_property
    def sample(self) -> Pairs:
        """Prompt and answer tokens of requests."""
        return self.traffic.requests(SAMPLE, self.seed)

    @cached_property
    def held_tokens(self) -> float:
        """KV tokens of a request under way, on average over time: long answers stay longer."""
        prompt, output = self.sample.T.astype(np.float64)
        return float((output * (prompt + output / 2)).sum() / output.sum())

    @cached_property
    def longest_tokens(self) -> float:
        """KV tokens at the end of a long request: p95 of prompt and answer."""
        return float(np.quantile(self.sample.sum(axis=1), 0.95))

    @property
    def concurrent(self) -> float:
        """Sequences at once that the KV cache and the server hold, on average."""
        return min(self.replica.sequences, self.replica.kv_tokens / self.held_tokens)

    @property
    def concurrent_worst(self) -> float:
        """Likewise, where all are long and near their end."""
        return min(self.replica.sequences, self.replica.kv_tokens // self.longest_tokens)

    @cached_property
    def prefill_s(self) -> Values:
        """Time of each request's prompt, alone on the replica."""
        return self._of_prompts(lambda tokens: 1)

    @cached_property
    def busy_s(self) -> Values:
        """Time that each request's prompt takes from the others, in steps that are full."""
        return self._of_prompts(lambda tokens: max(1, self.replica.step_tokens // tokens))

    def _of_prompts(self, together: Callable[[int], int]) -> Values:
        """Time of each request's prompt, where so many of its length are read in one step."""
        prompts = np.maximum(1, np.rint(self.sample[:, 0] * (1 - self.traffic.prefix_share)))
        grid = np.unique(np.geomspace(1, prompts.max(), _PROMPTS).astype(np.int64))
        counts = np.array([together(int(n)) for n in grid])
        floors = self._floors(grid, lambda n: prefill(together(n), n)) / counts
        return np.asarray(np.interp(prompts, grid, floors))

    def step_s(self, sequences: float) -> float:
        """Time of a decode step."""
        grid, floors = self._steps
        return float(np.interp(max(1.0, sequences), grid, floors))

    @cached_property
    def _steps(self) -> tuple[NDArray[np.int64], Values]:
        context = max(1, round(self.held_tokens))
        most = max(1, int(self.concurrent))
        grid = np.unique(np.geomspace(1, most, _BATCHES).astype(np.int64))
        return grid, self._floors(grid, lambda n: decode(n, context))

    def _floors(self, grid: NDArray[np.int64], step: Callable[[int], Step]) -> Values:
        replica = self.replica
        found = [
            floor(replica.shape, step(int(n)), replica.accelerator, replica.numbers).seconds
            for n in grid
        ]
        return np.array(found) / self.efficiency

    @cached_property
    def later_tokens(self) -> float:
        """Mean tokens of an answer after its first."""
        return float(self.sample[:, 1].mean() - 1)

    def at(self, rate: float) -> State | None:
        """The replica at a rate; None where it can't keep up."""
        busy = rate * float(self.busy_s.mean())
        if busy >= 1:
            return None
        sequences = self._sequences(rate, busy)
        if sequences is None:
            return None
        waits = rate * float((self.busy_s**2).mean()) / (2 * (1 - busy))
        ttft = self.prefill_s / (1 - busy) + waits
        tpot = self.step_s(sequences) / (1 - busy)
        return State(busy, sequences, ttft, tpot, ttft + tpot * (self.sample[:, 1] - 1))

    def _sequences(self, rate: float, busy: float) -> float | None:
        """The fixed point of Little's law, from below; None beyond what the replica holds."""
        sequences = 0.0
        for _ in range(_MOST_STEPS):
            wanted = rate * self.later_tokens * self.step_s(sequences) / (1 - busy)
            if wanted > self.concurrent:
                return None
            if wanted - sequences <= 1e-6 * wanted:
                return wanted
            sequences = wanted
        return sequences

    def attainment(self, rate: float, slo: Slo) -> float:
        """Share of requests that meet the SLO; 0 where the replica can't keep up."""
        state = self.at(rate)
        return 0.0 if state is None else float(_met(state, self.sample[:, 1], slo).mean())

    def highest_rate(self, slo: Slo) -> float | None:
        """The highest rate that meets the SLO; None where none does."""
        if self.attainment(0.0, slo) < slo.attainment:
            return None
        low, high = 0.0, 1 / float(self.busy_s.mean())
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.attainment(middle, slo) >= slo.attainment:
                low = middle
            else:
                high = middle
        return low

    def utilisations(self, rate: float) -> dict[str, float]:
        """How much of each resource a rate takes at least; 1 is all of it."""
        most = self.concurrent
        state = self.at(rate)
        sequences = most if state is None else state.sequences
        return {
            "prefill compute": rate * float(self.busy_s.mean()),
            "decode bandwidth": rate * self.later_tokens * self.step_s(most) / most,
            "KV capacity": sequences * self.held_tokens / self.replica.kv_tokens,
            "max sequences": sequences / self.replica.sequences,
        }


def _met(state: State, outputs: NDArray[np.int64], slo: Slo) -> NDArray[np.bool_]:
    """Which requests meet every bound; an answer of one token has no later ones."""
    met = np.ones(len(outputs), dtype=bool)
    if slo.ttft_s is not None:
        met &= state.ttft_s <= slo.ttft_s
    if slo.e2e_s is not None:
        met &= state.e2e_s <= slo.e2e_s
    for bound in (slo.tpot_s, slo.itl_s):
        if bound is not None and state.tpot_s > bound:
            met &= outputs < 2
    return met
