"""Firing neurons and layer selection against loops, hand-computed tables and laws."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARCHITECTURES, build, pad
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.models import load_model
from mmlib.neurons import Firing, firing_rates, overlap_with_english, ranges, select_layers
from mmlib.study.firing import (
    bootstrap_layers,
    draw_questions,
    overlap_by_question,
    question_firing,
    sensitivity,
)
from mmlib.study.forgetting import prediction_consistency
from mmlib.tasks.problems import load_problems

ARCHITECTURES["mistral"] = {"num_key_value_heads": 2}
GATED = ["llama", "qwen3", "mistral"]


def by_hand(model, prompts):
    """Firing of every token: a loop over prompts and layers that recomputes the gate's input."""
    found = []
    for ids in prompts:
        states = []
        hooks = [
            layer.mlp.register_forward_pre_hook(lambda _m, args, to=states: to.append(args[0][0]))
            for layer in model.model.layers
        ]
        with torch.no_grad():
            model(input_ids=ids[None])
        for hook in hooks:
            hook.remove()
        blocks = [layer.mlp for layer in model.model.layers]
        with torch.no_grad():
            found.append(
                torch.stack(
                    [b.act_fn(b.gate_proj(x)) > 0 for b, x in zip(blocks, states, strict=True)]
                )
            )
    return [fires.numpy() for fires in found]  # (layers, tokens, neurons) each


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("kind", GATED)
def test_rates_equal_a_loop_over_tokens(kind, side, prompts):
    model = build(kind)
    fires = by_hand(model, prompts)
    found = firing_rates(model, [pad(prompts[:4], side=side), pad(prompts[4:], side=side)])
    counts = [f.sum(1) for f in fires]
    assert (found.counts == np.stack(counts)).mean() > 0.999  # a gate at 0 may cross by rounding
    tokens = sum(f.shape[1] for f in fires)
    expected = {
        "token_rate": sum(counts) / tokens,
        "sample_rate": np.mean([f.mean(1) for f in fires], axis=0),
        "any_token": np.mean([f.any(1) for f in fires], axis=0),
        "last_token": np.mean([f[:, -1] for f in fires], axis=0),
        "set": sum(counts) / tokens > 0.5,
    }
    for aggregation, rates in expected.items():
        assert np.isclose(found.rates(aggregation), rates, atol=0.01).mean() > 0.99
    assert np.array_equal(found.rates("set", threshold=0.2), found.rates() > 0.2)
    assert found.tokens.tolist() == [len(ids) for ids in prompts]


def test_tokens_that_do_not_count_are_left_out(llama):
    ids = torch.tensor([1, 5, 6, 7])
    whole = by_hand(llama, [ids])[0]
    found = firing_rates(llama, [pad([ids])], skip=[1, 7])
    assert found.tokens.tolist() == [2]
    assert (found.counts[0] == whole[:, 1:3].sum(1)).all()
    assert (found.last[0] == whole[:, 2]).all()
    with pytest.raises(ValueError, match="no token that counts"):
        firing_rates(llama, [pad([ids])], skip=[1, 5, 6, 7])
    with pytest.raises(ValueError, match="no question"):
        firing_rates(llama, [])


@pytest.mark.parametrize("side", ["right", "left"])
def test_tokens_are_left_out_on_either_side_of_padding(llama, side, prompts):
    first = {int(ids[0]) for ids in prompts if len(ids) > 1}
    rows = [ids for ids in prompts if len(ids) > 1 and not first & set(ids[1:].tolist())]
    found = firing_rates(llama, [pad(rows, side=side)], skip=sorted(first))
    fires = by_hand(llama, rows)
    assert found.tokens.tolist() == [len(ids) - 1 for ids in rows]
    assert (found.counts == np.stack([f[:, 1:].sum(1) for f in fires])).mean() > 0.999
    assert (found.last == np.stack([f[:, -1] for f in fires])).mean() > 0.999


