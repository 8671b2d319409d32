"""Measure what localisation, edits and grading cost, as ratios within one run."""

import itertools
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mmlib.edits import pruned
from mmlib.importance import Batch, ImportanceScores, collect_norms
from mmlib.masks import ParameterMask
from mmlib.models import linear_modules, load_model
from mmlib.overlap import overlap_sweep
from mmlib.study.evidence import read_evidence
from mmlib.study.localisation import Sample, collect_scores, set_tables
from mmlib.study.tables import RunInfo
from mmlib.tasks import skills
from mmlib.tasks.evaluation import evaluate

SHAPES = {
    "1M": (128, 256, 4, 4, 4, 32, 1_000, True),
    "30M": (512, 1408, 8, 8, 8, 64, 8_000, True),
    "170M": (1024, 2816, 12, 16, 16, 64, 16_000, True),
    "0.5B": (896, 4864, 24, 14, 2, 64, 151_936, True),
    "1B": (2048, 8192, 16, 32, 8, 64, 128_256, True),
    "4B": (2560, 9728, 36, 32, 8, 128, 151_936, True),
    "8B": (4096, 14_336, 32, 32, 8, 128, 128_256, False),
}
"""Width, inner width, layers, heads, key/value heads, head width, vocabulary, tied head. 1B, 4B and
8B are the shapes of the three published models, 0.5B that of Qwen2.5-0.5B."""

LANGUAGES = ("en", "de", "fr", "hi")
"""Languages of the sweeps that are timed, as published."""

KEEP_RATIOS = (1e-6, 1e-5, 1e-4, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15)
"""The published grid."""


