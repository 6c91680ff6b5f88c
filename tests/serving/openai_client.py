"""Asks a server of an ONNX export over HTTP, as OpenAI's clients ask."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from slimgpt.demo import MODEL
from slimgpt_serve.guard import VARIABLE
from tests.onnx_exports import Exports
from tests.onnx_serving import with_chat_template
from tests.serving.serving import Served

Answer = dict[str, Any]
PROMPT = "Once upon a time"


class Client:
    """Asks a server, and adds the name of its model."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60)

    def post(self, path: str, **body: Any) -> httpx.Response:
        return self.http.post(path, json={"model": "chat", **body})

    def complete(self, prompt: Any = PROMPT, **settings: Any) -> Answer:
        """The document of a completion, greedy unless told otherwise."""
        body = {"prompt": prompt, "temperature": 0, **settings}
        response = self.post("/v1/completions", **body)
        assert response.status_code == 200, response.text
        found: Answer = response.json()
        return found

    def texts(self, prompt: Any = PROMPT, **settings: Any) -> list[str]:
        return [choice["text"] for choice in self.complete(prompt, **settings)["choices"]]

    def chunks(self, path: str, **body: Any) -> list[Answer]:
        """The chunks of a stream, which must end as such streams do."""
        body = {"model": "chat", "temperature": 0, "stream": True, **body}
        with self.http.stream("POST", path, json=body) as response:
            assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
            lines = [line for line in response.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    def metrics(self) -> dict[str, float]:
        """Samples by name and labels, like ``requests_total{ok}``."""
        found = {}
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                labels = ",".join(sample.labels.values())
                name = sample.name.removeprefix("slimgpt_")
                found[f"{name}{{{labels}}}" if labels else name] = sample.value
        return found


@contextmanager
def serving_chat(folder: Path) -> Iterator[Client]:
    """A server of the embedded model, with a chat template."""
    export = with_chat_template(Exports(folder).make(MODEL).out, folder / "chat")
    environment = {k: v for k, v in os.environ.items() if k != VARIABLE}
    environment |= {"OMP_NUM_THREADS": "1"}
    options = (export, "--json", "--max-concurrency", 4)
    server = Served(Path(sys.executable), folder, *options, environment=environment)
    with closing(server):
        server.wait_ready()
        found = Client(server)
        with found.http:
            yield found
