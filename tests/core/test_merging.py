"""Laws of swapping: identities, exact restoration, and agreement with arithmetic done apart."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ARCHITECTURES, build
from transformers import AutoModelForCausalLM

from mmlib.edits import holding
from mmlib.merging import (
    LayerPlan,
    adjusted_weights,
    check_comparable,
    check_vocabularies,
    dense,
    mean_update,
    merged,
    soup,
    task_arithmetic,
    ties,
    update_magnitude,
)
from mmlib.models import load_model

ARCHITECTURES["qwen2"] = {"num_key_value_heads": 2, "tie_word_embeddings": True}
PLAN = LayerPlan((1.0, 0.5, 0.0))
IDS = torch.tensor([[1, 5, 9, 2]])


def tuned(model, seed, size=0.01):
    """A copy whose parameters have all moved."""
    expert, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in expert.parameters():
            parameter += size * torch.randn(parameter.shape, generator=generator)
    return expert


@pytest.fixture(params=["llama", "qwen2", "qwen3"])
def family(request):
    base = build(request.param)
    return base, tuned(base, 1), tuned(base, 2)


def same(a, b):
    assert set(a) == set(b)
    return all(torch.equal(a[name], b[name]) for name in a)


def test_bands_and_what_does_not_fit():
    assert LayerPlan.bands(8, 2, 1).weights == (1, 1, 0.5, 0, 0, 0, 0.5, 1)
    assert LayerPlan.bands(4, 2, 2, transition=0).weights == (1, 1, 1, 1)
    assert LayerPlan.bands(4, 0, 1).weights == (0, 0, 0.5, 1)
    assert LayerPlan.bands(8, 0, 0).weights == (0,) * 8
    ends = {n: LayerPlan.fitted(n).weights for n in (16, 24, 28, 36)}
    sizes = {n: (w.index(0.5), w[::-1].index(0.5)) for n, w in ends.items()}
    assert sizes == {16: (3, 1), 24: (4, 2), 28: (4, 2), 36: (6, 2)}
    published = LayerPlan.fitted(32).weights
    assert published == (1,) * 5 + (0.5,) + (0,) * 23 + (0.5,) + (1,) * 2
    with pytest.raises(ValueError, match="do not fit into 4 layers"):
        LayerPlan.bands(4, 2, 2, transition=1)
    with pytest.raises(ValueError, match="within"):
        LayerPlan((0.2, 1.1))


def test_plans_from_updates_and_their_controls():
    assert LayerPlan.from_updates([1, 2, 1], [4, 2, 2]).weights == (1, 0, 0.5)
    plan = LayerPlan.bands(8, 2, 1)
    assert plan.reversed().weights == (0, 0, 0.5, 1, 1, 1, 0.5, 0)
    drawn = plan.shuffled(3).weights
    assert sorted(drawn) == sorted(plan.weights)
    assert drawn != plan.weights


def test_identities(family):
    base, math, language = family
    zero, one = LayerPlan((0,) * 3), LayerPlan((1,) * 3)
    assert same(merged(math, math, PLAN), dense(math))
    assert same(merged(math, language, zero, others="math"), dense(math))
    assert same(merged(math, language, one, others="language"), dense(language))
    revert = merged(math, base, LayerPlan((1, 0, 1)), others="language")
    for name, tensor in revert.items():
        middle = ".layers.1." in name
        assert torch.equal(tensor, dense(math if middle else base)[name])


def test_every_tensor_of_a_layer_moves(family):
    """Norms, and where there are any biases and q/k norms, go with their layer."""
    _, math, language = family
    made = merged(math, language, PLAN, others="math")
    layers = {name for name in made if ".layers.0." in name}
    assert layers == {n for n, _ in language.named_parameters() if ".layers.0." in n}
    assert all(torch.equal(made[n], dense(language)[n]) for n in layers)
    kinds = {"qwen2": "q_proj.bias", "qwen3": "q_norm.weight"}
    if kind := kinds.get(math.config.model_type):
        assert any(n.endswith(kind) for n in layers)


def test_a_weight_is_the_share_of_the_language_expert():
    base = build("llama")
    math, language, weights = tuned(base, 1), tuned(base, 2), (0.25, 0.9, 0.0)
    made = merged(math, language, LayerPlan(weights), others="math")
    for index, weight in enumerate(weights):
        name = f"model.layers.{index}.mlp.up_proj.weight"
        expected = weight * dense(language)[name] + (1 - weight) * dense(math)[name]
        assert torch.allclose(made[name], expected, atol=1e-6)


@pytest.mark.parametrize("others", ["average", "math", "language", "base"])
def test_tensors_outside_of_the_layers(family, others):
    base, math, language = family
    made = merged(math, language, PLAN, others=others, base=base)
    outside = [name for name in made if ".layers." not in name]
    tied = math.config.tie_word_embeddings
    assert len(outside) == 2 + (not tied)  # embeddings, final norm, head
    for name in outside:
        expected = {
            "average": (dense(math)[name] + dense(language)[name]) / 2,
            "math": dense(math)[name],
            "language": dense(language)[name],
            "base": dense(base)[name],
        }
        assert torch.allclose(made[name], expected[others], atol=1e-7)
    with pytest.raises(ValueError, match="others='all'"):
        merged(math, language, PLAN, others="all")
    with pytest.raises(ValueError, match="needs the base"):
        merged(math, language, PLAN, others="base")


def test_averages_are_made_in_float32():
    base = build("llama").to(torch.bfloat16)
    math, language = tuned(base, 1), tuned(base, 2)
    made = merged(math, language, LayerPlan((0.5,) * 3))
    for name, tensor in made.items():
        by_hand = (dense(math)[name].double() + dense(language)[name].double()) / 2
        assert torch.equal(tensor, by_hand.float().to(torch.bfloat16))


def test_the_context_restores_every_bit_also_after_an_exception(family):
    _, math, language = family
    before = {n: t.clone() for n, t in dense(math).items()}
    with torch.no_grad():
        plain = math(IDS).logits
        with holding(math, merged(math, language, PLAN)):
            assert not torch.equal(math(IDS).logits, plain)
            tied = math.config.tie_word_embeddings
            assert (math.lm_head.weight is math.model.embed_tokens.weight) == tied
        assert torch.equal(math(IDS).logits, plain)
        with pytest.raises(IndexError), holding(math, merged(math, language, PLAN)):
            math(IDS + 1000)
        assert torch.equal(math(IDS).logits, plain)
    assert same(before, dense(math))
    with pytest.raises(ValueError, match="no fitting tensor"), holding(math, {}):
        pass


def test_a_checkpoint_gives_the_logits_of_the_context(tmp_path):
    math, _ = load_model("organism-skewed", dtype="float32")
    language, _ = load_model("organism-even", dtype="float32")
    tensors = merged(math, language, LayerPlan.fitted(8))
    with torch.no_grad(), holding(math, tensors):
        math.save_pretrained(tmp_path)
        logits = math(IDS).logits
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype="float32")
    assert torch.equal(loaded(IDS).logits, logits)


def test_experts_of_different_bases_are_refused(family):
    base, math, _ = family
    other = build(base.config.model_type, intermediate_size=40)
    with pytest.raises(ValueError, match=r"configurations differ.*intermediate_size.*48, 40"):
        check_comparable(math, other)
    with pytest.raises(ValueError, match="plan has 2 layers, the model 3"):
        merged(math, base, LayerPlan((0, 1)))
    with pytest.raises(ValueError, match=r"configurations differ.*vocab_size"):
        check_comparable(math, build(base.config.model_type, vocab_size=80))


def test_experts_of_different_vocabularies_are_refused():
    """As many tokens, but a row stands for another one."""
    _, tokenizer = load_model("organism-base")
    vocabulary = tokenizer.get_vocab()
    a, b = sorted(vocabulary)[100:102]
    exchanged = vocabulary | {a: vocabulary[b], b: vocabulary[a]}
    check_vocabularies(tokenizer, SimpleNamespace(get_vocab=lambda: dict(vocabulary)))
    with pytest.raises(ValueError, match="different vocabularies"):
        check_vocabularies(tokenizer, SimpleNamespace(get_vocab=lambda: exchanged))


def test_soups(family):
    base, math, language = family
    made = soup([math, language], [3, 1])
    name = "model.layers.1.mlp.up_proj.weight"
    expected = 0.75 * dense(math)[name] + 0.25 * dense(language)[name]
    assert torch.allclose(made[name], expected, atol=1e-6)
    twice = tuned(base, 2, size=0.03)
    weights = adjusted_weights(base, [language, twice])
    assert weights == pytest.approx([0.75, 0.25], abs=1e-4)
    with pytest.raises(ValueError, match="equals the base"):
        adjusted_weights(base, [base, math])
    with pytest.raises(ValueError, match="2 experts"):
        soup([math, language], [1])


def test_task_arithmetic_and_ties(family):
    base, math, language = family
    name = "model.layers.0.self_attn.q_proj.weight"
    start = dense(base)[name]
    deltas = [(dense(m)[name] - start).numpy() for m in (math, language)]
    summed = task_arithmetic(base, [math, language], [0.5, 0.25])[name]
    assert np.allclose(summed, start + 0.5 * deltas[0] + 0.25 * deltas[1], atol=1e-6)
    kept = []
    for d in deltas:
        cut = np.sort(np.abs(d).ravel())[-int(0.2 * d.size)]
        kept.append(np.where(np.abs(d) >= cut, d, 0))
    sign = np.where(sum(kept) >= 0, 1, -1)
    agree = [np.where(np.sign(d) == sign, d, 0) for d in kept]
    counts = np.maximum(sum(a != 0 for a in agree), 1)
    found = ties(base, [math, language], [1.0, 1.0], density=0.2)[name]
    assert np.allclose(found, start + sum(agree) / counts, atol=1e-6)


def test_update_magnitudes(family):
    base, math, _ = family
    table = update_magnitude(base, math).set_index("tensor")
    assert set(table.index) == set(dense(base))
    name = "model.layers.2.mlp.down_proj.weight"
    moved = (dense(math)[name] - dense(base)[name]).abs().mean().item()
    row = table.loc[name]
    assert (row.layer, row.module) == (2, "mlp.down_proj")
    assert row.absolute == pytest.approx(moved)
    assert row.relative == pytest.approx(moved / dense(base)[name].abs().mean().item())
    sums = {n: (dense(math)[n] - t).abs().sum().item() for n, t in dense(base).items()}
    assert row.share == pytest.approx(sums[name] / sum(sums.values()))
    assert table.share.sum() == pytest.approx(1)
    assert table.layer.isna().sum() == (2 if base.config.tie_word_embeddings else 3)
    whole = (table.absolute * table.n).sum() / table.n.sum()
    assert mean_update(base, math) == pytest.approx(whole)
    nothing = update_magnitude(base, base)
    assert not nothing[["absolute", "relative", "share"]].any(axis=None)
