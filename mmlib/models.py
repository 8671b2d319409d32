"""Load a causal LM, and find its layers and linear modules by name."""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from mmlib.files import ORGANISMS, sha256

DTYPES = ("auto", "float32", "bfloat16", "float16")
UNSCORED_KINDS = (nn.Conv1d, nn.Conv2d)
UNSCORED_NAMES = ("A_log", "D", "dt_bias")
"""The matrices of a decoder layer that may lie outside of its `nn.Linear`, since no score is
defined for them: kernels of convolutions, and the constants of state-space models."""
DELTA = "delta.safetensors"
"""In a folder without weights of its own: what is added to those of the base that its
`manifest.json` names, in bfloat16, so that a shipped fine-tuned organism has half the size."""
AGAIN = "Restore the folder with git, or download or make the checkpoint again"
WAY_OUT = "load the checkpoint in a float dtype, or call model.dequantize() before"


@cache
def checkpoints() -> dict[str, dict[str, Any]]:
    """The real checkpoints that have a name here: what `checkpoints.yaml` says of each."""
    text = Path(__file__).with_name("checkpoints.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def checkpoint_folder(name: str) -> Path:
    """Where a real checkpoint lies once it is fetched.

    That is in the folder `$MMLIB_CHECKPOINTS` (default `~/.cache/mmlib/checkpoints`).
    """
    root = os.environ.get("MMLIB_CHECKPOINTS") or "~/.cache/mmlib/checkpoints"
    return Path(root).expanduser() / name


def resolve(name: str | os.PathLike[str]) -> str:
    """Turn the name of an organism or of a real checkpoint into its folder, `~` into the home.

    Raises:
        TypeError: Neither a text nor a path.
        ValueError: There is no organism of that name (the message lists those there are), or the
            checkpoint has not been fetched.
    """
    name = os.fspath(name)
    if name in checkpoints():
        folder = checkpoint_folder(name)
        if not (folder / "config.json").is_file():
            raise ValueError(
                f"{name!r} is not in {folder.parent} (MMLIB_CHECKPOINTS): fetch it once with "
                f"python -m mmlib fetch {name}"
            )
        return str(folder)
    if not name.startswith("organism-"):
        return str(Path(name).expanduser()) if name.startswith("~") else name
    folder = ORGANISMS / name
    if not (folder / "config.json").is_file():
        choices = sorted(path.parent.name for path in ORGANISMS.glob("organism-*/config.json"))
        raise ValueError(f"unknown organism {name!r}: choose from {', '.join(choices) or 'none'}")
    return str(folder)


def load_model(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device_map: str | dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model in evaluation mode, and its tokenizer.

    Args:
        name: `organism-*`, a real checkpoint by its name in `checkpoints.yaml`, a folder in hub
            layout, or a hub id. A shipped fine-tuned organism is its base with a delta added (in
            float32, and so it is with dtype "auto").
        revision: Commit or tag of the hub repository; None takes the default branch.
        dtype: One of `DTYPES`; "auto" keeps the dtype of the checkpoint.
        device_map: Passed to accelerate ("auto" spreads a big model over all GPUs). None loads to
            the CPU; "cuda" puts the whole model on the first GPU.

    Raises:
        ValueError: Unknown organism or dtype; a checkpoint that was not fetched; a revision of
            what is a folder here; or an adapter without its base merged into it.
        OSError: Neither a folder nor a hub id that can be reached, or damaged weights; the message
            names the file or folder.
    """
    if dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}: choose from {', '.join(DTYPES)}")
    path, name = resolve(name), os.fspath(name)
    if revision and Path(path).is_dir():
        raise ValueError(f"revision={revision!r} is of a hub repository, {name!r} a folder here")
    if path.startswith((".", "/", "~")) and not Path(path).is_dir():
        raise OSError(f"cannot load {name!r}: there is no such folder")
    if (Path(path) / "adapter_config.json").is_file():
        raise ValueError(_adapter(name))
    check_files(Path(path))
    delta = Path(path) / DELTA
    start, first = (resolve(_base(name, delta)), "float32") if delta.is_file() else (path, dtype)
    how = {"revision": revision, "device_map": device_map, "output_loading_info": True}
    model, missing = _load(
        name, "weights", AutoModelForCausalLM, start, dtype=first, use_safetensors=True, **how
    )
    if missing := sorted({*missing["missing_keys"], *missing["mismatched_keys"]}):
        raise OSError(
            f"the weights of {name!r} are incomplete: {len(missing)} tensors are missing or have "
            f"another shape, for instance {missing[0]}. Write or download the checkpoint again"
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # an adapter's hub id
        raise ValueError(_adapter(name))
    if delta.is_file():
        _shift(name, model, delta)
        model.to(dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype))
    tokenizer = _load(name, "tokenizer", AutoTokenizer, path, revision=revision)
    return model.eval(), tokenizer


def check_files(folder: Path) -> None:
    """Compare the files of a checkpoint with its `manifest.json`, if one tells their SHA-256.

    Raises:
        OSError: The manifest cannot be read, or a file of weights, settings or vocabulary is
            missing or is another one.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return
    try:
        files = json.loads(path.read_text(encoding="utf-8")).get("files", {}).items()
    except (ValueError, AttributeError, RecursionError) as error:
        raise OSError(f"{path} cannot be read: {error!r}. {AGAIN}") from error
    read = {n: sha for n, sha in files if re.fullmatch(r"[^/]+\.(safetensors|json)", n)}
    if damage := damaged(folder, read):
        raise OSError(f"{damage}. {AGAIN}")


def damaged(folder: Path, files: Mapping[str, str]) -> str:
    """The first of some files (name -> SHA-256) that is missing or another one, in words, or ""."""
    for name, content in files.items():
        if not (folder / name).is_file():
            return f"{folder / name} is missing"
        if sha256(folder / name) != content:
            return f"{folder / name} is not the file that manifest.json describes"
    return ""


def _base(name: str, delta: Path) -> str:
    try:
        return str(json.loads((delta.parent / "manifest.json").read_text(encoding="utf-8"))["base"])
    except (OSError, ValueError, KeyError) as error:
        raise OSError(
            f"{name!r} has {DELTA}, but no manifest.json beside it names its base: {error}"
        ) from error


@torch.no_grad()
def _shift(name: str, model: PreTrainedModel, delta: Path) -> None:
    """Add the tensors of a delta to those of the base."""
    try:
        changes = load_file(delta)
    except SafetensorError as error:
        raise OSError(f"the weights of {name!r} cannot be read: {delta.name}: {error}") from error
    weights = dict(model.named_parameters())
    for key, change in changes.items():
        if key not in weights or weights[key].shape != change.shape:
            raise OSError(f"{delta.name} of {name!r} changes {key}, which its base has not so")
        weights[key] += change.to(weights[key])


def _adapter(name: str) -> str:
    return (
        f"{name!r} is an adapter, not a model: merge it into its base with peft "
        "(PeftModel.from_pretrained(base, adapter).merge_and_unload(), then save_pretrained), and "
        "give the folder of the merged model"
    )


def model_hash(model: PreTrainedModel) -> str:
    """SHA-256 over all weights and the configuration, wherever the model came from.

    The configuration counts because it changes activations too (rotary base, norm epsilon); names,
    versions and dtype entries of it do not, since the dtype of every weight is hashed.

    Raises:
        ValueError: Weights are offloaded.
    """
    check_in_memory(model, "scored")
    ignored = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures"}
    config = {k: v for k, v in model.config.to_dict().items() if k not in ignored}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().view(torch.uint8).cpu().numpy())
    return digest.hexdigest()


def _load(name: str, part: str, kind: Any, path: str, **options: object) -> Any:
    """`kind.from_pretrained`, with errors that say which part of which checkpoint is at fault."""
    try:
        return kind.from_pretrained(path, trust_remote_code=False, **options)  # unset, it asks
    except OSError as error:
        raise OSError(
            f"cannot load the {part} of {name!r}: {error}\nGive an organism name, a folder in hub "
            "layout, or a hub id that is cached or reachable from here (HF_HUB_OFFLINE must not be "
            "1 then)."
        ) from error
    except Exception as error:  # of many kinds: damaged files of a tokenizer raise whatever they do
        raise OSError(
            f"the {part} of {name!r} cannot be read: {error}\nIf a file is damaged or missing, "
            "download or copy the checkpoint again; if not, look at dtype, device_map and whether "
            "it is a causal language model."
        ) from error


def untrained_like(model: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """A model like this one with freshly initialised weights: a control.

    Args:
        model: Its configuration, dtype and device are taken; a model spread over several devices
            gets its control on the first of them.
        seed: Seed of the initialisation, which is drawn on the CPU.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        fresh = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    return fresh.to(model.device).eval()


def is_trained(model: PreTrainedModel) -> bool:
    """Whether any vector of the decoder layers (norms, biases) has left its starting point.

    They start at one or at zero throughout, and no training leaves all of them there.
    """
    _, layers = decoder_layers(model)
    return any(
        parameter.ndim == 1 and bool((parameter != parameter[0]).any())
        for parameter in layers.parameters()
    )


def decoder_layers(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Find the stack of decoder layers: the one `ModuleList` with `num_hidden_layers` members.

    Returns:
        Its dotted name and the list itself.

    Raises:
        ValueError: None or several lists fit; the message names the candidates.
    """
    depth = model.config.get_text_config().num_hidden_layers
    found = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == depth
    ]
    if len(found) != 1:
        lists = {n: len(m) for n, m in model.named_modules() if isinstance(m, nn.ModuleList)}
        raise ValueError(
            f"cannot tell the decoder layers of {type(model).__name__}: {len(found)} module lists "
            f"have num_hidden_layers={depth} members (module lists and lengths: {lists})"
        )
    return found[0]


def state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a model has learnt, by name: its parameters and its layers' persistent buffers.

    A tied matrix is there once. Some models keep in buffers what scales or routes a layer; buffers
    outside of the layers, and those that are not saved, follow from the configuration.
    """
    prefix, _ = decoder_layers(model)
    saved = model.state_dict().keys()
    buffers = {n: b for n, b in model.named_buffers() if n in saved and n.startswith(f"{prefix}.")}
    return dict(model.named_parameters()) | buffers


def check_float(model: nn.Module) -> None:
    """Refuse weights that are not the numbers which the model multiplies by.

    Raises:
        ValueError: The model is quantised, or has an adapter; the message tells the way out.
    """
    config = getattr(model, "config", None)
    wrapped = [name for name, module in model.named_modules() if hasattr(module, "base_layer")]
    if wrapped or hasattr(model, "get_base_model"):  # peft need not be installed
        raise ValueError(
            f"{wrapped[0] if wrapped else type(model).__name__} has an adapter, whose numbers are "
            "no weights of the model: load the base in float32, merge it (merge_and_unload) and "
            "take the model that this gives"
        )
    if getattr(model, "is_quantized", False) or getattr(config, "quantization_config", None):
        raise ValueError(f"{type(model).__name__} is quantised: {WAY_OUT}")
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        codes = any(hasattr(owner, "quant_state") for owner in (module, weight))
        codes |= type(module).__name__ in ("Linear8bitLt", "Linear4bit")
        # Looked up where a module keeps its tensors, so that nothing is computed by the question.
        codes |= any("qweight" in kept for kept in (module._parameters, module._buffers))
        codes |= "qweight" in vars(module)
        if isinstance(weight, torch.Tensor):
            codes |= not weight.is_floating_point() or weight.element_size() < 2
        if codes:
            kind = getattr(weight, "dtype", type(module).__name__)
            raise ValueError(f"{name} is quantised ({kind}): {WAY_OUT}")


def check_in_memory(model: nn.Module, purpose: str) -> None:
    """Refuse a model that is not all in memory.

    Args:
        model: Perhaps spread by accelerate.
        purpose: What cannot be done, a participle for the message.

    Raises:
        ValueError: A parameter is on `meta`.
    """
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(
                f"{name} is offloaded (on meta) and cannot be {purpose}: load the model so that it "
                "fits (smaller dtype, more devices)"
            )


def linear_modules(model: PreTrainedModel, *, include_head: bool = False) -> dict[str, nn.Linear]:
    """All `nn.Linear` of the decoder layers, by dotted name, in the model's order.

    Args:
        model: A Hugging Face causal language model.
        include_head: Add the output projection too, unless it is tied to the embeddings: as in the
            published runs, a tied head is the embedding matrix and is not scored.

    Raises:
        ValueError: The layers hold no `nn.Linear` (for instance `Conv1D`), matrices outside of them
            (experts of a mixture), quantised weights, or an adapter.
    """
    check_float(model)
    prefix, layers = decoder_layers(model)
    found = {
        f"{prefix}.{name}": module
        for name, module in layers.named_modules()
        if isinstance(module, nn.Linear)
    }
    if not found:
        raise ValueError(f"{type(model).__name__} has no nn.Linear in {prefix!r}")
    _check_coverage(model, prefix, layers)
    head = model.get_output_embeddings()
    if include_head and head is not None and not _tied(model):
        name = next(name for name, module in model.named_modules() if module is head)
        found[name] = head
    return found


def _check_coverage(model: PreTrainedModel, prefix: str, layers: nn.ModuleList) -> None:
    """Refuse layers whose matrices are not all scored: a set of the others would say little."""
    outside, total = {}, 0
    for name, parameter in layers.named_parameters():
        total += parameter.numel()
        path, _, last = name.rpartition(".")
        owner = layers.get_submodule(path)
        if isinstance(owner, (nn.Linear, *UNSCORED_KINDS)) or last in UNSCORED_NAMES:
            continue
        if sum(size > 1 for size in parameter.shape) > 1:
            outside[f"{prefix}.{name}"] = parameter.numel()
    if outside:
        shown = ", ".join(list(outside)[:4])
        raise ValueError(
            f"{type(model).__name__} has {len(outside)} matrices outside of nn.Linear, "
            f"{sum(outside.values()) / total:.0%} of its layers' weights, which would not be "
            f"scored: {shown}{', ...' * (len(outside) > 4)}. Models of that kind (such as mixtures "
            "of experts) are not supported"
        )


def _tied(model: PreTrainedModel) -> bool:
    """Whether head and embeddings share one weight, whatever the configuration says.

    A checkpoint may have a head of its own and a configuration that calls it tied. On meta, where
    nothing is stored, the configuration is all that there is.
    """
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    if head is embeddings:
        return True
    if head.is_meta or embeddings.is_meta:
        return bool(model.config.get_text_config().tie_word_embeddings)
    return bool(head.data_ptr() == embeddings.data_ptr())


def layer_index(module_name: str) -> int | None:
    """Number of the decoder layer that a module belongs to, counted from 0; None for the head."""
    match = re.search(r"\.(\d+)\.", module_name)
    return int(match.group(1)) if match else None
