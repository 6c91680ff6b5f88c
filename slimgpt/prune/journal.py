"""The work of a pruning run: one file a finished block, each whole or absent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slimgpt.checkpoint.writer import write_durably
from slimgpt.errors import IntegrityError
from slimgpt.workspace import Workspace

if TYPE_CHECKING:
    from torch import Tensor


class Journal(Workspace):
    """The work directory of a pruning run: its blocks, and what is known of each layer."""

    def open(self, fingerprint: Mapping[str, Any], *, fresh: bool) -> int:
        """Starts or resumes a run; arguments and errors as :meth:`Workspace.claim`.

        Returns:
            how many decoder layers are finished.
        """
        self.claim(fingerprint, fresh=fresh)
        (self.directory / "blocks").mkdir(exist_ok=True)
        return self._finished_layers()

    @property
    def outer(self) -> Path:
        """File of the tensors outside the decoder layers."""
        return self.directory / "blocks" / "outer.safetensors"

    def block(self, layer: int) -> Path:
        """File of a finished layer."""
        return self.directory / "blocks" / f"layer-{layer:05}.safetensors"

    def finish_layer(
        self, layer: int, tensors: Mapping[str, Tensor], record: Mapping[str, Any]
    ) -> None:
        """Makes a layer and its record durable, as one file."""
        write_durably(self.block(layer), tensors, {"record": json.dumps(record)})

    def read_layer(self, layer: int) -> dict[str, Tensor]:
        """A finished layer.

        Raises:
            IntegrityError: the file was damaged since.
        """
        from safetensors import SafetensorError, safe_open

        path = self.block(layer)
        try:
            with safe_open(path, framework="pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError):
            raise IntegrityError(f"{path} is damaged: start again with --fresh") from None

    def read_record(self, layer: int) -> dict[str, Any]:
        """The record of a finished layer, without its tensors."""
        from safetensors import safe_open

        with safe_open(self.block(layer), framework="pt") as file:
            record: dict[str, Any] = json.loads(file.metadata()["record"])
        return record

    def _finished_layers(self) -> int:
        count = 0
        while self.block(count).exists():
            count += 1
        return count
