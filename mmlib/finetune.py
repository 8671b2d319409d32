"""Fine-tune chosen weights of a model, and show that the others did not move.

Shared by selective alignment (translation pairs, feed-forward blocks of a few layers) and by the
experts of layer swapping (instructions, all weights).
"""

import copy
import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.utils.notebook import NotebookProgressCallback

from mmlib.files import load_tensors, replacing, save_tensors
from mmlib.forward import pad

IGNORED = -100
"""Label of a token that has no loss."""


def encode(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Iterable[tuple[str, str]],
    *,
    max_length: int = 1024,
    end: bool = True,
) -> list[dict[str, list[int]]]:
    """Tokenise prompts and targets, with a loss on the target only.

    Args:
        tokenizer: The model's tokenizer; special tokens begin the prompt as it does by default.
        pairs: Prompts with their targets.
        max_length: Longest example, in tokens.
        end: Whether the target ends with the end-of-text token.

    Returns:
        Dicts of `input_ids` and `labels` (-100 at the prompt), lists of equal length.

    Raises:
        ValueError: No pair, an empty target, an example that is too long, or a tokenizer without
            an end-of-text token.
    """
    if end and tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-text token: give end=False")
    examples = []
    for prompt, target in pairs:
        before = tokenizer(prompt).input_ids
        after = tokenizer(target, add_special_tokens=False).input_ids
        if not after:
            raise ValueError(f"the target of {prompt[:60]!r} is empty")
        after = [*after, tokenizer.eos_token_id] if end else after
        if len(before) + len(after) > max_length:
            raise ValueError(
                f"{prompt[:60]!r} and its target have {len(before) + len(after)} tokens: raise "
                f"max_length={max_length} or leave it out"
            )
        examples.append({"input_ids": before + after, "labels": [IGNORED] * len(before) + after})
    if not examples:
        raise ValueError("no pair was given")
    return examples


@torch.no_grad()
def mean_loss(
    model: PreTrainedModel, examples: Sequence[Mapping[str, list[int]]], *, batch_size: int = 32
) -> float:
    """Mean loss per target token, in nats.

    Args:
        model: A causal language model.
        examples: See `encode`.
        batch_size: Examples per forward pass.
    """
    total = count = 0.0
    for start in range(0, len(examples), batch_size):
        batch = _collate(examples[start : start + batch_size])
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        number = int((batch["labels"][:, 1:] != IGNORED).sum())
        total, count = total + model(**batch).loss.item() * number, count + number
    return total / count


def digest(model: nn.Module, *, trainable: bool) -> str:
    """SHA-256 of the parameters with gradients, or of those without: names, shapes and bytes."""
    found = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if parameter.requires_grad == trainable:
            raw = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found.update(f"{name}{tuple(parameter.shape)}".encode())
            found.update(raw.numpy().tobytes())
    return found.hexdigest()


@dataclass(frozen=True)
class TrainingPlan:
    """How long, at which rate and in which batches a model is trained."""

    steps: int
    """Optimizer steps."""
    learning_rate: float
    """At its peak; cosine decay, AdamW without weight decay, as published."""
    batch_size: int = 32
    """Examples per batch and device."""
    accumulation: int = 1
    """Batches per step."""
    every: int = 50
    """Steps between measurements of the held-out loss, and between checkpoints; the training loss
    is logged after every fifth step too."""
    bf16: bool = False
    """Compute in bfloat16; the weights stay in float32."""
    seed: int = 1
    """Of the order of the examples."""
    stop: int = 0
    """Stop after so many steps of the same schedule, to do a part of a run again."""

    def arguments(self, out: Path, *, measured: bool) -> TrainingArguments:
        """What transformers' Trainer is told; `measured`: there are held-out examples."""
        return TrainingArguments(
            output_dir=str(out),
            max_steps=self.steps,
            learning_rate=self.learning_rate,
            lr_scheduler_type="cosine",
            weight_decay=0.0,
            per_device_train_batch_size=self.batch_size,
            per_device_eval_batch_size=self.batch_size,
            gradient_accumulation_steps=self.accumulation,
            eval_strategy="steps" if measured else "no",
            eval_on_start=measured,
            eval_steps=self.every,
            prediction_loss_only=True,  # else all held-out logits are kept: gigabytes
            logging_steps=min(self.every, 5),
            save_steps=self.every,
            save_total_limit=1,
            bf16=self.bf16,
            seed=self.seed,
            report_to=[],
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.cuda.is_available(),
            remove_unused_columns=False,
        )


