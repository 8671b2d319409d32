"""Profiles of layers and changes of one layer at a time, on models whose answer is known."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from mmlib.finetune import mean_loss
from mmlib.masks import ParameterMask
from mmlib.merging import update_magnitude
from mmlib.study import synthesis
from mmlib.study.synthesis import (
    chance_rank_correlation,
    layer_views,
    rank_agreement,
    repeatability,
)
from mmlib.study.yardsticks import exchanged_layers, layer_of, pruned_layers, yardsticks

EXAMPLES = [
    {"input_ids": [5, 9, 3, 12, 7], "labels": [-100, -100, 3, 12, 7]},
    {"input_ids": [2, 8, 40], "labels": [-100, 8, 40]},
]


@pytest.fixture
def expert(llama):
    """A model that differs from llama in its layer 1 only."""
    other = copy.deepcopy(llama)
    with torch.no_grad():
        other.model.layers[1].mlp.down_proj.weight += 0.3
    return other


def test_only_the_layer_that_differs_changes_anything(llama, expert):
    """Reverting it gives the base's loss; a donor that is equal changes nothing."""
    before = {name: p.clone() for name, p in expert.named_parameters()}
    table = exchanged_layers(expert, llama, EXAMPLES).set_index("layer").change
    whole = mean_loss(llama, EXAMPLES) - mean_loss(expert, EXAMPLES)
    assert table.tolist() == [0.0, pytest.approx(whole), 0.0]
    assert abs(whole) > 1e-4
    assert exchanged_layers(expert, copy.deepcopy(expert), EXAMPLES).change.eq(0).all()
    assert all(torch.equal(before[name], p) for name, p in expert.named_parameters())


def masks(model, layer, share):
    """A set that holds weights of one layer only."""
    generator = torch.Generator().manual_seed(0)
    return ParameterMask(
        {
            name: (torch.rand(module.weight.shape, generator=generator) < share)
            & (f"layers.{layer}." in name)
            for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and "layers" in name
        }
    )


def test_pruning_a_layer_is_pruning_its_part_of_the_set(llama):
    own = masks(llama, 2, 0.5)
    table = pruned_layers(llama, own, EXAMPLES).set_index("layer")
    bare = copy.deepcopy(llama)
    with torch.no_grad():
        for name, mask in own.items():
            bare.get_submodule(name).weight[mask] = 0.0
    change = mean_loss(bare, EXAMPLES) - mean_loss(llama, EXAMPLES)
    assert table.change.tolist() == [0.0, 0.0, pytest.approx(change)]
    assert table.n_weights.tolist() == [0, 0, len(own)]
    with pytest.raises(ValueError, match="begins with"):
        layer_of(own, "model.layers.7.")


def test_the_five_yardsticks_of_every_language(llama, expert):
    sets = {"sw": masks(llama, 2, 0.5), "hi": masks(llama, 0, 0.5)}
    given = {"hi": llama, "sw": expert}
    math, texts = dict.fromkeys(given, EXAMPLES), dict.fromkeys(given, EXAMPLES[:1])
    table = yardsticks(llama, expert, given, sets, math, texts, seed=1)
    wide = table.pivot(index=["yardstick", "layer"], columns="lang", values="change")
    assert len(wide) == 15
    reverted = exchanged_layers(expert, llama, EXAMPLES).change.tolist()
    # The Hindi expert is the base, so that its layers are the base's; the other is the math expert.
    assert wide.hi["take from the base"].tolist() == reverted
    assert wide.hi["take from the language expert"].tolist() == reverted
    assert wide.sw["take from the language expert"].eq(0).all()
    assert wide.hi["revert the language expert"].eq(0).all()
    own = exchanged_layers(expert, llama, EXAMPLES[:1]).change.tolist()
    assert wide.sw["revert the language expert"].tolist() == own
    pruned = {name: wide.loc[f"prune {name} weights"] for name in ("math", "random")}
    for table in pruned.values():
        assert (table != 0).to_numpy().tolist() == [[1, 0], [0, 0], [0, 1]]
    assert pruned["random"].sw[2] != pytest.approx(pruned["math"].sw[2])


def test_views_are_the_tables_they_come_from(llama, expert):
    cells = [("en", "de", 0, 0.4), ("en", "hi", 0, 0.2), ("de", "hi", 0, 0.3)]
    cells += [(a, b, layer, 0.1) for layer in (1, 2) for a, b, *_ in cells[:3]]
    overlap = pd.DataFrame(cells, columns=["lang_a", "lang_b", "layer", "jaccard"])
    rates = {
        "en": np.array([[0.9, 0.1], [0.9, 0.9], [0.6, 0.6]]),
        "hi": np.array([[0.1, 0.9], [0.9, 0.1], [0.6, 0.6]]),
    }
    update = update_magnitude(llama, expert)
    views = layer_views(overlap, rates, update, {"hi": update * 1})
    wide = views.pivot(index="layer", columns="view", values="value")
    assert wide["math-set overlap"].tolist() == pytest.approx([0.25, 0.1, 0.1])
    assert wide["firing overlap"].tolist() == [0.0, 0.5, 1.0]
    assert wide["firing MSD"].tolist() == pytest.approx([0.0, 0.04, 0.0])
    inside = sum(p.numel() for p in llama.model.layers[1].parameters())
    moved = llama.model.layers[1].mlp.down_proj.weight.numel()
    assert wide["math update"].tolist() == pytest.approx([0.0, 0.3 * moved / inside, 0.0], rel=1e-5)
    assert wide["language update"].tolist() == wide["math update"].tolist()


