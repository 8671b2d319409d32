import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
import torch

from mmlib.importance import collect_norms
from mmlib.models import linear_modules
from mmlib.study import benchmark
from mmlib.study.benchmark import (
    SHAPES,
    Setup,
    growth,
    interleaved,
    largest_models,
    localised,
    localised_as_published,
    paired_ratio,
    pipeline_cost,
    power,
    report,
    selection_report,
    some_weights,
    stored_bytes,
)


def test_batches_hold_exactly_the_lengths_asked_for():
    batches = Setup("1M", [3, 9, 5, 1], batch_size=3, repeats=1).batches()
    lengths = [int(row.sum()) for batch in batches for row in batch["attention_mask"]]
    assert lengths == [9, 5, 3, 1]
    assert [len(batch["input_ids"]) for batch in batches] == [3, 1]
    assert all(batch["input_ids"].max() < SHAPES["1M"][6] for batch in batches)


def test_work_is_warmed_up_once_and_timed_in_turn():
    calls = []
    works = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    times = interleaved(works, torch.device("cpu"), repeats=3)
    assert calls == ["a", "b"] * 4
    assert len(times) == 6
    assert (times.seconds >= 0).all()


def test_ratios_are_paired_by_repeat():
    works = {"a": lambda: None, "b": lambda: None}
    times = interleaved(works, torch.device("cpu"), repeats=3)
    times["seconds"] = [2.0, 1.0, 9.0, 3.0, 8.0, 2.0]
    assert paired_ratio(times, "a", "b") == {"value": 3.0, "low": 2.0, "high": 4.0, "n": 3}


@pytest.mark.parametrize("shape", ["1M", "3M"])
def test_stored_bytes_are_those_of_a_calibration_and_of_a_matrix_per_weight(shape, tmp_path):
    setup = Setup(shape, [4], batch_size=1, repeats=1, dtype="float32")
    model = setup.model()
    norms = collect_norms(model, setup.batches())
    stored = stored_bytes(shape)
    assert stored["norms"] == sum(vector.nbytes for vector in norms.vectors.values())
    assert stored["weights"] == sum(m.weight.numel() for m in linear_modules(model).values())
    assert stored["matrices"] == 2 * stored["weights"]
    norms.save(tmp_path / "norms.safetensors")
    assert 0 < (tmp_path / "norms.safetensors").stat().st_size - stored["norms"] < 9_000  # names


def test_stored_bytes_know_grouped_keys_and_values():
    """Numbers of Llama-3.1-8B: 32 layers, 4096 wide, 14336 within, 32 and 8 heads of 128."""
    weights = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14_336)
    assert stored_bytes("8B")["weights"] == weights
    assert stored_bytes("8B")["norms"] == 4 * 32 * (3 * 4096 + 14_336)


def test_both_ways_make_the_sets_of_every_language_and_keep_ratio(monkeypatch):
    setup = Setup("1M", [5, 3], batch_size=2, repeats=1, dtype="float32")
    model, ratios = setup.model(), [0.05, 0.1]
    sizes = localised(setup, model, ratios, ["0", "1"]).sizes.query("group == 'global'")
    assert len(sizes) == 4
    assert (sizes.n_math_specific > 0).all()  # math and other text differ
    passes = []
    kept = benchmark.collect_scores
    monkeypatch.setattr(
        benchmark, "collect_scores", lambda *a, **k: passes.append(len(a[1])) or kept(*a, **k)
    )
    localised_as_published(setup, model, ratios, ["0", "1"])
    assert passes == [2] * 8  # two ratios, two languages, two texts; prompts one by one


