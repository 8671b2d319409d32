"""What a model has in mind at the end of a question, and whether languages meet there.

A map of such states (t-SNE) can be drawn of anything; retrieval of the parallel question and the
accuracy of a language classifier are numbers that it cannot fake.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mmlib.forward import batches, last_tokens, on_device
from mmlib.neurons import overlap_with_english, ranges
from mmlib.study.firing import question_firing

States = Mapping[str, np.ndarray]
"""Language -> states of the same questions in the same order, (questions, width)."""


@torch.no_grad()
def final_states(
    model: nn.Module, batches: Iterable[Mapping[str, torch.Tensor]], layers: Sequence[int]
) -> dict[int, np.ndarray]:
    """Hidden states of the last token after some decoder layers, counted from 0.

    The batches are padded on either side, in the order of the questions. The states of the last
    layer are behind the final norm, where transformers puts it.

    Returns:
        Layer -> float32 (questions, width).

    Raises:
        ValueError: A layer that does not exist.
    """
    depth = model.config.get_text_config().num_hidden_layers
    if wrong := [layer for layer in layers if not 0 <= layer < depth]:
        raise ValueError(f"layers {wrong}: the model has 0 to {depth - 1}")
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    for batch in batches:
        inputs = on_device(batch, model)
        states = model.base_model(**inputs, output_hidden_states=True).hidden_states
        end = last_tokens(inputs["attention_mask"])
        rows = torch.arange(len(end), device=end.device)
        for layer in layers:
            found[layer].append(states[layer + 1][rows, end].float().cpu().numpy())
    return {layer: np.concatenate(parts) for layer, parts in found.items()}


def spaced_layers(depth: int) -> list[int]:
    """First, a third, two thirds, last: the layers that SLAM looks at."""
    return sorted({0, depth // 3, 2 * depth // 3, depth - 1})


def retrieval(states: States, *, english: str = "en") -> pd.Series:
    """Share of questions whose nearest English question is their own translation (retrieval@1).

    Nearest by cosine, after the mean of each language is taken away; chance is 1 / questions.

    Raises:
        ValueError: No English, or languages with different numbers of questions.
    """
    _check(states, english)
    unit = {}
    for language, own in states.items():
        rows = own - own.mean(0)
        unit[language] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    right = np.arange(len(unit[english]))
    return pd.Series(
        {
            language: float(((own @ unit[english].T).argmax(1) == right).mean())
            for language, own in unit.items()
            if language != english
        }
    )


def language_accuracy(states: States) -> float:
    """How well a linear classifier tells the language of a state, on questions it has not seen.

    Logistic regression on standardised states, cross-validated by question (five parts), so that no
    translation of a test question is in training; chance is 1 / languages.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    number = _check(states)
    labels = np.repeat(list(states), number)
    questions = np.tile(np.arange(number), len(states))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    split = GroupKFold(5, shuffle=True, random_state=0)
    data = np.concatenate(list(states.values()))
    return float(cross_val_score(classifier, data, labels, groups=questions, cv=split).mean())


def tsne(states: States, *, seed: int) -> pd.DataFrame:
    """A map in two dimensions: lang, question, x, y. Another seed draws another map.

    The perplexity is 30, smaller where there are less than three times as many states.
    """
    from sklearn.manifold import TSNE

    number = _check(states)
    data = np.concatenate(list(states.values()))
    perplexity = min(30.0, (len(data) - 1) / 3)
    points = TSNE(random_state=seed, perplexity=perplexity, init="pca").fit_transform(data)
    table = pd.DataFrame(points, columns=["x", "y"])
    table.insert(0, "lang", np.repeat(list(states), number))
    table.insert(1, "question", np.tile(np.arange(number), len(states)))
    return table


def views(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Mapping[str, Sequence[str]],
    *,
    maps: Sequence[int] = (),
    batch_size: int = 32,
) -> dict[str, pd.DataFrame]:
    """How a (gated) model sees the same questions in several languages, English first.

    `maps` are seeds of maps by t-SNE.

    Returns:
        "firing": lang, layer, rate and overlap (with English; missing for English); "states": lang,
        layer, depth, retrieval, language_accuracy (of the layer), at `spaced_layers`; "maps": lang,
        question, x, y, layer, map_seed.
    """
    english = next(iter(questions))
    counts = question_firing(model, tokenizer, questions, batch_size=batch_size)
    rates = {code: firing.rates() for code, firing in counts.items()}
    both = {"rate": ranges(rates), "overlap": overlap_with_english(rates, english=english)}
    firing = pd.concat({name: t.stack() for name, t in both.items()}, axis=1).reset_index()
    depth = model.config.get_text_config().num_hidden_layers
    layers = spaced_layers(depth)
    after = {
        code: final_states(
            model, batches(tokenizer, texts, batch_size=batch_size, sort=False), layers
        )
        for code, texts in questions.items()
    }
    states, drawn = [], []
    for layer in layers:
        at = {code: of[layer] for code, of in after.items()}
        near = retrieval(at, english=english).rename("retrieval").rename_axis("lang")
        told = {"layer": layer, "depth": depth, "language_accuracy": language_accuracy(at)}
        states.append(near.reset_index().assign(**told))
        drawn += [tsne(at, seed=seed).assign(layer=layer, map_seed=seed) for seed in maps]
    columns = ["lang", "question", "x", "y", "layer", "map_seed"]
    return {
        "firing": firing,
        "states": pd.concat(states, ignore_index=True),
        "maps": pd.concat(drawn, ignore_index=True) if drawn else pd.DataFrame(columns=columns),
    }


def _check(states: States, *needed: str) -> int:
    numbers = {language: len(own) for language, own in states.items()}
    if len(set(numbers.values())) != 1 or not set(needed) <= set(numbers):
        raise ValueError(
            f"needs {list(needed)} and equal numbers of questions, there are {numbers}"
        )
    return next(iter(numbers.values()))
