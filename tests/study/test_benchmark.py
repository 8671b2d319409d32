import pytest
import torch

from mmlib.models import linear_modules
from mmlib.study.benchmark import (
    KEEP_RATIOS,
    SHAPES,
    Setup,
    interleaved,
    paired_ratio,
    pipeline_cost,
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


def test_stored_bytes_are_one_vector_per_input_against_a_matrix_per_weight():
    setup = Setup("1M", [4], batch_size=1, repeats=1, dtype="float32")
    model = setup.model()
    stored = stored_bytes(setup, model)
    width, inner, depth = SHAPES["1M"][:3]
    floats = depth * (3 * width + inner)
    assert 4 * floats < stored["norms"] < 4 * floats + 6_000
    assert stored["matrices"] == 2 * sum(m.weight.numel() for m in linear_modules(model).values())


def test_a_report_has_every_quantity_the_book_names(monkeypatch):
    monkeypatch.setattr("mmlib.study.benchmark.KEEP_RATIOS", KEEP_RATIOS[-2:])
    monkeypatch.setattr(
        "mmlib.study.benchmark.peak_memory",
        lambda works, *_, **__: dict.fromkeys(works, 1),
    )
    table = report(Setup("1M", [5, 3], batch_size=2, repeats=1), [4]).set_index("quantity")
    assert set(table.unit) == {"ratio", "s", "bytes"}
    assert (table.query("unit == 'ratio'").value > 0).all()
    assert table.aim.dropna().to_dict() == {
        "localisation / forward pass": 1.2,
        "sweep, published / ours (500 prompts, projected)": 20,
    }


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