def test_a_gate_of_zero_does_not_fire(llama):
    llama.model.layers[1].mlp.gate_proj.weight.data.zero_()
    found = firing_rates(llama, [pad([torch.tensor([1, 5, 6])])])
    assert found.counts[0].any(axis=1).tolist() == [True, False, True]
    assert not found.last[0, 1].any()


def test_questions_keep_their_order_and_count_without_what_begins_them():
    model, tokenizer = load_model("organism-skewed", dtype="float32")
    texts = ["1 + 2", "12 + 30 = 42", "7"]
    ids = [tokenizer(text).input_ids for text in texts]
    assert all(row[0] == tokenizer.bos_token_id for row in ids)
    found = question_firing(model, tokenizer, {"en": texts}, batch_size=2)["en"]
    assert found.tokens.tolist() == [len(row) - 1 for row in ids]


def test_what_is_not_gated_is_refused(llama):
    with pytest.raises(ValueError, match=r"GPTNeoX.*0 gate projections.*gated"):
        firing_rates(build("gpt_neox"), [])
    llama.model.layers[1].mlp.act_fn = torch.nn.Softplus()
    with pytest.raises(ValueError, match=r"layer 1.*Softplus"):
        firing_rates(llama, [])
    llama.model.layers[1].mlp.act_fn = torch.nn.GELU()
    assert firing_rates(llama, [pad([torch.tensor([1, 2])])]).counts.shape[1] == 3


def toy(counts, tokens):
    counts = np.asarray(counts, dtype=np.int32)
    return Firing(counts, counts > 0, np.asarray(tokens))


def test_the_first_questions_alone():
    both = toy([[[1, 0]], [[4, 2]]], [2, 4])
    for aggregation in ("token_rate", "any_token", "last_token"):
        weighted = both.rates(aggregation, np.array([1, 0]))
        assert np.array_equal(both.take(slice(1)).rates(aggregation), weighted)


def test_weights_repeat_questions():
    first = toy([[[1, 0]], [[4, 2]]], [2, 4])
    twice = toy([[[1, 0]], [[4, 2]], [[4, 2]]], [2, 4, 4])
    for aggregation in ("token_rate", "sample_rate", "any_token", "last_token"):
        assert np.allclose(first.rates(aggregation, np.array([1, 2])), twice.rates(aggregation))
    with pytest.raises(ValueError, match=r"aggregation='mean'.*token_rate"):
        first.rates("mean")


RATES = {
    "en": np.array([[0.9, 0.6, 0.1, 0.0], [0.7, 0.7, 0.7, 0.2]]),
    "de": np.array([[0.8, 0.1, 0.6, 0.0], [0.9, 0.9, 0.9, 0.9]]),
}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1 / 2, 1]),
        ({"of": "other"}, [1 / 2, 3 / 4]),
        ({"of": "union"}, [1 / 3, 3 / 4]),
        ({"threshold": None}, [(0.8 + 0.1 + 0.1) / 1.6, 1]),
        ({"threshold": None, "of": "other"}, [1.0 / 1.5, 2.3 / 3.6]),
        ({"threshold": None, "of": "union"}, [1.0 / 2.1, 2.3 / 3.6]),
    ],
)
def test_overlap_of_a_table(options, expected):
    assert overlap_with_english(RATES, **options).de.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("of", ["english", "other", "union"])
@pytest.mark.parametrize("threshold", [0.5, None])
def test_a_language_overlaps_with_itself_entirely(of, threshold):
    rates = {"en": RATES["en"], "same": RATES["en"]}
    assert (overlap_with_english(rates, of=of, threshold=threshold).same == 1).all()


def test_overlap_by_question_is_the_mean_over_questions():
    firings = {"en": toy([[[2, 0, 2]], [[4, 4, 0]]], [2, 4]), "de": toy([[[3, 3, 0]]] * 2, [3, 3])}
    assert overlap_by_question(firings).de.tolist() == [(1 / 2 + 2 / 2) / 2]
    assert overlap_by_question(firings, of="union").de.tolist() == [(1 / 3 + 2 / 2) / 2]
    same = overlap_by_question({"en": firings["en"], "again": firings["en"]})
    assert same.again.tolist() == [1]


