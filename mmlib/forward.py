"""Tokenise, pad, and observe what modules see while one forward pass runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

Callback = Callable[[str, torch.Tensor], None]


@contextmanager
def observe(
    modules: Mapping[str, nn.Module],
    callback: Callback,
    *,
    what: Literal["input", "output"] = "input",
) -> Iterator[None]:
    """Call `callback(name, tensor)` whenever one of `modules` runs inside the block.

    The tensor is the module's first positional input, or its output (the first one of a tuple), the
    very object and not a copy: run under `torch.no_grad()` and do not write into it. All hooks are
    gone when the block ends, also by an exception.

    Args:
        modules: Dotted name -> module.
        callback: Receives the name and the tensor, on the module's own device.
        what: Which side of the module to look at.

    Raises:
        ValueError: `what` is neither "input" nor "output".
    """
    if what not in ("input", "output"):
        raise ValueError(f"what={what!r}: choose 'input' or 'output'")
    handles = []
    try:
        for name, module in modules.items():
            hook = partial(_pass_on, name, callback)
            if what == "input":
                handles.append(module.register_forward_pre_hook(hook))
            else:
                handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pass_on(name: str, callback: Callback, _module: nn.Module, *passed: Any) -> None:
    """A hook of torch: it is passed the inputs and, behind them, the output if there is one."""
    value = passed[-1]
    callback(name, value[0] if isinstance(value, tuple) else value)


def check_tokens(ids: torch.Tensor, model: PreTrainedModel) -> None:
    """Refuse token ids that the model has no embedding for.

    Raises:
        ValueError: The highest of `ids`, (batch, seq) or (seq,), is beyond the embeddings.
    """
    size = model.get_input_embeddings().weight.shape[0]
    if ids.numel() and (highest := int(ids.max())) >= size:
        raise ValueError(
            f"token id {highest} is beyond the model's {size} embeddings: take the tokenizer of "
            "this model, or resize its embeddings (resize_token_embeddings)"
        )


def on_device(batch: Mapping[str, torch.Tensor], model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` on the device of the input; raises as `check_tokens`."""
    check_tokens(batch["input_ids"], model)
    device = model.get_input_embeddings().weight.device
    return {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}


def last_tokens(counted: torch.Tensor) -> torch.Tensor:
    """Index of the last token of every row that counts; int64 (batch,), -1 where none does.

    Args:
        counted: Nonzero where a token counts, (batch, seq); padded on either side.
    """
    places = torch.arange(counted.shape[1], device=counted.device)
    return torch.where(counted.bool(), places, -1).amax(1)


def batches(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int | None = None,
    sort: bool = True,
) -> list[dict[str, torch.Tensor]]:
    """Tokenise texts into right-padded batches, of similar length and longest first.

    Special tokens are those of the tokenizer's default (BOS for Llama, none for Qwen), as
    published. Longest first shows at once whether the memory suffices.

    Args:
        tokenizer: The model's tokenizer.
        texts: A calibration sample, or plain texts; at least one.
        batch_size: Prompts per batch.
        max_length: Longest text allowed, in tokens (`model.config.max_position_embeddings`).
        sort: Longest first; False keeps the order of the texts.

    Returns:
        Dicts of `input_ids` (int64) and `attention_mask`, both (batch, seq), on the CPU.

    Raises:
        ValueError: No text, an empty text, one that is longer than `max_length`, or a
            `batch_size` below 1.
    """
    texts = list(getattr(texts, "texts", texts))
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: give 1 or more")
    if not texts:
        raise ValueError("the calibration set is empty: give at least one prompt")
    rows = tokenizer(texts, add_special_tokens=True)["input_ids"]
    order = sorted(range(len(rows)), key=lambda index: -len(rows[index]))
    longest = order[0]
    order = order if sort else list(range(len(rows)))
    if max_length and len(rows[longest]) > max_length:
        raise ValueError(
            f"text {longest} has {len(rows[longest])} tokens, the model reads {max_length}: "
            f"shorten or drop it ({texts[longest][:60]!r}…)"
        )
    empty = [index for index, text in enumerate(texts) if not (text and rows[index])]
    if empty:
        raise ValueError(f"text {empty[0]} has no tokens ({texts[empty[0]]!r}): drop it")
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [pad([rows[index] for index in chunk]) for chunk in chunks]


def pad(rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Right-pad with id 0, which the attention mask hides: no pad token is needed."""
    ids = [torch.as_tensor(row, dtype=torch.int64) for row in rows]
    masks = [torch.ones_like(row) for row in ids]
    return {"input_ids": pad_sequence(ids, True), "attention_mask": pad_sequence(masks, True)}
