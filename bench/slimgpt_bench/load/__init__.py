"""Load on a server that speaks OpenAI's API: open and closed loops, sweeps, the search for a rate.

Words used here:

- scheduled: when a request was to be sent. In an open loop that is when it arrived, whatever the
  client or a cap on concurrency made of it; in a closed loop, when its place became free.
- TTFT (time to first token): from the scheduled send to the first chunk with output.
- E2E: from the scheduled send to the last chunk with output, or the one that tells its end.
- TPOT (time per output token): (E2E - TTFT) / (tokens - 1); an answer of one token has none.
- ITL (inter-token latency): each gap between two chunks. A chunk may hold more than a token.
- goodput: requests a second that met every bound of the SLO. Failed requests meet none.

What begins with ``service`` runs from the actual send instead: it leaves out what waited before.
"""
