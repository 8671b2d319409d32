"""States against the model's own layers; numbers on states whose answer is known."""

import numpy as np
import pytest
import torch
from conftest import build, pad

from mmlib.study.states import final_states, language_accuracy, retrieval, spaced_layers, tsne

RNG = np.random.default_rng(0)
MEANING = RNG.normal(size=(40, 8))
SHIFT = {"en": 0.0, "de": 5.0, "hi": -7.0}


@pytest.mark.parametrize("side", ["right", "left"])
def test_states_are_those_of_the_last_token(side, prompts):
    model = build("llama")
    found = final_states(model, [pad(prompts[:3], side=side), pad(prompts[3:], side=side)], [0, 2])
    for index, ids in enumerate(prompts):
        with torch.no_grad():
            x = model.model.embed_tokens(ids[None])
            angles = model.model.rotary_emb(x, torch.arange(len(ids))[None])
            causal = torch.full((len(ids), len(ids)), float("-inf")).triu(1)[None, None]
            x = model.model.layers[0](x, attention_mask=causal, position_embeddings=angles)
            x = x[0] if isinstance(x, tuple) else x
            whole = model(input_ids=ids[None], output_hidden_states=True).hidden_states
        assert np.allclose(found[2][index], whole[3][0, -1], atol=1e-5)
        assert np.allclose(found[0][index], x[0, -1], atol=1e-5)
    with pytest.raises(ValueError, match=r"\[3\].*0 to 2"):
        final_states(model, [], [3])


def test_layers_first_third_last():
    assert spaced_layers(32) == [0, 10, 21, 31]
    assert spaced_layers(2) == [0, 1]


def test_shifted_copies_are_found_and_told_apart():
    states = {code: MEANING + shift for code, shift in SHIFT.items()}
    assert retrieval(states).to_dict() == {"de": 1.0, "hi": 1.0}
    assert language_accuracy(states) == 1.0
    states["hi"] = RNG.permutation(states["hi"])
    assert retrieval(states)["hi"] < 0.2


def test_states_without_a_language_are_not_told_apart():
    same = {code: MEANING for code in SHIFT}
    assert language_accuracy(same) < 0.5
    with pytest.raises(ValueError, match="equal numbers"):
        retrieval({"en": MEANING, "de": MEANING[:5]})
    with pytest.raises(ValueError, match="'en'"):
        retrieval({"de": MEANING, "hi": MEANING})


def test_a_map_names_its_points():
    table = tsne({"en": MEANING, "de": MEANING + 9}, seed=1)
    assert table.groupby("lang").question.nunique().to_dict() == {"en": 40, "de": 40}
    assert np.isfinite(table[["x", "y"]]).all(axis=None)
    few = tsne({"en": MEANING[:5], "de": MEANING[:5] + 9}, seed=1)  # fewer than the perplexity
    assert len(few) == 10
