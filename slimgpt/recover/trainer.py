"""transformers' Trainer, with our loss, our checkpoints and our held-out examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from transformers.trainer import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback
from transformers.training_args import TrainingArguments

from slimgpt.errors import EnvironmentProblem, GateMissed
from slimgpt.progress import Progress
from slimgpt.recover.batches import collate, scored_logits
from slimgpt.recover.checkpoints import keep_only
from slimgpt.recover.data import Example
from slimgpt.recover.options import RecoverOptions

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


class LoraTrainer(Trainer):
    """Takes the loss on the scored tokens, against the data and, if wished, the dense model."""

    def __init__(
        self,
        model: Any,
        arguments: TrainingArguments,
        examples: tuple[Example, ...],
        options: RecoverOptions,
        teacher: Any | None,
        callbacks: list[TrainerCallback],
    ) -> None:
        data: Any = examples  # anything with a length and items will do
        super().__init__(
            model=model,
            args=arguments,
            train_dataset=data,
            data_collator=collate,
            callbacks=callbacks,
        )
        for printing in (PrinterCallback, ProgressCallback):
            self.remove_callback(printing)
        self.teacher, self.options = teacher, options
        # Our loss is a mean over the scored tokens of the whole batch, however it is split.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        logits, targets = scored_logits(model, inputs)
        total = training_loss(logits, targets, self._taught(inputs), self.options)
        if not total.isfinite():
            raise diverged("training loss")
        return total / (len(targets) if num_items_in_batch is None else num_items_in_batch)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._save_checkpoint(*args, **kwargs)
        except (OSError, RuntimeError, SafetensorError) as reason:
            raise EnvironmentProblem(
                f"{self.args.output_dir}: a training checkpoint can't be written: {reason}"
            ) from None

    def _taught(self, inputs: dict[str, Tensor]) -> Tensor | None:
        if self.teacher is None:
            return None
        with torch.no_grad():
            return scored_logits(self.teacher, inputs)[0]


def training_loss(
    logits: Tensor, targets: Tensor, taught: Tensor | None, options: RecoverOptions
) -> Tensor:
    """Sum over scored tokens of ``(1 - w) CE + w T^2 KL(dense || model)``, nats.

    The square of the temperature keeps the gradients' size (Hinton et al., arXiv 1503.02531).

    Args:
        logits: (scored, vocab) of the model.
        targets: (scored,).
        taught: logits of the dense model, or None.
        options: ``distill_weight`` w and ``temperature`` T.
    """
    loss = cross_entropy(logits, targets, reduction="sum")
    if taught is None:
        return loss
    weight, t = options.distill_weight, options.temperature
    divergence = kl_div(
        log_softmax(logits / t, dim=-1),
        log_softmax(taught / t, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return (1 - weight) * loss + weight * t * t * divergence


class Watch(TrainerCallback):
    """Reports steps, and now and then looks at the held-out examples and keeps a checkpoint."""

    def __init__(
        self, steps: int, evaluations: int, look: Callable[[int], None], progress: Progress
    ) -> None:
        """Watches a training.

        Args:
            steps: of the whole training.
            evaluations: how often to look, evenly over all steps; the last step is among them.
            look: is told the step.
            progress: is told of each step.
        """
        self._at = {round(steps * (i + 1) / evaluations) for i in range(evaluations)}
        self._look, self._progress = look, progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        self._progress.advance()
        if state.global_step in self._at:
            self._look(state.global_step)
            control.should_save = True
        return control

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        keep_only(Path(args.output_dir) / f"checkpoint-{state.global_step}")
        return control


def diverged(what: str) -> GateMissed:
    """The error for a training that has left the numbers."""
    return GateMissed(
        f"the {what} is no number, the training has diverged: nothing is written; give a lower "
        "--learning-rate and --fresh"
    )


def arguments(
    options: RecoverOptions, directory: Path, device: torch.device, steps: int
) -> TrainingArguments:
    """transformers' settings for our options; what may change with the environment is fixed."""
    made = TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=options.examples_at_once,
        gradient_accumulation_steps=options.accumulation,
        learning_rate=options.learning_rate,
        lr_scheduler_type=_SCHEDULES[options.schedule],
        warmup_steps=options.warmup_steps,
        weight_decay=options.weight_decay,
        max_grad_norm=options.max_grad_norm,
        max_steps=steps,
        seed=options.seed,
        data_seed=options.seed,
        use_cpu=device.type == "cpu",
        gradient_checkpointing=options.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_strategy="no",
        save_strategy="no",  # Watch says when, and keeps the last
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    if made.device.type == "cuda":
        made._n_gpu = 1  # one process, one GPU: never DataParallel
    return made
