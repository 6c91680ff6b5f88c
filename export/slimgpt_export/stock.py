"""A checkpoint that stock transformers and stock vLLM load: written, proved and published."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from slimgpt.checkpoint.digest import require_finite, source_digest
from slimgpt.checkpoint.reader import CARD, Checkpoint
from slimgpt.checkpoint.writer import assemble, copy_sidecars, publish, write_durably, write_json
from slimgpt.destination import require_published
from slimgpt.errors import GateMissed
from slimgpt.loading import require_loadable, require_stock_code
from slimgpt.progress import Progress, Silent, stage
from slimgpt.prune.journal import Journal
from slimgpt.release.card.card import CardFacts, write_card
from slimgpt.release.lineage import read_lineage
from slimgpt.release.manifest import describe, seal
from slimgpt.resources import peak_rss_bytes, require_disk, resolve_device
from slimgpt.tokenizer import has_tokenizer, save_tokenizer
from slimgpt.workspace import work_bytes
from slimgpt_export.layout import Layout, plan_layout
from slimgpt_export.padding import pad_layer
from slimgpt_export.parity import (
    EXACT,
    Parity,
    compare,
    logits_of,
    probe,
    require_room,
    require_same,
)
from slimgpt_export.stock_words import card_section, needs_padding

if TYPE_CHECKING:
    from torch import Tensor
from slimgpt_export.runs import fingerprint, require_places


@dataclass(frozen=True, slots=True)
class StockOptions:
    """How a stock checkpoint is made.

    Attributes:
        pad: fill layers with zeros up to one width.
        seed: of the tokens that source and result are compared on.
        device: ``auto``, ``cpu`` or ``cuda[:i]``: where they are compared.
        fresh: throw away what a killed run left.
    """

    pad: bool = False
    seed: int = 0
    device: str = "auto"
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class StockResult:
    """What was written.

    Attributes:
        out: the checkpoint.
        layout: its class and shapes.
        bytes_per_value: of the stored weights.
        dense: parameters of the model that it was pruned from; None where no manifest tells.
        parity: how far its logits are from the source's; None where an earlier run had proved it
            and was killed when only the clean-up was left.
        seconds: wall time.
        peak_rss_bytes: most resident memory of this process.
    """

    out: Path
    layout: Layout
    bytes_per_value: int
    dense: Mapping[str, int] | None
    parity: Parity | None
    seconds: float
    peak_rss_bytes: int


def export_stock(
    model: Path,
    out: Path,
    options: StockOptions,
    *,
    source_name: str | None = None,
    progress: Progress | None = None,
) -> StockResult:
    """Writes a checkpoint in a stock layout and publishes it if its logits are the source's.

    Args:
        model: a dense or pruned checkpoint.
        out: must not exist; appears complete or not at all.
        options: how.
        source_name: how MODEL is called where it has no manifest; default its directory name.
        progress: watches.

    Raises:
        GateMissed: the result is another function; nothing is published.
        SlimGPTError: every other expected failure; OUT is then untouched.
    """
    started = time.monotonic()
    require_places(model, out)
    checkpoint = Checkpoint(model)
    require_loadable(checkpoint.meta)
    require_stock_code(checkpoint.meta)
    layout = plan_layout(checkpoint.meta)
    if layout.padded and not options.pad:
        raise needs_padding(checkpoint.meta, layout)
    name = source_name or model.resolve().name
    run = _Run(checkpoint, out, layout, options, name, progress or Silent())
    return StockResult(
        out=out,
        layout=layout,
        bytes_per_value=checkpoint.meta.bytes_per_value,
        dense=run.lineage.counts if run.lineage.recipe else None,
        parity=run.execute(),
        seconds=time.monotonic() - started,
        peak_rss_bytes=peak_rss_bytes(),
    )


class _Run:
    """One run: everything that is known before the first layer."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        out: Path,
        layout: Layout,
        options: StockOptions,
        name: str,
        progress: Progress,
    ) -> None:
        self.checkpoint, self.out, self.layout = checkpoint, out, layout
        self.options, self.progress = options, progress
        self.device = resolve_device(options.device).type
        total = sum(path.stat().st_size for path in checkpoint.files)
        with stage(progress, "checking weights", total):
            require_finite(checkpoint, progress.advance)
        digest = source_digest(checkpoint)
        self.lineage = read_lineage(checkpoint, name, digest)
        export = {"format": "stock", "model_digest": digest, "seed": options.seed}
        export["padded"] = layout.padded
        self.recipe = dict(self.lineage.recipe) | {"export": export}

    def execute(self) -> Parity | None:
        """Runs to the end and returns how far the result is from the source, if it was compared."""
        require_room(self.layout.shape)
        twice = 2 * self.layout.shape.weight_bytes(self.checkpoint.meta.bytes_per_value)
        require_disk(self.out.parent, twice - work_bytes(self.out), "the stock checkpoint")
        mark = fingerprint(self.recipe, self.lineage, self.device)
        if self.out.exists():
            require_published(self.out, mark)
        journal, parity = Journal(self.out), None
        with closing(journal):
            done = journal.open(mark, fresh=self.options.fresh)
            if not self.out.exists():  # else killed after publishing: only the clean-up was left
                parity = self._make(journal, done)
            journal.remove()
        return parity

    def _make(self, journal: Journal, done: int) -> Parity:
        self._write_blocks(journal, done)
        staging = self._gather(journal)
        try:
            parity = self._prove(staging)
        except GateMissed:
            journal.remove()  # else the same command would find the wrong layers, and go on
            raise
        self._publish(staging, parity)
        return parity

    def _write_blocks(self, journal: Journal, done: int) -> None:
        import torch

        source, target = self.layout.source, self.layout.shape
        if not journal.outer.exists():
            outer = {name: self.checkpoint.outer(name) for name in source.outer_tensors()}
            write_durably(journal.outer, outer, {})
        dtype = getattr(torch, self.checkpoint.meta.dtype)
        with stage(self.progress, "writing layers", len(source.layers)):
            for index, layer in enumerate(source.layers):
                if index >= done:
                    tensors = self.checkpoint.layer(index)
                    journal.finish_layer(
                        index, _named(index, pad_layer(tensors, layer, target, dtype)), {}
                    )
                self.progress.advance()

    def _gather(self, journal: Journal) -> Path:
        """Weights, config and sidecars, put together in the work directory."""
        meta, staging = self.checkpoint.meta, journal.staging()
        count = len(self.layout.shape.layers)
        assemble([journal.outer, *(journal.block(i) for i in range(count))], staging)
        write_json(staging / "config.json", self.layout.config)
        copy_sidecars(self.checkpoint, staging)
        # AutoTokenizer goes by the model type, and knows ours as that of the family.
        if self.layout.config["model_type"] != meta.family.model_type and has_tokenizer(
            meta.directory
        ):
            save_tokenizer(meta.directory, staging)
        return staging

    def _prove(self, staging: Path) -> Parity:
        """Loads source and result as users do, one after the other, and compares their logits."""
        meta, device = self.checkpoint.meta, self.options.device
        ids = probe(meta, self.options.seed)
        with stage(self.progress, "comparing logits", 2):
            source = logits_of(meta.directory, ids, device)
            self.progress.advance()
            result = logits_of(staging, ids, device)
            self.progress.advance()
        parity = compare(source, result, ids.shape[1])
        require_same(parity)
        return parity

    def _publish(self, staging: Path, parity: Parity) -> None:
        with stage(self.progress, "writing checkpoint", 1):
            lineage, shape = self.lineage, self.layout.shape
            after = {"after": shape.parameters, "decoder_after": shape.decoder_parameters}
            manifest = describe(
                source=lineage.source,
                recipe=self.recipe,
                shape=shape,
                counts=dict(lineage.counts) | after,
                # What was found is noise of the last bits, and equal runs give equal bytes.
                quality=dict(lineage.quality)
                | {"export": {"logits_within": EXACT, "tokens": parity.tokens}},
                device=self.device,
            )
            write_card(staging, CardFacts(manifest, shape, None, self.checkpoint.directory, True))
            with (staging / CARD).open("a", encoding="utf-8") as card:
                card.write(card_section(self.layout, parity))
            seal(staging, manifest)
            publish(staging, self.out)
            self.progress.advance()


def _named(index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"model.layers.{index}.{name}": tensor for name, tensor in tensors.items()}