def random_llama(shape: str, *, device: str = "cpu", dtype: str = "bfloat16") -> PreTrainedModel:
    """A Llama of one of `SHAPES` with random weights.

    Raises:
        ValueError: Unknown shape; the message lists the choices.
    """
    if shape not in SHAPES:
        raise ValueError(f"unknown shape {shape!r}: choose from {', '.join(SHAPES)}")
    width, inner, depth, heads, kv_heads, head, vocab, tied = SHAPES[shape]
    config = AutoConfig.for_model(
        "llama",
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        max_position_embeddings=2048,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


def random_batches(lengths: Sequence[int], *, batch_size: int, vocabulary: int) -> list[Batch]:
    """Batches of random tokens with the given prompt lengths, longest first, right-padded."""
    generator = torch.Generator().manual_seed(0)
    ordered = sorted(lengths, reverse=True)
    chunks = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    made = []
    for chunk in chunks:
        ids = torch.randint(3, vocabulary, (len(chunk), chunk[0]), generator=generator)
        mask = torch.arange(chunk[0])[None] < torch.tensor(chunk)[:, None]
        made.append({"input_ids": ids * mask, "attention_mask": mask.long()})
    return made


@torch.no_grad()
def bare_forward(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """What localisation cannot do without: the decoder's forward pass, and nothing else."""
    for batch in batches:
        ids, mask = (batch[k].to(model.device) for k in ("input_ids", "attention_mask"))
        model.base_model(ids, attention_mask=mask, use_cache=False)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, with the device's queue drained before and after."""
    _drain(device)
    start = time.perf_counter()
    work()
    _drain(device)
    return time.perf_counter() - start


def _drain(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    works: Mapping[str, Callable[[], object]], device: torch.device, *, repeats: int
) -> pd.DataFrame:
    """Time several pieces of work in turn, after one warm-up each, so that drift hits all alike.

    Returns:
        One row per work and repeat: `work`, `repeat`, `seconds`.
    """
    for work in works.values():
        work()
    return pd.DataFrame(
        [
            {"work": name, "repeat": repeat, "seconds": seconds(work, device)}
            for repeat in range(repeats)
            for name, work in works.items()
        ]
    )


def localisation_cost(
    model: PreTrainedModel, lengths: Sequence[int], *, batch_size: int, repeats: int
) -> pd.DataFrame:
    """Time the forward pass, our norms and the published accumulation on the same prompts.

    The published code runs one prompt at a time, so its own bare forward pass is timed too.

    Returns:
        Rows of `interleaved` for forward, localisation, forward_single and as_published.
    """
    vocabulary = model.config.vocab_size
    together = random_batches(lengths, batch_size=batch_size, vocabulary=vocabulary)
    single = random_batches(lengths, batch_size=1, vocabulary=vocabulary)
    works = {
        "forward": lambda: bare_forward(model, together),
        "localisation": lambda: collect_norms(model, together),
        "forward_single": lambda: bare_forward(model, single),
        "as_published": lambda: collect_scores(model, single, accumulation="as-published"),
    }
    return interleaved(works, model.device, repeats=repeats)


def sweep_cost(model: PreTrainedModel, lengths: Sequence[int], *, batch_size: int) -> pd.DataFrame:
    """Time the sweep of all keep ratios and languages, our way and the published way, in full.

    Ours: two passes per language, then one selection per matrix for all keep ratios, and all
    overlaps. Published: for every keep ratio and language the two accumulations again, a top-K
    per matrix, and the set difference (no overlaps).

    Returns:
        `work`, `repeat`, `seconds` for sweep and sweep_as_published.
    """
    vocabulary = model.config.vocab_size
    together = random_batches(lengths, batch_size=batch_size, vocabulary=vocabulary)
    single = random_batches(lengths, batch_size=1, vocabulary=vocabulary)
    start = time.perf_counter()
    norms = [[collect_norms(model, together) for _ in range(2)] for _ in LANGUAGES]
    pairs = zip(LANGUAGES, norms, strict=True)
    scores = {code: tuple(n.scores(model) for n in pair) for code, pair in pairs}
    overlap_sweep(scores, usable_ratios(model))
    _drain(model.device)
    end = time.perf_counter()
    published = seconds(lambda: _published_sweep(model, single), model.device)
    times = {"sweep": end - start, "sweep_as_published": published}
    return pd.DataFrame({"work": times.keys(), "repeat": 0, "seconds": times.values()})


def usable_ratios(model: PreTrainedModel) -> list[float]:
    """The ratios of the published grid that select something in every matrix."""
    smallest = min(module.weight.numel() for module in linear_modules(model).values())
    return [ratio for ratio in KEEP_RATIOS if smallest * ratio >= 1]


def _published_sweep(model: PreTrainedModel, single: Sequence[Batch]) -> None:
    for ratio in usable_ratios(model):
        for _ in LANGUAGES:
            pair = [collect_scores(model, single, accumulation="as-published") for _ in range(2)]
            for name in pair[0].weights:
                kept = [_published_top(scores.weights[name], ratio) for scores in pair]
                kept[0] & ~kept[1]


def _published_top(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    flat = scores.flatten()
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[torch.topk(flat, int(flat.numel() * ratio)).indices] = True
    return chosen


def selection_cost(model: PreTrainedModel, lengths: Sequence[int]) -> pd.DataFrame:
    """Time the top-K sets of the whole model at all keep ratios of the published grid."""
    batches = random_batches(lengths, batch_size=len(lengths), vocabulary=model.config.vocab_size)
    scores = collect_norms(model, batches).scores(model)
    ratios = usable_ratios(model)

    def select() -> None:
        for name in scores.weights:
            scores.top_of(name, ratios)

    return interleaved({"top_k": select}, model.device, repeats=2)


def _samples(model: PreTrainedModel, lengths: Sequence[int]) -> dict[Sample, ImportanceScores]:
    """Scores on two tasks in four languages, on one random prompt each."""
    cycle = itertools.islice(itertools.cycle(lengths), 2 * len(LANGUAGES))
    batches = random_batches(list(cycle), batch_size=1, vocabulary=model.config.vocab_size)
    keys = itertools.starmap(Sample, itertools.product(LANGUAGES, ("math", "nonmath"), (1,)))
    return {
        key: collect_norms(model, [batch]).scores(model)
        for key, batch in zip(keys, batches, strict=True)
    }


def _tables(model: PreTrainedModel, samples: Mapping[Sample, ImportanceScores]) -> None:
    set_tables(samples, "math", "nonmath", usable_ratios(model)[-8:])


def stored_bytes(model: PreTrainedModel, lengths: Sequence[int]) -> dict[str, int]:
    """Bytes on disk of one calibration: our norms, against the published score matrices in bf16."""
    batches = random_batches(lengths[:1], batch_size=1, vocabulary=model.config.vocab_size)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "norms.safetensors"
        collect_norms(model, batches).save(path)
        matrices = 2 * sum(m.weight.numel() for m in linear_modules(model).values())
        return {"norms": path.stat().st_size, "matrices": matrices}


def peak_memory(
    works: Sequence[str],
    shape: str,
    lengths: Sequence[int],
    *,
    batch_size: int,
    device: str,
    dtype: str,
) -> dict[str, int]:
    """Peak memory in bytes of some works, each in its own process.

    Works are none (the model alone), forward, localisation, as_published and tables.

    On a CPU the operating system's peak of the process is read, which needs Linux.
    """
    context = get_context("forkserver")  # its process imports this module once, for all works
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        model = {"shape": shape, "device": device, "dtype": dtype}
        jobs = {w: pool.submit(_peak, w, model, list(lengths), batch_size) for w in works}
        return {work: job.result() for work, job in jobs.items()}


def _peak(work: str, about: dict[str, str], lengths: list[int], batch_size: int) -> int:
    model = random_llama(**about)
    size = 1 if work == "as_published" else batch_size
    batches = random_batches(lengths, batch_size=size, vocabulary=model.config.vocab_size)
    samples = _samples(model, lengths) if work == "tables" else {}
    _forget_peak(model.device)
    if work == "forward":
        bare_forward(model, batches)
    elif work == "tables":
        _tables(model, samples)
    elif work != "none":
        accumulation = {"localisation": "float32", "as_published": "as-published"}[work]
        collect_scores(model, batches, accumulation=accumulation)
    if model.device.type == "cuda":
        return torch.cuda.max_memory_allocated()
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def _forget_peak(device: torch.device) -> None:
    """Leave out what making the model took (Linux; a process inherits no peak this way)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def paired_ratio(times: pd.DataFrame, top: str, bottom: str) -> dict[str, float]:
    """Ratio of two works in `interleaved` rows, repeat by repeat: median, smallest, largest, n."""
    wide = times.pivot(index="repeat", columns="work", values="seconds")
    values = (wide[top] / wide[bottom]).to_numpy()
    low, high = float(values.min()), float(values.max())
    return {"value": float(np.median(values)), "low": low, "high": high, "n": len(values)}


def report(
    shape: str,
    lengths: Sequence[int],
    *,
    sweep_lengths: Sequence[int],
    batch_size: int,
    repeats: int,
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> pd.DataFrame:
    """Measure everything this module knows on one shape.

    Args:
        shape: One of `SHAPES`.
        lengths: Tokens of each prompt.
        sweep_lengths: Tokens of each prompt of the sweep, which repeats two calibrations per
            language and keep ratio the published way; empty leaves the sweep out.
        batch_size: Prompts per forward pass (the published code takes one).
        repeats: Interleaved repeats of each timing.
        device: "cpu" or "cuda".
        dtype: Of the weights.

    Returns:
        One row per quantity: `shape`, `device`, `dtype`, `prompts`, `tokens`, `quantity`, `value`,
        `low`, `high`, `n`, `unit` (ratio, s, bytes), `aim`, `direction`.
    """
    model = random_llama(shape, device=device, dtype=dtype)
    times = localisation_cost(model, lengths, batch_size=batch_size, repeats=repeats)
    rows = {
        "localisation / forward pass": paired_ratio(times, "localisation", "forward")
        | {"aim": 1.1 if device == "cuda" else 1.2, "direction": "at most"},
        "published accumulation / forward pass": paired_ratio(
            times, "as_published", "forward_single"
        ),
    }
    if sweep_lengths:
        rows |= _sweep_rows(model, times, len(lengths), sweep_lengths, batch_size)
    top_k = selection_cost(model, lengths[:1]).seconds
    rows["top-K at all keep ratios"] = {"value": float(top_k.median()), "n": 2, "unit": "s"}
    stored = stored_bytes(model, lengths)
    rows["stored per calibration, published / ours"] = {
        "value": stored["matrices"] / stored["norms"]
    }
    rows["stored per calibration"] = {"value": stored["norms"], "unit": "bytes"}
    del model
    works = ("forward", "localisation", "as_published")
    where = {"device": device, "dtype": dtype}
    memory = peak_memory(works, shape, lengths, batch_size=batch_size, **where)
    for work in ("localisation", "as_published"):
        extra = memory[work] - memory["forward"]
        rows[f"extra memory, {work}"] = {"value": extra, "unit": "bytes"}
    return _told(rows, shape, lengths, **where)


def selection_report(
    shape: str,
    lengths: Sequence[int],
    *,
    batch_size: int,
    repeats: int,
    device: str = "cpu",
    dtype: str = "bfloat16",
) -> pd.DataFrame:
    """Measure what follows the forward passes: sets at eight keep ratios, and all their tables.

    Sizes and overlaps of four languages (six pairs), from eight samples of one prompt each; the
    forward passes over 400 prompts are taken at the measured time of one.

    Args:
        shape: As in `report`, as all others.
        lengths: See there.
        batch_size: See there.
        repeats: See there.
        device: See there.
        dtype: See there.

    Returns:
        As in `report`.
    """
    model = random_llama(shape, device=device, dtype=dtype)
    samples = _samples(model, lengths)
    prompts = random_batches(lengths, batch_size=batch_size, vocabulary=model.config.vocab_size)
    works = {
        "forward": lambda: bare_forward(model, prompts),
        "tables": lambda: _tables(model, samples),
    }
    times = interleaved(works, model.device, repeats=repeats)
    ratio = paired_ratio(times, "tables", "forward")
    share = {name: ratio[name] * len(lengths) / 400 for name in ("value", "low", "high")}
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    where = {"device": device, "dtype": dtype}
    memory = peak_memory(("none", "tables"), shape, lengths, batch_size=batch_size, **where)
    peak = 1 + (memory["tables"] - memory["none"]) / size
    rows = {
        "selection and tables / forward pass of 400 prompts": ratio | share | {"aim": 0.1},
        "peak memory of selection and tables / model": {"value": peak, "aim": 1.3},
    }
    rows = {quantity: row | {"direction": "at most"} for quantity, row in rows.items()}
    return _told(rows, shape, lengths, **where)


def _told(
    rows: Mapping[str, dict], shape: str, lengths: Sequence[int], **where: str
) -> pd.DataFrame:
    """One row per quantity, see `report`."""
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity").reset_index()
    blank = {"unit": "ratio", "direction": "", "n": 1}
    table = table.reindex(columns=["quantity", *ROW]).fillna(blank).astype({"n": int})
    return table.assign(shape=shape, **where, prompts=len(lengths), tokens=sum(lengths))


ROW = ("value", "low", "high", "n", "unit", "aim", "direction")


def _sweep_rows(
    model: PreTrainedModel,
    times: pd.DataFrame,
    num_prompts: int,
    sweep_lengths: Sequence[int],
    batch_size: int,
) -> dict[str, dict]:
    """The sweep as measured, and carried on to 500 prompts per sample at the measured rates."""
    sweep = sweep_cost(model, sweep_lengths, batch_size=batch_size).set_index("work").seconds
    per_prompt = times.groupby("work").seconds.median() / num_prompts
    more = 500 - len(sweep_lengths)
    ours = sweep["sweep"] + 2 * 4 * more * per_prompt["localisation"]
    passes = 2 * 4 * len(usable_ratios(model))
    theirs = sweep["sweep_as_published"] + passes * more * per_prompt["as_published"]
    aim = {"aim": 20, "direction": "at least"}
    measured = f"sweep, published / ours ({len(sweep_lengths)} prompts, measured)"
    return {
        measured: {"value": sweep["sweep_as_published"] / sweep["sweep"]},
        "sweep, published / ours (500 prompts, projected)": {"value": theirs / ours} | aim,
    }


# --- editing and grading ------------------------------------------------------------------------


def some_weights(model: PreTrainedModel, share: float, *, seed: int = 0) -> ParameterMask:
    """A random share of every matrix of the decoder."""
    generator = torch.Generator().manual_seed(seed)
    return ParameterMask(
        {
            name: torch.rand(module.weight.shape, generator=generator) < share
            for name, module in linear_modules(model).items()
        }
    )


@torch.no_grad()
def bare_answers(model, tokenizer, prompts: Sequence[str], *, cap: int, batch_size: int) -> int:
    """What grading cannot do without: tokenise, generate greedily, decode; returns the answers."""
    answers = []
    ordered = sorted(prompts, key=len, reverse=True)
    for start in range(0, len(ordered), batch_size):
        batch = tokenizer(
            ordered[start : start + batch_size],
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=False,
        ).to(model.device)
        options = {"do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        tokens = model.generate(**batch, max_new_tokens=cap, **options)
        answers += tokenizer.batch_decode(tokens[:, batch.input_ids.shape[1] :])
    return len(answers)


def pipeline_cost(
    name: str = "organism-skewed",
    *,
    items: int = 500,
    repeats: int = 3,
    batch_size: int = 256,
    dtype: str = "bfloat16",
    share: float = 0.02,
    device: str = "cpu",
) -> pd.DataFrame:
    """Time edit and grading in place against a fresh copy from disk, and against a bare loop.

    The original code loads the checkpoint anew for every edit. Both ways edit the same weights and
    are asked the same problems.

    Args:
        name: A model, for instance an organism; the problems are always the organisms'.
        items: English problems that are graded; an edit is graded on the first tenth of them.
        repeats: Interleaved repeats.
        batch_size: Prompts per batch.
        dtype: Of the weights.
        share: Share of the weights that an edit changes.
        device: "cpu" or "cuda".

    Returns:
        Rows as those of `report`, without its last columns: quantity, value, low, high, n, unit,
        aim, direction.
    """
    load = {"dtype": dtype, "device_map": None if device == "cpu" else device}
    model, tokenizer = load_model(name, **load)
    mask, few = some_weights(model, share), max(1, items // 10)
    everything = skills.documents("organism-math", "en")
    documents = everything[:items]
    longest = max(len(tokenizer(d["response"]).input_ids) for d in everything)
    bare = {"cap": math.ceil(1.2 * (longest + 1)), "batch_size": batch_size}
    prompts = [document["prompt"] for document in documents]

    def ask(edited: PreTrainedModel, count: int) -> None:
        asked = {"organism-math": [document["id"] for document in documents[:count]]}
        options = {"languages": ["en"], "only": asked, "batch_size": batch_size}
        evaluate(edited, tokenizer, "organism-math", **options)

    def in_place(count: int) -> None:
        with pruned(model, mask):
            if count:
                ask(model, count)

    def from_disk(count: int) -> None:
        fresh, _ = load_model(name, **load)
        for module, chosen in mask.items():
            fresh.get_submodule(module).weight.data[chosen.to(fresh.device)] = 0.0
        if count:
            ask(fresh, count)

    works = {
        "edit": lambda: in_place(0),
        "reload": lambda: from_disk(0),
        "edit, ask": lambda: in_place(few),
        "reload, ask": lambda: from_disk(few),
        "harness": lambda: ask(model, items),
        "bare loop": lambda: bare_answers(model, tokenizer, prompts, **bare),
    }
    times = interleaved(works, model.device, repeats=repeats)
    rate = items / times[times.work == "harness"].seconds
    rows = {
        "grading, harness / bare generate loop": paired_ratio(times, "harness", "bare loop")
        | {"aim": 1.3, "direction": "at most"},
        "edit, reload / in place": paired_ratio(times, "reload", "edit"),
        f"edit and {few} answers, reload / in place": paired_ratio(
            times, "reload, ask", "edit, ask"
        ),
        "answers graded per second": {"value": rate.median(), "low": rate.min(), "high": rate.max()}
        | {"n": repeats, "unit": "1/s", "aim": 150, "direction": "at least"},
    }
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity").reset_index()
    return table.reindex(columns=["quantity", *ROW]).fillna({"unit": "ratio", "direction": ""})


class Costs(NamedTuple):
    """What `rows` gives; tables with the columns of `report`."""

    tiny: pd.DataFrame
    """A model of a million parameters, measured now."""
    asked: pd.DataFrame
    """Result of `pipeline_cost`, measured now."""
    larger: pd.DataFrame
    """Larger shapes: measured now if `shapes` names some, else shipped."""
    selection: pd.DataFrame
    """Result of `selection_report`: measured now if `selection_shapes` names some, else shipped."""
    measured_on: str
    """The machine of the larger shapes."""
    run: RunInfo


def rows(given: Mapping[str, Any]) -> Costs:
    """Measure what the page shows, and take the larger shapes from what is shipped.

    Args:
        given: Parameters of the page.
    """
    where = {name: given[name] for name in ("device", "dtype")}
    options = where | {name: given[name] for name in ("batch_size", "repeats")}
    lengths, items = given["lengths"], given["graded"]
    run = RunInfo.collect("random weights", dtype=given["dtype"], parameters=given)
    tiny = report("1M", lengths, sweep_lengths=[], **options)
    asked = pipeline_cost(items=items, repeats=min(given["repeats"], 3), **where)
    asked = asked.assign(shape="organism", **where, prompts=items)
    few = lengths[: given["sweep_prompts"]]
    measured = [report(s, lengths, sweep_lengths=few, **options) for s in given["shapes"]]
    selected = [selection_report(s, lengths, **options) for s in given["selection_shapes"]]
    if measured:
        larger, hardware = pd.concat(measured), run.hardware
    else:
        larger, manifest = read_evidence("localisation_cost")
        hardware = manifest["run"]["hardware"]
    selection = pd.concat(selected) if selected else read_evidence("selection_cost")[0]
    return Costs(tiny, asked, larger, selection, hardware, run)