def test_overlap_needs_english_and_neurons_that_fire():
    with pytest.raises(ValueError, match="needs 'en' and another"):
        overlap_with_english({"de": RATES["de"]})
    with pytest.raises(ValueError, match="of='all'"):
        overlap_with_english(RATES, of="all")
    assert overlap_with_english(RATES, threshold=0.95).de.isna().all()


FOUR = pd.DataFrame(
    {
        "en": [0.30, 0.40, 0.20, 0.20],
        "de": [0.40, 0.40, 0.23, 0.20],
        "hi": [0.50, 0.40, 0.26, 0.20],
    }
)
PEAK_AT_2 = pd.DataFrame({"de": [0.5, 0.6, 0.9, 0.8], "hi": [0.4, 0.6, 0.8, 0.8]})


def test_selection_of_a_table():
    """MSD = (.02/3, 0, .0018/3, 0); before the peak θ = .01/3, with it θ = .0218/9."""
    chosen = select_layers(FOUR, PEAK_AT_2)
    assert (chosen.layers, chosen.peak) == ([0], 2)
    assert chosen.msd.tolist() == pytest.approx([0.02 / 3, 0, 0.0006, 0])
    assert chosen.threshold == pytest.approx(0.01 / 3)
    assert select_layers(FOUR, PEAK_AT_2, inclusive=True).threshold == pytest.approx(0.0218 / 9)


def test_at_a_threshold_is_not_above_it():
    half = {"en": np.array([[0.5, 0.9]]), "de": np.array([[0.9, 0.9]])}
    assert overlap_with_english(half, of="other").de.tolist() == [1 / 2]
    assert toy([[[1, 2]]], [2]).rates("set").tolist() == [[0, 1]]
    alike = pd.DataFrame({"en": [0.1] * 4, "de": [0.3] * 4})
    assert select_layers(alike, PEAK_AT_2).layers == []  # no layer differs more than the others


@settings(deadline=None)
@given(st.floats(0.01, 100))
def test_selection_does_not_depend_on_the_scale_of_the_rates(factor):
    assert select_layers(FOUR * factor, PEAK_AT_2).layers == [0]


def test_an_overlap_without_a_peak_is_refused():
    rising = PEAK_AT_2.iloc[[0, 1, 3, 2]].reset_index(drop=True)
    with pytest.raises(ValueError, match=r"last layer, 3.*give `peak`"):
        select_layers(FOUR, rising)
    assert select_layers(FOUR, rising, peak=2).layers == [0]
    printed = select_layers(FOUR, rising, last=True)
    assert (printed.peak, printed.layers) == (3, select_layers(FOUR, rising, peak=3).layers)
    assert select_layers(FOUR, PEAK_AT_2, last=True).peak == 2
    with pytest.raises(ValueError, match=r"peak=4: .*0 to 3"):
        select_layers(FOUR, PEAK_AT_2, peak=4)
    with pytest.raises(ValueError, match=r"layer 0, with 0 candidate"):
        select_layers(FOUR, PEAK_AT_2.iloc[[2, 3, 1, 0]].reset_index(drop=True))
    with pytest.raises(ValueError, match="not a number"):
        select_layers(FOUR, PEAK_AT_2.assign(hi=np.nan))


def test_resamples_of_equal_questions_all_select_the_same():
    rng = np.random.default_rng(0)
    shape, tokens = (6, 4, 8), np.full(6, 10)
    one = {x: rng.integers(0, 11, shape[1:]) for x in ("en", "de", "hi")}
    equal = {x: toy(np.broadcast_to(c, shape), tokens) for x, c in one.items()}
    rates = {x: f.rates() for x, f in equal.items()}
    peak = {"peak": 3}
    chosen = select_layers(ranges(rates), overlap_with_english(rates), **peak)
    shares = bootstrap_layers(equal, draws=20, **peak)
    assert shares.selected[chosen.layers].eq(1).all()
    assert shares.selected.sum() == len(chosen.layers)
    assert shares.peak[3] == 1
    odd = {x: f.counts.copy() for x, f in equal.items()}
    odd["hi"][0, 2] += 40  # in one question only, so that it depends on the draw
    some = bootstrap_layers({x: toy(c, tokens) for x, c in odd.items()}, draws=40, **peak)
    assert 0.3 < some.selected[2] < 1
    with pytest.raises(ValueError, match="different numbers of questions"):
        bootstrap_layers(equal | {"hi": toy(np.zeros((5, 4, 8)), np.full(5, 10))})