def profiles(**values):
    rows = [
        {"name": name, "seed": seed, "lang": lang, "layer": layer, "value": value}
        for name, own in values.items()
        for (seed, lang), column in own.items()
        for layer, value in enumerate(column)
    ]
    return pd.DataFrame(rows)


def test_agreement_is_the_mean_over_seeds_of_the_mean_over_languages():
    up, down, mixed = [1, 2, 3, 4], [9, 5, 2, 1], [1, 2, 4, 3]
    cells = [(1, "sw"), (1, "hi"), (2, "sw"), (2, "hi")]
    left = profiles(view=dict.fromkeys(cells, up))
    right = profiles(yard=dict(zip(cells, [up, mixed, down, down], strict=True)))
    table = rank_agreement(left, right)
    # Spearman of up and mixed: 1 - 6 * 2 / (4 * 15) = .8, so that the seeds have .9 and -1.
    assert table.rho.item() == pytest.approx((0.9 - 1) / 2)
    assert (table.low.item(), table.high.item()) == (-1, 1)
    assert (table.n.item(), table.left.item(), table.right.item()) == (2, "view", "yard")
    flat = profiles(yard={cell: [1, 1, 1, 1] for cell in cells})
    assert rank_agreement(left, flat).empty
    with pytest.raises(ValueError, match="in common"):
        rank_agreement(left, profiles(yard={(7, "sw"): up}))


def test_repeatability_compares_seeds_within_a_language():
    up, down, mixed = [1, 2, 3, 4], [9, 5, 2, 1], [1, 2, 4, 3]
    same = {(1, "sw"): up, (2, "sw"): up, (1, "hi"): down, (2, "hi"): down}
    other = {(1, "sw"): up, (2, "sw"): down, (1, "hi"): up, (2, "hi"): mixed}
    found = repeatability(profiles(same=same, other=other))
    assert found.to_dict() == {"same": 1.0, "other": pytest.approx((0.8 - 1) / 2)}
    assert repeatability(profiles(same={(1, "sw"): up})).isna().all()


def test_chance_is_the_critical_value_of_the_tables():
    """For eight ranks .738 is exceeded or reached in 4.6 % of the orders, .714 in 5.8 %."""
    assert chance_rank_correlation(8) == pytest.approx(1 - 6 * 22 / (8 * 63), abs=1e-6)
    assert chance_rank_correlation(8) <= 1 - 6 * 22 / (8 * 63)
    assert chance_rank_correlation(32) < 0.37


def test_mean_ranks_over_languages_and_seeds():
    rows = [
        ("view", seed, lang, layer, value)
        for seed in (1, 2)
        for lang, values in (("de", [3.0, 2.0, 1.0]), ("sw", [3.0, 1.0, 2.0]))
        for layer, value in enumerate(values)
    ]
    table = pd.DataFrame(rows, columns=["name", "seed", "lang", "layer", "value"])
    assert synthesis.mean_ranks(table)["view"].tolist() == [1.0, 2.5, 2.5]


def test_beyond_chance_needs_a_size_and_an_interval_without_zero():
    rows = [(0.9, 0.8, 1.0), (-0.9, -1.0, -0.8), (0.9, -0.1, 1.0), (0.3, 0.2, 0.4)]
    table = pd.DataFrame(rows, columns=["rho", "low", "high"])
    assert synthesis.beyond_chance(table, 0.7).tolist() == [True, True, False, False]


def test_views_of_one_method_are_not_compared_and_depth_is_no_view():
    cells = [(seed, "") for seed in (1, 2, 3)]
    up, down = [*range(8)], [*range(8, 0, -1)]
    views = {"firing overlap": up, "firing MSD": up, "math update": down, "depth": up}
    yards = {"beyond random": up, "prune math": up, "prune random": up}
    views, yards = (
        profiles(**{name: dict.fromkeys(cells, values) for name, values in kind.items()})
        for kind in (views, yards)
    )
    among, against = synthesis.compared(views, yards)
    assert len(among) == 5  # six pairs, one of them of one method
    assert among["beyond chance"].all()
    assert set(among.rho) == {1.0, -1.0}
    told = synthesis.told(views, among, against)
    assert (told["n_among"], told["n_agree"]) == (2, 2)
    assert (told["n_pairs"], told["n_yards"], told["depth"]) == (3, 1, 8)
    assert told["answer_views"].startswith("2 of 2 pairs of views agree")
    words = synthesis.in_words(against)
    assert words.loc["prune math", "math update"] == "-1.00 (-1.00 to -1.00)"