def test_growth_follows_one_thing_at_a_time(monkeypatch):
    """With a clock that counts what is asked for, every exponent is known."""
    monkeypatch.setattr(benchmark, "SIZES", ("1M", "3M"))
    calls = []
    ways = {"a": lambda setup, model, ratios, languages: calls.append(
        (setup.shape, len(setup.lengths), len(ratios), len(languages))
    )}  # fmt: skip
    monkeypatch.setattr(benchmark, "WAYS", ways | {"ours": ways["a"]})

    def product_of_all(work, _):
        work()
        shape, *counts = calls[-1]
        return float(np.prod(counts)) * stored_bytes(shape)["weights"]

    monkeypatch.setattr(benchmark, "seconds", product_of_all)
    grown = growth(Setup("1M", [5, 3, 4], batch_size=2, repeats=2, dtype="float32"))
    assert np.allclose(grown.cost, grown.times)
    assert len(grown) == 2 * 2 * (2 + 3 * 4)
    for _, rows in grown.groupby(["grows", "way"]):
        fit = power(rows.times, rows.seconds)
        assert fit["exponent"] == pytest.approx(1)
        assert fit["n"] == len(rows)


def test_a_power_has_the_interval_of_a_regression():
    rng = np.random.default_rng(0)
    x = pd.Series([1, 2, 4, 8, 16])
    y = 3 * x**0.7 * np.exp(0.1 * rng.standard_normal(5))
    fit = power(x, y)
    model = sm.OLS(np.log(y), sm.add_constant(np.log(x))).fit()
    assert fit["exponent"] == pytest.approx(model.params.iloc[1])
    assert [fit["low"], fit["high"]] == pytest.approx(model.conf_int().iloc[1].to_list())
    assert fit["factor"] == pytest.approx(np.exp(model.params.iloc[0]))


def test_the_largest_model_fills_the_memory():
    weights = pd.Series([1e6, 4e6, 16e6])
    memory = pd.DataFrame({"weights": weights, "memory": 1e3 * weights**0.5, "way": "ours"})
    found = largest_models(memory.assign(process=2**30), [8, 16])
    for row in found.itertuples():
        for per_weight, billions in ((2, row.ours), (6, row.as_published)):
            n = billions * 1e9
            assert 2**30 + per_weight * n + 1e3 * n**0.5 == pytest.approx(row.memory_gib * 2**30)


def test_a_report_has_every_quantity_the_book_names(monkeypatch):
    monkeypatch.setattr(
        "mmlib.study.benchmark.peak_memory",
        lambda works, *_, **__: dict.fromkeys(works, 1),
    )
    table = report(Setup("1M", [5, 3], batch_size=2, repeats=1)).set_index("quantity")
    assert set(table.unit) == {"ratio", "bytes"}
    assert (table.query("unit == 'ratio'").value > 0).all()
    assert table.aim.dropna().to_dict() == {"localisation / forward pass": 1.2}


def test_selection_is_told_as_a_share_of_400_prompts(monkeypatch):
    seconds = iter([2.0, 3.0, 2.0, 5.0])  # forward and tables in turn
    monkeypatch.setattr("mmlib.study.benchmark.seconds", lambda *_: next(seconds))
    monkeypatch.setattr(
        "mmlib.study.benchmark.peak_memory", lambda *_, **__: {"none": 10, "tables": 10}
    )
    setup = Setup("1M", [5, 3], batch_size=2, repeats=2)
    table = selection_report(setup).set_index("quantity")
    share, peak = table.value
    assert share == pytest.approx((1.5 + 2.5) / 2 * 2 / 400)
    assert peak == 1
    assert table.aim.to_list() == [0.1, 1.3]


def test_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="30M, 170M"):
        Setup("31M", [4], batch_size=1, repeats=1).model()


def test_editing_and_grading_are_timed_against_a_reload_and_a_bare_loop():
    table = pipeline_cost(items=4, repeats=1, dtype="float32").set_index("quantity")
    assert table.aim.dropna().to_dict() == {
        "grading, harness / bare generate loop": 1.3,
        "answers graded per second": 150,
    }
    assert (table.value > 0).all()
    assert set(table.unit) == {"ratio", "1/s"}


def test_a_share_of_every_matrix_is_drawn():
    model = Setup("1M", [4], batch_size=1, repeats=1, dtype="float32").model()
    mask = some_weights(model, 0.1)
    assert {name for name, _ in mask.items()} == set(linear_modules(model))
    assert len(mask) == pytest.approx(
        0.1 * sum(m.weight.numel() for m in linear_modules(model).values()), rel=0.05
    )
    assert mask == some_weights(model, 0.1)
