"""Fine-tune chosen weights of a model, and show that the others did not move.

Shared by selective alignment (translation pairs, feed-forward blocks of a few layers) and by the
experts of layer swapping (instructions, all weights).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from mmlib.languages import LANGUAGES
from mmlib.models import decoder_layers

TRANSLATE = "Translate this from [{source}] to [{target}]:\n[{source}]: {text}\n[{target}]: "
"""The training prompt of SLAM (its Table 7)."""
IGNORED = -100
"""Label of a token that has no loss."""


def translation_prompt(text: str, source: str, target: str = "en") -> str:
    """SLAM's prompt for a translation; `source` and `target` are ISO 639-1 codes.

    Raises:
        ValueError: A language without a record.
    """
    for code in (source, target):
        if code not in LANGUAGES:
            raise ValueError(f"language {code!r}: choose {', '.join(LANGUAGES)}")
    names = {"source": LANGUAGES[source].name, "target": LANGUAGES[target].name}
    return TRANSLATE.format(text=text, **names)


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
        ValueError: No pair, an empty target, or an example that is too long.
    """
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


@contextmanager
def trainable_only(
    model: nn.Module,
    layers: Sequence[int] | None,
    modules: Sequence[str] = ("up_proj", "down_proj"),
) -> Iterator[list[str]]:
    """Let only some parameters have gradients inside the block.

    Args:
        model: A causal language model.
        layers: Decoder layers, counted from 0; None: all.
        modules: Endings of module names, such as `up_proj` or `self_attn.q_proj`; none: everything
            in these layers.

    Yields:
        The names of the trainable parameters.

    Raises:
        ValueError: A layer that does not exist, or nothing that fits.
    """
    prefix, stack = decoder_layers(model)
    chosen = list(range(len(stack))) if layers is None else sorted(set(layers))
    if wrong := [index for index in chosen if not 0 <= index < len(stack)]:
        raise ValueError(f"layers {wrong}: the model has 0 to {len(stack) - 1}")
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    inside = tuple(f"{prefix}.{index}." for index in chosen)
    ends = tuple(f".{name.strip('.')}." for name in modules) or (".",)
    names = [n for n in before if n.startswith(inside) and any(end in n for end in ends)]
    if not names:
        raise ValueError(f"no parameter of layers {chosen} belongs to {list(modules)}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in set(names))
    try:
        yield names
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(before.get(name, parameter.requires_grad))


def trainable_share(model: nn.Module) -> float:
    """Share of the parameters that have gradients; a tied matrix counts once."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, grad in counts if grad) / sum(n for n, _ in counts)


def frozen_digest(model: nn.Module) -> str:
    """SHA-256 of everything that has no gradient: names, shapes and bytes."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.requires_grad:
            raw = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(f"{name}{tuple(parameter.shape)}".encode())
            digest.update(raw.numpy().tobytes())
    return digest.hexdigest()


def finetune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Mapping[str, list[int]]],
    out: str | Path,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int = 32,
    accumulation: int = 1,
    heldout: Sequence[Mapping[str, list[int]]] = (),
    every: int = 50,
    seed: int = 1,
    resume: bool = True,
    **arguments: Any,
) -> pd.DataFrame:
    """Fine-tune the parameters that have gradients, in place, with transformers' Trainer.

    Args:
        model: A causal language model, with gradients where it is to change (`trainable_only`, or
            a peft model).
        tokenizer: Its tokenizer.
        examples: See `encode`.
        out: Folder of the checkpoints and of the log; a run with the same examples and settings
            that was interrupted goes on from its last checkpoint.
        steps: Optimizer steps.
        learning_rate: At its peak; cosine decay, AdamW without weight decay, as published.
        batch_size: Examples per step and device.
        accumulation: Batches per step.
        heldout: Examples whose loss is measured every `every` steps, and before the first.
        every: Steps between measurements, and between checkpoints.
        seed: Of the order of the examples.
        resume: Go on from a checkpoint in `out`.
        **arguments: Further `transformers.TrainingArguments`, such as `bf16=True`.

    Returns:
        The log: step, loss (training, mean since the row before), heldout_loss.

    Raises:
        ValueError: Nothing has gradients, or `out` holds a run with other settings.
        RuntimeError: A weight without gradient has changed.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("no parameter has gradients: choose some with trainable_only")
    out = Path(out)
    settings = TrainingArguments(
        **{
            "output_dir": str(out),
            "max_steps": steps,
            "learning_rate": learning_rate,
            "lr_scheduler_type": "cosine",
            "weight_decay": 0.0,
            "per_device_train_batch_size": batch_size,
            "per_device_eval_batch_size": batch_size,
            "gradient_accumulation_steps": accumulation,
            "eval_strategy": "steps" if heldout else "no",
            "eval_on_start": bool(heldout),
            "eval_steps": every,
            "logging_steps": every,
            "save_steps": every,
            "save_total_limit": 1,
            "seed": seed,
            "report_to": [],
            "dataloader_pin_memory": torch.cuda.is_available(),
            "use_cpu": not torch.cuda.is_available(),
            "remove_unused_columns": False,
        }
        | arguments
    )
    started = _same_run(out, examples, steps, learning_rate, batch_size * accumulation, seed)
    frozen = frozen_digest(model)
    trainer = Trainer(
        model=model,
        args=settings,
        train_dataset=list(examples),
        eval_dataset=list(heldout) or None,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED),
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=resume and started and _has_checkpoint(out))
    if frozen_digest(model) != frozen:
        raise RuntimeError("weights without gradient have changed: the run is not what it says")
    log = pd.DataFrame(trainer.state.log_history)
    columns = {"loss": "loss", "eval_loss": "heldout_loss"}
    kept = [column for column in columns if column in log]
    return log.groupby("step")[kept].first().rename(columns=columns).reset_index()


def _has_checkpoint(out: Path) -> bool:
    return any(out.glob("checkpoint-*"))


def _same_run(out: Path, examples: Sequence, *settings: Any) -> bool:
    """Whether `out` holds a run with these settings; writes them down where it holds none.

    Raises:
        ValueError: It holds another one.
    """
    told = hashlib.sha256(json.dumps([list(map(dict, examples)), *settings]).encode()).hexdigest()
    path = out / "settings.sha256"
    if path.is_file():
        if path.read_text() != told:
            raise ValueError(f"{out} holds a run with other examples or settings: choose another")
        return True
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(told)
    return False