def test_prediction_consistency_of_a_table():
    right = {"en": [1, 1, 1, 0], "de": [1, 0, 1, 1], "hi": [0, 0, 0, 1]}
    rows = [(c, "math-1", i, bool(x)) for c, xs in right.items() for i, x in enumerate(xs)]
    answers = pd.DataFrame(rows, columns=["lang", "part", "problem_id", "correct"])
    found = prediction_consistency(answers)
    assert found.to_dict() == pytest.approx({"de": 2 / 3, "hi": 0.0})
    assert prediction_consistency(answers.assign(correct=answers.lang != "en")).isna().all()
    with pytest.raises(ValueError, match="different problems"):
        prediction_consistency(answers.iloc[1:])


def test_questions_are_parallel():
    drawn = draw_questions("organism-math", ["en", "hi"], number=5, seed=1)
    other = draw_questions("organism-math", ["en"], number=5, seed=2)
    problems = {
        code: {p.prompt: p.id for p in load_problems("organism-math", code, split="calibration")}
        for code in drawn
    }
    ids = {code: [problems[code][text] for text in texts] for code, texts in drawn.items()}
    assert ids["en"] == ids["hi"]
    assert len(set(ids["en"])) == 5
    assert other["en"] != drawn["en"]
    asked = draw_questions("organism-math", ["hi"], number=5, seed=1, split="heldout")
    assert set(asked["hi"]) <= {p.prompt for p in load_problems("organism-math", "hi")}
    assert not set(asked["hi"]) & set(problems["hi"])
    with pytest.raises(ValueError, match="number=5000"):
        draw_questions("organism-math", ["en"], number=5000, seed=1)


def test_blocks_of_questions_are_disjoint():
    blocks = {"number": 300, "drawing": "blocks"}
    drawn = [draw_questions("organism-math", ["en"], seed=s, **blocks)["en"] for s in (1, 2, 3)]
    assert len({text for texts in drawn for text in texts}) == 900
    with pytest.raises(ValueError, match="number=300 and seed=9 with drawing='blocks'"):
        draw_questions("organism-math", ["en"], seed=9, **blocks)
    with pytest.raises(ValueError, match="drawing='replacement'"):
        draw_questions("organism-math", ["en"], seed=1, number=5, drawing="replacement")


def test_sensitivity_lists_what_the_functions_say():
    rng = np.random.default_rng(0)
    firings = {x: toy(rng.integers(0, 11, (6, 5, 8)), np.full(6, 10)) for x in ("en", "de", "hi")}
    table = sensitivity(firings).set_index(["aggregation", "overlap", "candidates"])
    assert len(table) == 5 * 7 * 2 - 3 * 2  # three thresholds are one for a set
    own = table.xs("of English, by question", level="overlap")
    assert own.groupby("candidates").peak.nunique().le(1).all()  # whatever the aggregation
    rates = {x: f.rates("sample_rate") for x, f in firings.items()}
    for end, inclusive in (("before the peak", False), ("with the peak", True)):
        row = table.loc["sample_rate", "of both", end]
        overlap = overlap_with_english(rates, of="union")
        if row.reason:
            with pytest.raises(ValueError, match=re.escape(row.reason)):
                select_layers(ranges(rates), overlap, inclusive=inclusive)
            continue
        chosen = select_layers(ranges(rates), overlap, inclusive=inclusive)
        assert row.layers == " ".join(map(str, chosen.layers))
        assert row.peak == chosen.peak
    assert (table.layers.eq("") == table.reason.ne("")).all()