def fine_tune(
    model: PreTrainedModel,
    examples: Sequence[Mapping[str, list[int]]],
    out: str | Path,
    plan: TrainingPlan,
    *,
    heldout: Sequence[Mapping[str, list[int]]] = (),
) -> pd.DataFrame:
    """Fine-tune the parameters that have gradients, in place, with transformers' Trainer.

    Args:
        model: A causal language model, with gradients where it is to change (`trainable_only`, or
            a peft model); these in float32.
        examples: See `encode`.
        out: Folder of the run. One that was interrupted goes on from its last checkpoint; one that
            is finished is not trained again, its weights are loaded.
        plan: How it is trained.
        heldout: Examples whose loss is measured every `plan.every` steps, and before the first.

    Returns:
        The log: step, loss (training, mean since the row before), heldout_loss (mean over batches),
        missing where they were not measured; and in the last row seconds, of the last sitting,
        measurements included.

    Raises:
        ValueError: Nothing has gradients, something that has is not float32, or `out` holds a run
            of another model, with other examples or settings.
        RuntimeError: A weight without gradient has changed.
    """
    out, moving = Path(out), {n: p for n, p in model.named_parameters() if p.requires_grad}
    if not moving:
        raise ValueError("no parameter has gradients: choose some with trainable_only")
    if low := [name for name, p in moving.items() if p.dtype != torch.float32]:
        raise ValueError(
            f"{low[0]} is {moving[low[0]].dtype}: small steps would round to nothing. Load the "
            "model with dtype='float32', and give the plan bf16=True to compute in bfloat16"
        )
    frozen = digest(model, trainable=False)
    told = [frozen, digest(model, trainable=True), sorted(moving)]
    told += map(repr, (examples, heldout, plan))
    _claim(out, hashlib.sha256(json.dumps(told).encode()).hexdigest())
    finished = out / "finished.safetensors"
    with FileLock(out / "lock"):  # a second process waits, and then loads what the first has made
        if not finished.is_file():
            _train(model, examples, heldout, out, plan)
            if digest(model, trainable=False) != frozen:
                raise RuntimeError("weights without gradient have changed: it is not what it says")
            save_tensors(finished, {n: p.detach().cpu().numpy() for n, p in moving.items()}, {})
            for checkpoint in out.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
    with torch.no_grad():
        for name, array in load_tensors(finished)[0].items():
            moving[name].copy_(torch.from_numpy(array))
    return pd.read_csv(out / "log.csv")


class _Stop(TrainerCallback):
    """Ends a run early, without a word to its schedule."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        control.should_training_stop |= state.global_step >= self.after


def _train(
    model: PreTrainedModel,
    examples: Sequence[Mapping[str, list[int]]],
    heldout: Sequence[Mapping[str, list[int]]],
    out: Path,
    plan: TrainingPlan,
) -> None:
    """Run the Trainer; the model's mode and configuration are afterwards as they were."""
    mode, config = model.training, copy.deepcopy(model.config)
    decoder = model.get_base_model() if hasattr(model, "get_base_model") else model
    attention = decoder.config._attn_implementation
    trainer = Trainer(
        model=model,
        args=plan.arguments(out, measured=bool(heldout)),
        train_dataset=list(examples),
        eval_dataset=list(heldout) or None,
        data_collator=_collate,
        callbacks=[_Stop(plan.stop or plan.steps)],
    )
    trainer.remove_callback(NotebookProgressCallback)  # a page keeps what it displays
    try:
        if not torch.cuda.is_available():  # the backward pass of the fused one takes twice as long
            decoder.set_attn_implementation("eager")
        trainer.train(resume_from_checkpoint=_checkpoint(out))
    finally:
        # Mixed precision has put its own forward pass over the model's.
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
        decoder.set_attn_implementation(attention)
        model.train(mode)
        for name, value in config.to_dict().items():
            if getattr(model.config, name, value) != value:
                setattr(model.config, name, value)
    log = pd.DataFrame(trainer.state.log_history).groupby("step").first()
    columns = {"loss": "loss", "eval_loss": "heldout_loss", "train_runtime": "seconds"}
    log = log.reindex(columns=list(columns)).rename(columns=columns).reset_index()
    log.to_csv(out / "log.csv", index=False)


def _collate(examples: Sequence[Mapping[str, list[int]]]) -> dict[str, torch.Tensor]:
    """A batch for the Trainer; padding has no loss."""
    batch = pad([example["input_ids"] for example in examples])
    labels = pad([example["labels"] for example in examples])["input_ids"]
    return batch | {"labels": labels.masked_fill(batch["attention_mask"] == 0, IGNORED)}


def _checkpoint(out: Path) -> str | None:
    """The newest whole checkpoint; what a killed run left half-written is removed."""
    found = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    for path in reversed(found):
        if (path / "trainer_state.json").is_file():
            return str(path)
        shutil.rmtree(path)
    return None


def _claim(out: Path, told: str) -> None:
    """Write down what run `out` holds.

    Raises:
        ValueError: It holds another one.
    """
    path = out / "settings.sha256"
    if path.is_file() and path.read_text() != told:
        raise ValueError(
            f"{out} holds a run of another model, with other examples or settings: choose another "
            "folder or remove it"
        )
    with replacing(path) as file:
        file.write_text(told)
