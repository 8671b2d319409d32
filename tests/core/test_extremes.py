"""Numbers at the ends of their types, and none at all: selected exactly, or refused by name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlib.files import load_tensors, save_tensors
from mmlib.importance import ActivationNorms, ImportanceScores
from mmlib.masks import ParameterMask, jaccard

DTYPES = {torch.float32: 32, torch.float16: 16}
NO_NUMBERS = [math.nan, math.inf, -math.inf]


def sets_of(bits):
    """A set over two matrices, from a list of booleans."""
    cut = len(bits) // 3
    parts = {"a": bits[:cut], "b": bits[cut:]}
    return ParameterMask({n: torch.tensor(p, dtype=torch.bool) for n, p in parts.items()})


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1))
def test_the_algebra_of_sets_holds_for_any_three(bits):
    a, b, c = map(sets_of, zip(*bits, strict=True))
    assert ~(a | b) == ~a & ~b
    assert a & (b | c) == (a & b) | (a & c)
    assert (a - b) | (a & b) == a
    assert (a - b) & b == a - a
    assert len(a | b) == len(a) + len(b) - len(a & b)
    assert len(a) + len(~a) == a.n_scored == len(bits)
    assert jaccard(a, b) == jaccard(b, a) or not len(a | b)
    assert jaccard(a, a) == 1 or not len(a)


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 9), max_size=3), min_size=1, max_size=4), st.integers())
def test_a_packed_set_of_any_shape_is_the_same_set(tmp_path_factory, shapes, seed):
    generator = torch.Generator().manual_seed(seed % 2**63)
    tensors = {str(n): torch.rand(s, generator=generator) < 0.5 for n, s in enumerate(shapes)}
    path = tmp_path_factory.mktemp("mask") / "mask.safetensors"
    ParameterMask(tensors).save(path)
    read = ParameterMask.load(path)
    assert read == ParameterMask(tensors)
    assert [mask.shape for mask in read.tensors.values()] == [m.shape for m in tensors.values()]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3)])
def test_arrays_of_any_shape_and_order_survive_with_their_checksum(tmp_path, shape):
    path, array = tmp_path / "arrays.safetensors", np.ones(shape, np.float32)
    save_tensors(path, {"a": array, "b": np.arange(6).reshape(2, 3).T}, {"step": "5"})
    arrays, metadata = load_tensors(path)
    assert arrays["a"].shape == shape
    assert arrays["b"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert metadata == {"step": "5"}


def floats(width):
    """Finite numbers of a type, with its largest, its smallest and both zeros."""
    largest, least = (65504.0, 2.0**-24) if width == 16 else (float(2**127), 2.0**-149)
    return st.one_of(
        st.floats(width=width, allow_nan=False, allow_infinity=False),
        st.sampled_from([0.0, -0.0, largest, -largest, least, -least]),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=60)
@given(data=st.data())
def test_selection_is_exact_at_the_ends_of_a_type(dtype, data):
    values = data.draw(st.lists(floats(DTYPES[dtype]), min_size=4, max_size=40))
    size = data.draw(st.integers(1, len(values)))
    weights = {"w": torch.tensor([values], dtype=dtype)}
    norms = ActivationNorms({"w": torch.ones(len(values))}, {"w": "w"}, 1)
    (mask,) = ImportanceScores(weights, norms).top_of("w", [(size + 0.5) / len(values)])
    exact = weights["w"][0].double().abs().tolist()
    ranked = sorted(range(len(values)), key=lambda place: (-exact[place], place))
    assert set(mask[0].nonzero().flatten().tolist()) == set(ranked[:size])


@pytest.mark.parametrize("wrong", NO_NUMBERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=10)
@given(place=st.integers(0, 11), in_norms=st.booleans())
def test_no_number_is_ever_selected(dtype, wrong, place, in_norms):
    weights = {"h.0.mlp": torch.ones(3, 4, dtype=dtype)}
    norms = ActivationNorms({"h.0.mlp": torch.ones(4)}, {"h.0.mlp": "h.0.mlp"}, 1)
    target = norms["h.0.mlp"] if in_norms else weights["h.0.mlp"].view(-1)
    target[place % len(target)] = wrong
    with pytest.raises(ValueError, match=r"the scores of h\.0\.mlp are not finite"):
        ImportanceScores(weights, norms).top(0.5)


def test_a_product_beyond_the_type_is_refused():
    weights = {"w": torch.full((1, 2), 3e38, dtype=torch.bfloat16)}
    norms = ActivationNorms({"w": torch.tensor([1.0, 10.0])}, {"w": "w"}, 1)
    with pytest.raises(ValueError, match="the scores of w are not finite"):
        ImportanceScores(weights, norms).top(0.5)
