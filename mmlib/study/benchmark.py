"""Measure what localisation, edits and grading cost, as ratios within one run."""

import itertools
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.optimize import brentq
from scipy.stats import linregress, t
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mmlib.edits import pruned
from mmlib.forward import pad
from mmlib.importance import Batch, ImportanceScores, collect_norms, largest, selection_size
from mmlib.masks import ParameterMask
from mmlib.models import linear_modules, load_model
from mmlib.study.evidence import read_evidence
from mmlib.study.localisation import Sample, SetTables, collect_scores, set_tables
from mmlib.study.settings import Settings
from mmlib.study.tables import RunInfo
from mmlib.tasks import skills
from mmlib.tasks.evaluation import evaluate

SHAPES = {
    "1M": (128, 256, 4, 4, 4, 32, 1_000, True),
    "3M": (192, 512, 6, 6, 6, 32, 2_000, True),
    "9M": (320, 896, 6, 10, 10, 32, 4_000, True),
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
TASKS = ("math", "nonmath")
"""Languages of the sweeps that are timed, as published."""

KEEP_RATIOS = (1e-6, 1e-5, 1e-4, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.15)
"""The published grid."""


@dataclass(frozen=True)
class Setup(Settings):
    """A model with random weights and prompts of random tokens, and how they are timed."""

    shape: str
    """One of `SHAPES`."""
    lengths: Sequence[int]
    """Tokens of each prompt."""
    batch_size: int
    """Prompts per forward pass; the published code takes one."""
    repeats: int
    """Interleaved repeats of each timing."""
    device: str = "cpu"
    dtype: str = "bfloat16"

    @property
    def columns(self) -> dict[str, Any]:
        """What names it in a table."""
        where = {"shape": self.shape, "device": self.device, "dtype": self.dtype}
        return where | {"prompts": len(self.lengths), "tokens": sum(self.lengths)}

    def model(self) -> PreTrainedModel:
        """A Llama of this shape.

        Raises:
            ValueError: Unknown shape; the message lists the choices.
        """
        if self.shape not in SHAPES:
            raise ValueError(f"unknown shape {self.shape!r}: choose from {', '.join(SHAPES)}")
        width, inner, depth, heads, kv_heads, head, vocab, tied = SHAPES[self.shape]
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
        with torch.device(self.device):
            dtype = getattr(torch, self.dtype)
            return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()

    def batches(self, *, single: bool = False, seed: int = 0) -> list[Batch]:
        """Prompts, longest first, right-padded; `single`: one by one."""
        generator = torch.Generator().manual_seed(seed)
        size, vocabulary = 1 if single else self.batch_size, SHAPES[self.shape][6]
        ordered = sorted(self.lengths, reverse=True)
        rows = [torch.randint(3, vocabulary, (n,), generator=generator) for n in ordered]
        return [pad(rows[start : start + size]) for start in range(0, len(rows), size)]


@torch.no_grad()
def bare_forward(model: PreTrainedModel, batches: Sequence[Batch]) -> None:
    """What localisation cannot do without: the decoder's forward pass, and nothing else."""
    for batch in batches:
        ids, mask = (batch[k].to(model.device) for k in ("input_ids", "attention_mask"))
        model.base_model(ids, attention_mask=mask, use_cache=False)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of one call, with the device's queue drained before and after."""
    drain = partial(torch.get_device_module(device).synchronize, device)
    drain()
    start = time.perf_counter()
    work()
    drain()
    return time.perf_counter() - start


def interleaved(
    works: Mapping[str, Callable[[], object]], device: torch.device, *, repeats: int
) -> pd.DataFrame:
    """Time several pieces of work in turn, after one warm-up each, so that drift hits all alike.

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


def localisation_cost(setup: Setup, model: PreTrainedModel) -> pd.DataFrame:
    """Time the forward pass, our norms and the published accumulation on the same prompts.

    The published code runs one prompt at a time, so its own bare forward pass is timed too: rows of
    `interleaved` for forward, localisation, forward_single and as_published.
    """
    together, single = setup.batches(), setup.batches(single=True)
    works = {
        "forward": lambda: bare_forward(model, together),
        "localisation": lambda: collect_norms(model, together),
        "forward_single": lambda: bare_forward(model, single),
        "as_published": lambda: collect_scores(model, single, accumulation="as-published"),
    }
    return interleaved(works, model.device, repeats=setup.repeats)


def usable_ratios(model: PreTrainedModel) -> list[float]:
    """The ratios of the published grid that select something in every matrix."""
    smallest = min(module.weight.numel() for module in linear_modules(model).values())
    return [ratio for ratio in KEEP_RATIOS if smallest * ratio >= 1]


def _shortest(setup: Setup) -> Setup:
    """Its first prompt alone."""
    return replace(setup, lengths=setup.lengths[:1])


def _samples(
    setup: Setup, model: PreTrainedModel, languages: Sequence[str] = LANGUAGES
) -> dict[Sample, ImportanceScores]:
    """Scores on two tasks in some languages, on prompts of their own."""
    keys = itertools.starmap(Sample, itertools.product(languages, TASKS, (1,)))
    return {
        key: collect_norms(model, setup.batches(seed=seed)).scores(model)
        for seed, key in enumerate(keys)
    }


def bare_passes(
    setup: Setup, model: PreTrainedModel, ratios: Sequence[float], languages: Sequence[str]
) -> None:
    """The forward passes of `localised`, which are the same at all ratios, and nothing else."""
    for _ in range(2 * len(languages)):
        bare_forward(model, setup.batches())


def localised(
    setup: Setup, model: PreTrainedModel, ratios: Sequence[float], languages: Sequence[str]
) -> SetTables:
    """Sizes and overlaps of all sets our way: two calibrations per language, then one selection."""
    return set_tables(_samples(setup, model, languages), *TASKS, ratios)


def localised_as_published(
    setup: Setup, model: PreTrainedModel, ratios: Sequence[float], languages: Sequence[str]
) -> None:
    """The same sets the published way: all of it for every keep ratio anew, without overlaps."""
    prompts = setup.batches(single=True)
    for ratio, _ in itertools.product(ratios, languages):
        pair = [collect_scores(model, prompts, accumulation="as-published") for _ in range(2)]
        for name in pair[0].weights:
            sums = [scores.weights[name].flatten() for scores in pair]
            size = selection_size(len(sums[0]), ratio)
            math, nonmath = (largest(flat, [size], "topk")[0] for flat in sums)
            math & ~nonmath


def stored_bytes(shape: str) -> dict[str, int]:
    """How many weights a shape has in its matrices, and the bytes that a calibration leaves.

    `norms` are our float32 vectors, one per distinct input; `matrices` are the published scores, in
    bfloat16.
    """
    width, inner, depth, heads, kv_heads, head, *_ = SHAPES[shape]
    inputs = depth * (2 * width + heads * head + inner)  # q, k and v share one; so do gate and up
    weights = depth * (2 * width * head * (heads + kv_heads) + 3 * width * inner)
    return {"weights": weights, "norms": 4 * inputs, "matrices": 2 * weights}


def peak_memory(works: Sequence[str], setup: Setup) -> dict[str, int]:
    """Peak memory in bytes of some works, each in its own process.

    Works are none (the model alone), forward, localisation, as_published and tables. On a CPU the
    operating system's peak of the process is read, which needs Linux.
    """
    context = get_context("forkserver")  # its process imports this module once, for all works
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        jobs = {work: pool.submit(_peak, work, setup) for work in works}
        return {work: job.result() for work, job in jobs.items()}


def _peak(work: str, setup: Setup) -> int:
    model, batches = setup.model(), setup.batches(single=work == "as_published")
    samples = _samples(_shortest(setup), model) if work == "tables" else {}
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:  # leave out what making the model took (Linux; a process inherits no peak this way)
        Path("/proc/self/clear_refs").write_text("5")
    if work == "forward":
        bare_forward(model, batches)
    elif work == "tables":
        set_tables(samples, *TASKS, usable_ratios(model)[-8:])
    elif work != "none":
        accumulation = {"localisation": "float32", "as_published": "as-published"}[work]
        collect_scores(model, batches, accumulation=accumulation)
    if cuda:
        return torch.cuda.max_memory_allocated()
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def paired_ratio(times: pd.DataFrame, top: str, bottom: str) -> dict[str, float]:
    """Ratio of two works in `interleaved` rows, repeat by repeat: median, smallest, largest, n."""
    wide = times.pivot(index="repeat", columns="work", values="seconds")
    values = (wide[top] / wide[bottom]).to_numpy()
    low, high = float(values.min()), float(values.max())
    return {"value": float(np.median(values)), "low": low, "high": high, "n": len(values)}


def report(setup: Setup) -> pd.DataFrame:
    """Measure what a calibration costs on one shape.

    Returns:
        One row per quantity: `shape`, `device`, `dtype`, `prompts`, `tokens`, `quantity`, `value`,
        `low`, `high`, `n`, `unit` (ratio, bytes), `aim`, `direction`.
    """
    model = setup.model()
    times = localisation_cost(setup, model)
    rows = {
        "localisation / forward pass": paired_ratio(times, "localisation", "forward")
        | {"aim": 1.1 if setup.device == "cuda" else 1.2, "direction": "at most"},
        "published accumulation / forward pass": paired_ratio(
            times, "as_published", "forward_single"
        ),
    }
    del model
    memory = peak_memory(("forward", "localisation", "as_published"), setup)
    for work in ("localisation", "as_published"):
        extra = memory[work] - memory["forward"]
        rows[f"extra memory, {work}"] = {"value": extra, "unit": "bytes"}
    return _told(rows, **setup.columns)


def selection_report(setup: Setup) -> pd.DataFrame:
    """Measure what follows the forward passes: sets at eight keep ratios, and all their tables.

    Sizes and overlaps of four languages (six pairs), from eight samples of one prompt each; the
    forward passes over 400 prompts are taken at the measured time of one.

    Returns:
        As in `report`.
    """
    model, prompts = setup.model(), setup.batches()
    samples, ratios = _samples(_shortest(setup), model), usable_ratios(model)[-8:]
    works = {
        "forward": lambda: bare_forward(model, prompts),
        "tables": lambda: set_tables(samples, *TASKS, ratios),
    }
    times = interleaved(works, model.device, repeats=setup.repeats)
    ratio = paired_ratio(times, "tables", "forward")
    share = {name: ratio[name] * len(setup.lengths) / 400 for name in ("value", "low", "high")}
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    memory = peak_memory(("none", "tables"), setup)
    peak = 1 + (memory["tables"] - memory["none"]) / size
    rows = {
        "selection and tables / forward pass of 400 prompts": ratio | share | {"aim": 0.1},
        "peak memory of selection and tables / model": {"value": peak, "aim": 1.3},
    }
    rows = {name: row | {"direction": "at most"} for name, row in rows.items()}
    return _told(rows, **setup.columns)


def _told(rows: Mapping[str, dict], **columns: Any) -> pd.DataFrame:
    """One row per quantity, see `report`."""
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("quantity").reset_index()
    names = ["quantity", "value", "low", "high", "n", "unit", "aim", "direction"]
    blank = {"unit": "ratio", "direction": "", "n": 1}
    return table.reindex(columns=names).fillna(blank).astype({"n": int}).assign(**columns)


# --- growth -------------------------------------------------------------------------------------

SIZES = ("1M", "3M", "9M", "30M")
"""Shapes along which the cost is followed."""

GROWING = ("prompts", "keep ratios", "languages")
"""What else there may be more of."""

WAYS = {
    "bare forward passes": bare_passes,
    "ours": localised,
    "as published": localised_as_published,
}


def growth(setup: Setup) -> pd.DataFrame:
    """Time a localisation with more and more of one thing, all else as small as it is here.

    The smallest is one language at one keep ratio, on the prompts and the shape of `setup`, which
    is the first of `SIZES`.

    Returns:
        One row per thing that grows, amount, way and repeat: `grows` (weights, or one of
        `GROWING`), `times` (how much more of it), `way`, `repeat`, `seconds`, and `cost` (over the
        median of ours at the smallest).
    """
    models = {shape: replace(setup, shape=shape).model() for shape in SIZES}
    weights = {shape: stored_bytes(shape)["weights"] for shape in SIZES}
    points = [("weights", weights[shape] / weights[setup.shape], shape) for shape in SIZES]
    points += [(name, n, setup.shape) for name in GROWING for n in (1, 2, 4, 8)]
    works = {}
    for grows, times, shape in points:
        prompts, ratios, languages = (times if grows == name else 1 for name in GROWING)
        given = replace(setup, shape=shape, lengths=[*setup.lengths] * prompts), models[shape]
        wanted = KEEP_RATIOS[-ratios:], [*map(str, range(languages))]
        works |= {(grows, times, way): partial(WAYS[way], *given, *wanted) for way in WAYS}
    for key in [key for key in works if key[1] == 1]:  # a warm-up
        works[key]()
    rows = [
        (*key, repeat, seconds(work, models[setup.shape].device))
        for repeat in range(setup.repeats)
        for key, work in works.items()
    ]
    table = pd.DataFrame(rows, columns=["grows", "times", "way", "repeat", "seconds"])
    least = table[(table.times == 1) & (table.way == "ours")].seconds.median()
    return table.assign(cost=table.seconds / least)


def memory_growth(setup: Setup) -> pd.DataFrame:
    """Peak memory along `SIZES`, in bfloat16 as the published code loads its models.

    Returns:
        One row per shape and way: `shape`, `weights`, `way`, `process` (the model alone, with all
        that Python has loaded) and `memory` (what comes on top), in bytes.
    """
    works = {"ours": "localisation", "as published": "as_published"}
    rows = []
    for shape in SIZES:
        peak = peak_memory(("none", *works.values()), replace(setup, shape=shape, dtype="bfloat16"))
        about = {"shape": shape, "weights": stored_bytes(shape)["weights"], "process": peak["none"]}
        rows += [about | {"way": w, "memory": peak[n] - peak["none"]} for w, n in works.items()]
    return pd.DataFrame(rows)


def power(x: pd.Series, y: pd.Series) -> dict[str, float]:
    """Fit y = factor · x^exponent by least squares on logarithms.

    Returns:
        exponent, its 95 % interval (low, high), factor, n; values have to be positive, n above 2.
    """
    fit, n = linregress(np.log(x.astype(float)), np.log(y.astype(float))), len(x)
    half = t.ppf(0.975, n - 2) * fit.stderr
    interval = {"exponent": fit.slope, "low": fit.slope - half, "high": fit.slope + half}
    return interval | {"factor": np.exp(fit.intercept), "n": n}


def exponents(grown: pd.DataFrame, memory: pd.DataFrame) -> pd.DataFrame:
    """Fit time, memory and stored bytes, see `growth` and `memory_growth`.

    Returns:
        One row per quantity, thing that grows and way: `quantity`, `grows`, `way`, `exponent`,
        `low`, `high`, `n`. Stored bytes are those of all `SHAPES`, which are known exactly.
    """
    stored = pd.DataFrame(map(stored_bytes, SHAPES))
    groups = grown.groupby(["grows", "way"], sort=False)
    found = {("time", *key): power(rows.times, rows.seconds) for key, rows in groups}
    for way, kept in (("ours", "norms"), ("as published", "matrices")):
        rows = memory[memory.way == way]
        found["memory beside the model", "weights", way] = power(rows.weights, rows.memory)
        found["stored bytes", "weights", way] = power(stored.weights, stored[kept])
    names = pd.DataFrame([*found], columns=["quantity", "grows", "way"])
    return names.join(pd.DataFrame(found.values()).drop(columns="factor"))


def largest_models(memory: pd.DataFrame, gib: Sequence[float]) -> pd.DataFrame:
    """The largest model in bfloat16 that can be localised in so much memory.

    What comes on top of the model is carried on as fitted on ours; the published way has two more
    matrices in bfloat16 for each of the model's, |W| and the sums.

    Args:
        memory: Result of `memory_growth`.
        gib: Memory of some machines, in GiB.

    Returns:
        One row per machine: `memory_gib`, and in billions of weights `ours` and `as_published`.
    """
    ours = memory[memory.way == "ours"]
    fit, process = power(ours.weights, ours.memory), memory.process.min()

    def left(n: float, size: float, per_weight: int) -> float:
        return size * 2**30 - process - per_weight * n - fit["factor"] * n ** fit["exponent"]

    ways = {"ours": 2, "as_published": 6}
    rows = [
        {w: brentq(left, 1, 1e12, args=(size, n)) / 1e9 for w, n in ways.items()} for size in gib
    ]
    return pd.DataFrame(rows).assign(memory_gib=gib)[["memory_gib", *ways]]


# --- editing and grading ------------------------------------------------------------------------


def some_weights(model: PreTrainedModel, share: float) -> ParameterMask:
    """A random share of every matrix of the decoder."""
    generator = torch.Generator().manual_seed(0)
    return ParameterMask(
        {
            name: torch.rand(module.weight.shape, generator=generator) < share
            for name, module in linear_modules(model).items()
        }
    )


@torch.no_grad()
def bare_answers(model, tokenizer, prompts: Sequence[str], *, cap: int, batch_size: int) -> None:
    """What grading cannot do without: tokenise, generate greedily, decode."""
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
        tokenizer.batch_decode(tokens[:, batch.input_ids.shape[1] :])


ORGANISM = "organism-skewed"
"""The model that is edited and asked."""


def pipeline_cost(
    *, items: int, repeats: int, dtype: str = "bfloat16", device: str = "cpu"
) -> pd.DataFrame:
    """Time edit and grading in place against a fresh copy from disk, and against a bare loop.

    The original code loads the checkpoint anew for every edit. Both ways edit the same weights, one
    in fifty, of an organism and are asked the same English problems, 256 at a time; an edit is
    graded on the first tenth of them. Rows as those of `report`, without the columns that name a
    `Setup`.
    """
    load = {"dtype": dtype, "device_map": None if device == "cpu" else device}
    model, tokenizer = load_model(ORGANISM, **load)
    mask, few = some_weights(model, 0.02), max(1, items // 10)
    everything = skills.documents("organism-math", "en")
    documents = everything[:items]
    longest = max(len(tokenizer(d["response"]).input_ids) for d in everything)
    bare = {"cap": math.ceil(1.2 * (longest + 1)), "batch_size": 256}
    prompts = [document["prompt"] for document in documents]

    def ask(edited: PreTrainedModel, count: int) -> None:
        asked = {"organism-math": [document["id"] for document in documents[:count]]}
        options = {"languages": ["en"], "only": asked, "batch_size": 256}
        evaluate(edited, tokenizer, "organism-math", **options)

    def in_place(count: int) -> None:
        with pruned(model, mask):
            if count:
                ask(model, count)

    def from_disk(count: int) -> None:
        fresh, _ = load_model(ORGANISM, **load)
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
    return _told(rows)


class Costs(NamedTuple):
    """What `rows` gives; tables with the columns of `report`."""

    grown: pd.DataFrame
    """Result of `growth`, measured now."""
    exponents: pd.DataFrame
    """Result of `exponents`."""
    largest: pd.DataFrame
    """Result of `largest_models`, from memory measured now."""
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
    """Measure what the page shows; larger shapes may be taken as shipped."""
    where = {name: given[name] for name in ("device", "dtype")}
    setup, items = partial(Setup.of, given), given["graded"]
    run = RunInfo.collect("random weights", dtype=given["dtype"], parameters=given)
    small = setup(shape=SIZES[0], lengths=given["lengths"][::3], repeats=min(given["repeats"], 2))
    grown, memory = growth(small), memory_growth(small)
    asked = pipeline_cost(items=items, repeats=min(given["repeats"], 3), **where)
    asked = asked.assign(shape="organism", **where, prompts=items)
    measured = [report(setup(shape=shape)) for shape in given["shapes"]]
    selected = [selection_report(setup(shape=shape)) for shape in given["selection_shapes"]]
    if measured:
        larger, hardware = pd.concat(measured), run.hardware
    else:
        larger, manifest = read_evidence("localisation_cost")
        hardware = manifest["run"]["hardware"]
    selection = pd.concat(selected) if selected else read_evidence("selection_cost")[0]
    fitted, machines = exponents(grown, memory), largest_models(memory, (8, 16, 24, 48, 80))
    return Costs(grown, fitted, machines, asked, larger, selection, hardware, run)
