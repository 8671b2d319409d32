"""Edits are the arithmetic that they claim, and leaving the block restores every bit."""

import copy

import accelerate
import pytest
import torch
from conftest import build, spread
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.edits import pruned, scaled
from mmlib.masks import ParameterMask
from mmlib.models import linear_modules


def random_set(model, *, density=0.1, seed=1, include_head=False):
    generator = torch.Generator().manual_seed(seed)
    modules = linear_modules(model, include_head=include_head)
    return ParameterMask(
        {n: torch.rand(m.weight.shape, generator=generator) < density for n, m in modules.items()}
    )


def bits(model):
    """Every parameter's bytes, so that NaN and -0.0 count as what they are."""
    return {n: p.detach().clone().view(torch.uint8) for n, p in model.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_pruned_is_zero_inside_the_set_and_untouched_outside(model):
    mask, before = random_set(model), copy.deepcopy(model)
    with pruned(model, mask) as count:
        assert count == len(mask)
        for name, module in linear_modules(model).items():
            old = before.get_submodule(name).weight
            assert torch.equal(module.weight, torch.where(mask[name], 0.0, old))
        others = {
            n: p
            for n, p in model.named_parameters()
            if n.removesuffix(".weight") not in mask.tensors
        }
        assert all(torch.equal(p, before.get_parameter(n)) for n, p in others.items())
    assert same(bits(model), bits(before))


def test_a_model_spread_by_device_map_is_edited_as_a_whole_one(llama):
    mask, whole = random_set(llama), copy.deepcopy(llama)
    spread(llama, ["cpu", "cpu"])
    before = bits(llama)
    edits = {"factor": 1.1, "fraction": 0.5, "seed": 2}
    with scaled(llama, mask, **edits) as count, scaled(whole, mask, **edits) as expected:
        assert count == expected
        assert same(bits(llama), bits(whole))
    assert same(bits(llama), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("factor", [1.01, 1.1, -2.0, 1.0])
def test_scaled_multiplies_in_the_dtype_of_the_weights(llama, dtype, factor):
    llama.to(dtype)
    mask, before = random_set(llama), copy.deepcopy(llama)
    with scaled(llama, mask, factor=factor):
        for name, module in linear_modules(llama).items():
            old = before.get_submodule(name).weight
            assert torch.equal(module.weight, torch.where(mask[name], old * factor, old))
    assert same(bits(llama), bits(before))


def test_an_exception_restores_too(llama):
    before = bits(llama)
    with pytest.raises(KeyError), scaled(llama, random_set(llama), factor=3.0):
        raise KeyError("inside")
    assert same(bits(llama), before)


def test_a_model_that_is_converted_inside_the_block_is_restored(llama):
    expected = bits(copy.deepcopy(llama).double())
    with pruned(llama, random_set(llama)):
        llama.double()
    assert same(bits(llama), expected)


def test_special_values_come_back_with_their_bits(llama):
    module = next(iter(linear_modules(llama).values()))
    special = torch.tensor([float("nan"), -0.0, float("inf"), 1e-45])
    module.weight.data[0, :4] = special
    before, mask = bits(llama), random_set(llama, density=1.0)
    with pruned(llama, mask):
        assert module.weight.eq(0).all()
    assert same(bits(llama), before)


def test_blocks_nest_and_undo_in_reverse(llama):
    one, other, before = random_set(llama, seed=1), random_set(llama, seed=2), bits(llama)
    with scaled(llama, one, factor=2.0):
        between = bits(llama)
        with pruned(llama, other):
            assert not same(bits(llama), between)
        assert same(bits(llama), between)
    assert same(bits(llama), before)


def test_several_sets_are_one_union(llama):
    one, other = random_set(llama, seed=1), random_set(llama, seed=2)
    with scaled(llama, one, other, factor=2.0) as count:
        several = bits(llama)
    with scaled(llama, one | other, factor=2.0) as expected:
        assert same(several, bits(llama))
    assert count == expected == len(one | other)


def test_an_untied_head_can_be_in_the_set_and_a_tied_one_changes_the_embeddings():
    untied = build("qwen3")
    mask, before = random_set(untied, include_head=True), bits(untied)
    assert "lm_head" in mask.tensors
    with pruned(untied, mask):
        assert untied.lm_head.weight[mask["lm_head"]].eq(0).all()
    assert same(bits(untied), before)
    tied = build("llama")
    mask = ParameterMask({"lm_head": torch.rand(tied.lm_head.weight.shape) < 0.5})
    before = bits(tied)
    with pruned(tied, mask):
        assert tied.get_input_embeddings().weight[mask["lm_head"]].eq(0).all()
    assert same(bits(tied), before)


@given(st.floats(0, 1), st.integers(0, 10))
@settings(max_examples=20, deadline=None)
def test_fractions_have_their_size_and_nest(fraction, seed):
    model = build("llama")
    mask, before = random_set(model), copy.deepcopy(model)
    changed = []
    for share in (fraction / 2, fraction):
        with scaled(model, mask, factor=3.0, fraction=share, seed=seed) as count:
            assert count == round(share * len(mask))
            now = {
                n: m.weight != before.get_submodule(n).weight
                for n, m in linear_modules(model).items()
            }
        changed.append(ParameterMask(now))
        assert len(changed[-1]) == count
        assert len(changed[-1] - mask) == 0
    assert len(changed[0] - changed[1]) == 0


def test_fractions_follow_their_seed_and_spread_over_the_whole_set(llama):
    mask = random_set(llama, density=0.5)
    found = []
    for seed in (1, 1, 2):
        with scaled(llama, mask, factor=0.0, fraction=0.5, seed=seed):
            found.append(bits(llama))
            shares = [
                float(m.weight[mask[n]].eq(0).float().mean())
                for n, m in linear_modules(llama).items()
            ]
        assert shares == pytest.approx([0.5] * len(shares), abs=0.12)
    assert same(found[0], found[1])
    assert not same(found[0], found[2])


def test_an_edit_changes_what_the_model_says_and_leaving_gives_it_back(llama):
    ids = torch.arange(1, 9)[None]
    with torch.no_grad():
        before = llama(ids).logits
        with pruned(llama, random_set(llama, density=0.5)):
            inside = llama(ids).logits
        assert not torch.equal(inside, before)
        assert torch.equal(llama(ids).logits, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": float("nan")}, "factor is nan"),
        ({"factor": 2.0, "fraction": 1.5, "seed": 1}, "fraction is 1.5"),
        ({"factor": 2.0, "fraction": 0.5}, "give the seed"),
    ],
)
def test_wrong_numbers_are_named(llama, options, message):
    with pytest.raises(ValueError, match=message), scaled(llama, random_set(llama), **options):
        pass


def test_foreign_masks_change_nothing(llama):
    mask, before = random_set(llama), bits(llama)
    name = next(iter(mask.keys()))
    shape = ParameterMask(mask.tensors | {name: mask[name][:, 1:]})
    unknown = ParameterMask(mask.tensors | {"model.layers.9.mlp.up_proj": mask[name]})
    for wrong, message in ((shape, "the model has shape"), (unknown, "no such module")):
        with pytest.raises(ValueError, match=message), pruned(llama, mask, wrong):
            pass
    with pytest.raises(ValueError, match="at least one mask"), pruned(llama):
        pass
    assert same(bits(llama), before)


def test_offloaded_and_quantised_weights_are_refused(llama):
    mask = random_set(llama)
    offloaded = accelerate.cpu_offload(build("llama"), execution_device="cpu")
    with pytest.raises(ValueError, match=r"offloaded.*cannot be changed"), pruned(offloaded, mask):
        pass
    name, module = list(linear_modules(llama).items())[-1]
    module.weight = torch.nn.Parameter(module.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(ValueError, match=rf"{name} is quantised"), pruned(llama, mask):
        pass


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_edits_on_a_gpu_are_those_on_the_cpu(llama):
    mask, gpu = random_set(llama), copy.deepcopy(llama).cuda()
    before = bits(gpu)
    with (
        scaled(llama, mask, factor=1.1, fraction=0.3, seed=5),
        scaled(gpu, mask, factor=1.1, fraction=0.3, seed=5),
    ):
        assert same(bits(llama), bits(copy.deepcopy(gpu).cpu()))
    assert same(bits(gpu), before)


def test_one_tied_weight_cannot_be_in_the_set_twice(llama):
    shape = llama.lm_head.weight.shape
    names = ("lm_head", "model.embed_tokens")
    masks = [ParameterMask({name: torch.ones(shape, dtype=torch.bool)}) for name in names]
    with pytest.raises(ValueError, match="one tied weight"), scaled(llama, *masks, factor=2.0):
        pass
