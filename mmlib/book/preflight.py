"""What a run of a model on the hub needs, told before any work: access, disk, memory and time."""

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmlib.book.chapters import ChapterError
from mmlib.study.tables import memory

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of a weight, by the precision of a run; with "auto" it has that of the file."""
ROOM = 1.15
"""Memory over that of the weights: activations of a batch, and one matrix of scores."""
LOADED = ("model", "revision", "dtype", "device_map")
"""Parameters that say what is loaded, and where to."""
TOKENS = 250
"""Of a calibration prompt, with its worked solution, in a language of many tokens."""


def on_hub(model: str) -> bool:
    """Whether a name is a hub id: names of ours have no slash, and it is no folder."""
    return "/" in model and model[0] not in "./~" and not Path(model).is_dir()


def need(model: str, *, revision: str = "", dtype: str = "auto") -> tuple[int, int, int]:
    """Ask the hub for a model's sizes.

    Returns:
        Its parameters, and in bytes what is not in the cache of the hub yet, and the memory for its
        weights and a batch.

    Raises:
        ChapterError: The model is gated and this account may not read it, or there is none of that
            name or revision; the message says what to accept and which variable to set. Or an
            unknown dtype.
        OSError, httpx2.HTTPError: The hub does not answer.
    """
    from huggingface_hub import HfApi, errors, try_to_load_from_cache

    if dtype not in (*BYTES, "auto"):
        raise ChapterError(f"unknown dtype {dtype!r}: choose from {', '.join(BYTES)}, auto")
    at = {"revision": revision or None}
    api, place = HfApi(), f"https://huggingface.co/{model}"
    try:
        info = api.model_info(model, files_metadata=True, **at)
        api.auth_check(model)
    except errors.GatedRepoError as error:
        raise ChapterError(
            f"{model} is gated: accept its terms at {place}, make a token that may read it, and "
            "set HF_TOKEN to it (or call `hf auth login`)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise ChapterError(
            f"the hub has no model {model}, or one that this account may not see: look at {place}, "
            "and set HF_TOKEN if it is private"
        ) from error
    except errors.RevisionNotFoundError as error:
        told = f"{model} has no revision {revision!r}: {place}/commits/main lists them"
        raise ChapterError(told) from error
    if info.safetensors is None:
        raise ChapterError(f"{model} has no weights in safetensors, the only ones that are read")
    weights = [f for f in info.siblings if f.rfilename.endswith(".safetensors")]
    there = [isinstance(try_to_load_from_cache(model, f.rfilename, **at), str) for f in weights]
    download = sum(f.size for f, known in zip(weights, there, strict=True) if not known)
    kinds = info.safetensors.parameters.items()
    size = sum(n * BYTES.get(dtype, 4 if kind == "F32" else 2) for kind, n in kinds)
    return info.safetensors.total, download, int(ROOM * size)


def check(given: Mapping[str, Any]) -> list[str]:
    """Look at a run's model before any work, and refuse what cannot fit.

    Returns:
        Lines for the reader; none for a model that is no hub id.

    Raises:
        ChapterError: As in `need`; or too little disk or memory.
    """
    model = str(given.get("model", ""))
    if not on_hub(model):
        return []
    revision, dtype = str(given.get("revision", "")), str(given.get("dtype", "auto"))
    from httpx2 import HTTPError  # of the hub's client

    try:
        parameters, download, wanted = need(model, revision=revision, dtype=dtype)
    except (OSError, HTTPError) as error:
        return [f"{model}: the hub does not answer ({type(error).__name__}), nothing was looked at"]
    from huggingface_hub.constants import HF_HUB_CACHE

    cache = next(
        path for path in (Path(HF_HUB_CACHE), *Path(HF_HUB_CACHE).parents) if path.is_dir()
    )
    free, (place, room) = shutil.disk_usage(cache).free, _room(str(given.get("device_map", "")))
    told = (
        f"{model}: {parameters / 1e9:.2f} billion parameters, "
        f"{download / 1e9:.1f} GB to download ({free / 1e9:.0f} GB free), "
        f"{wanted / 1e9:.1f} GB of memory in {dtype} ({room / 1e9:.0f} GB on {place})"
    )
    if download > free:
        raise ChapterError(f"{told}: make room, or set HF_HOME to a folder on another disk")
    if wanted > room:
        raise ChapterError(
            f"{told}: it does not fit. Give device_map=auto on a machine with more GPUs, dtype="
            "bfloat16, or a smaller model"
        )
    return [told, f"{model}: scoring takes about {_minutes(given, parameters):.0f} min"]


def _room(device_map: str) -> tuple[str, int]:
    """Where weights go, and how many bytes there are."""
    import torch

    count = torch.cuda.device_count() if device_map else 0
    devices = [torch.cuda.get_device_properties(i) for i in range(count)]
    devices = devices if device_map == "auto" else devices[:1]
    if not devices:
        return "this machine", int(memory() * 2**30)
    return devices[0].name, sum(device.total_memory for device in devices)


def _minutes(given: Mapping[str, Any], parameters: int) -> float:
    """Time of the calibration's forward passes."""
    texts = 2 * int(given.get("num_samples", 500))  # math and other text
    for name in ("languages", "seeds"):
        texts *= len(given.get(name, ())) or 1
    return texts * TOKENS * 2 * parameters / _speed(bool(given.get("device_map"))) / 60


def _speed(on_gpu: bool) -> float:
    """Operations a second, the best of three products of matrices that are timed here."""
    import torch

    place = "cuda" if on_gpu and torch.cuda.is_available() else "cpu"
    width = 4096 if place == "cuda" else 1024
    matrix, times = torch.ones(width, width, dtype=torch.bfloat16, device=place), []
    for _ in range(4):  # the first one does not count
        start = time.perf_counter()
        float((matrix @ matrix)[0, 0])
        times.append(time.perf_counter() - start)
    return 2 * width**3 / min(times[1:])
