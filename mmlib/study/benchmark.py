"""Measure what localisation, edits and grading cost, as ratios within one run."""

import itertools
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from mmlib.edits import pruned
from mmlib.forward import pad
from mmlib.importance import Batch, ImportanceScores, collect_norms, largest, selection_size
from mmlib.masks import ParameterMask
from mmlib.models import linear_modules, load_model
from mmlib.overlap import overlap_sweep
from mmlib.study.evidence import read_evidence
from mmlib.study.localisation import Sample, collect_scores, set_tables
from mmlib.study.settings import Settings
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

    def batches(self, *, single: bool = False, lengths: Sequence[int] | None = None) -> list[Batch]:
        """Prompts, longest first, right-padded; `single`: one by one; `lengths`: other ones."""
        generator = torch.Generator().manual_seed(0)
        ordered = sorted(self.lengths if lengths is None else lengths, reverse=True)
        size, vocabulary = 1 if single else self.batch_size, SHAPES[self.shape][6]
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


def selection_cost(setup: Setup, model: PreTrainedModel) -> pd.DataFrame:
    """Time the top-K sets of the whole model at all keep ratios of the published grid."""
    scores = collect_norms(model, setup.batches(lengths=setup.lengths[:1])).scores(model)
    ratios = usable_ratios(model)

    def select() -> None:
        for name in scores.weights:
            scores.top_of(name, ratios)

    return interleaved({"top_k": select}, model.device, repeats=2)


def _samples(setup: Setup, model: PreTrainedModel) -> dict[Sample, ImportanceScores]:
    """Scores on two tasks in four languages, on one random prompt each."""
    cycle = itertools.islice(itertools.cycle(setup.lengths), 2 * len(LANGUAGES))
    batches = setup.batches(single=True, lengths=list(cycle))
    keys = itertools.starmap(Sample, itertools.product(LANGUAGES, ("math", "nonmath"), (1,)))
    return {
        key: collect_norms(model, [batch]).scores(model)
        for key, batch in zip(keys, batches, strict=True)
    }


def _tables(model: PreTrainedModel, samples: Mapping[Sample, ImportanceScores]) -> None:
    set_tables(samples, "math", "nonmath", usable_ratios(model)[-8:])


def stored_bytes(setup: Setup, model: PreTrainedModel) -> dict[str, int]:
    """Bytes on disk of one calibration: our norms, against the published score matrices in bf16."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "norms.safetensors"
        collect_norms(model, setup.batches(lengths=setup.lengths[:1])).save(path)
        matrices = 2 * sum(m.weight.numel() for m in linear_modules(model).values())
        return {"norms": path.stat().st_size, "matrices": matrices}


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
    samples = _samples(setup, model) if work == "tables" else {}
    cuda = model.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    else:  # leave out what making the model took (Linux; a process inherits no peak this way)
        Path("/proc/self/clear_refs").write_text("5")
    if work == "forward":
        bare_forward(model, batches)
    elif work == "tables":
        _tables(model, samples)
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


def report(setup: Setup, sweep_lengths: Sequence[int]) -> pd.DataFrame:
    """Measure everything this module knows on one shape.

    Args:
        setup: What is measured.
        sweep_lengths: Tokens of each prompt of the sweep, which repeats two calibrations per
            language and keep ratio the published way; empty leaves the sweep out.

    Returns:
        One row per quantity: `shape`, `device`, `dtype`, `prompts`, `tokens`, `quantity`, `value`,
        `low`, `high`, `n`, `unit` (ratio, s, bytes), `aim`, `direction`.
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
    if sweep_lengths:
        rows |= _sweep_rows(setup, model, times, sweep_lengths)
    top_k, stored = selection_cost(setup, model).seconds, stored_bytes(setup, model)
    rows["top-K at all keep ratios"] = {"value": float(top_k.median()), "n": 2, "unit": "s"}
    rows["stored per calibration, published / ours"] = {
        "value": stored["matrices"] / stored["norms"]
    }
    rows["stored per calibration"] = {"value": stored["norms"], "unit": "bytes"}
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
    samples = _samples(setup, model)
    works = {
        "forward": lambda: bare_forward(model, prompts),
        "tables": lambda: _tables(model, samples),
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


def _sweep_rows(
    setup: Setup, model: PreTrainedModel, times: pd.DataFrame, lengths: Sequence[int]
) -> dict[str, dict]:
    """The sweep of all keep ratios and languages, our way and the published way, in full.

    Ours: two passes per language, then one selection per matrix for all keep ratios, and all
    overlaps. Published: for every keep ratio and language the two accumulations again, a top-K
    per matrix, and the set difference (no overlaps). As measured on some prompts per sample, and
    carried on to 500 at the measured rates.
    """
    together, single = (setup.batches(single=one, lengths=lengths) for one in (False, True))
    ratios = usable_ratios(model)

    def sweep() -> None:
        norms = [[collect_norms(model, together) for _ in range(2)] for _ in LANGUAGES]
        pairs = zip(LANGUAGES, norms, strict=True)
        overlap_sweep({code: tuple(n.scores(model) for n in pair) for code, pair in pairs}, ratios)

    def as_published() -> None:
        for ratio, _ in itertools.product(ratios, LANGUAGES):
            pair = [collect_scores(model, single, accumulation="as-published") for _ in range(2)]
            for name in pair[0].weights:
                sums = [scores.weights[name].flatten() for scores in pair]
                size = selection_size(len(sums[0]), ratio)
                math, nonmath = (largest(flat, [size], "topk")[0] for flat in sums)
                math & ~nonmath

    ours, theirs = (seconds(work, model.device) for work in (sweep, as_published))
    rate = times.groupby("work").seconds.median() / len(setup.lengths)
    passes = 2 * len(LANGUAGES) * (500 - len(lengths))
    all_ours = ours + passes * rate["localisation"]
    all_theirs = theirs + passes * len(ratios) * rate["as_published"]
    aim = {"aim": 20, "direction": "at least"}
    return {
        f"sweep, published / ours ({len(lengths)} prompts, measured)": {"value": theirs / ours},
        "sweep, published / ours (500 prompts, projected)": {"value": all_theirs / all_ours} | aim,
    }


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
    """Measure what the page shows; larger shapes may be taken as shipped."""
    where = {name: given[name] for name in ("device", "dtype")}
    setup, items = partial(Setup.of, given), given["graded"]
    run = RunInfo.collect("random weights", dtype=given["dtype"], parameters=given)
    tiny = report(setup(shape="1M"), [])
    asked = pipeline_cost(items=items, repeats=min(given["repeats"], 3), **where)
    asked = asked.assign(shape="organism", **where, prompts=items)
    few = given["lengths"][: given["sweep_prompts"]]
    measured = [report(setup(shape=shape), few) for shape in given["shapes"]]
    selected = [selection_report(setup(shape=shape)) for shape in given["selection_shapes"]]
    if measured:
        larger, hardware = pd.concat(measured), run.hardware
    else:
        larger, manifest = read_evidence("localisation_cost")
        hardware = manifest["run"]["hardware"]
    selection = pd.concat(selected) if selected else read_evidence("selection_cost")[0]
    return Costs(tiny, asked, larger, selection, hardware, run)
