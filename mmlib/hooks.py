"""Observe module inputs or outputs while a block runs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import nn

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
            if what == "input":
                handles.append(module.register_forward_pre_hook(_on_input(name, callback)))
            else:
                handles.append(module.register_forward_hook(_on_output(name, callback)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_input(name: str, callback: Callback) -> Callable:
    def hook(_module: nn.Module, args: tuple) -> None:
        callback(name, args[0])

    return hook


def _on_output(name: str, callback: Callback) -> Callable:
    def hook(_module: nn.Module, _args: tuple, output: torch.Tensor | tuple) -> None:
        callback(name, output[0] if isinstance(output, tuple) else output)

    return hook


def on_device(batch: Mapping[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of a batch, where the model takes its input."""
    device = model.get_input_embeddings().weight.device
    return {key: batch[key].to(device) for key in ("input_ids", "attention_mask")}


def last_tokens(counted: torch.Tensor) -> torch.Tensor:
    """Index of the last token of every row that counts; int64 (batch,), -1 where none does.

    Args:
        counted: Nonzero where a token counts, (batch, seq); padded on either side.
    """
    places = torch.arange(counted.shape[1], device=counted.device)
    return torch.where(counted.bool(), places, -1).amax(1)
