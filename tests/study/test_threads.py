"""One seed and version give the same sets and tables, whatever the number of threads."""

import pytest
import torch

from mmlib.importance import math_specific
from mmlib.masks import jaccard
from mmlib.models import load_model
from mmlib.study import localisation, norms
from mmlib.study.localisation import score_samples, set_tables
from mmlib.study.settings import Sampling

TASKS = ["organism-math", "organism-reading"]
ROUNDING = 1e-5
"""Largest difference of norms, as a share: threads add in another order."""


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A function from a number of threads to scores, computed anew."""
    model, tokenizer = load_model("organism-even", dtype="float32")
    samples = Sampling(*TASKS, ["en", "hi"], [1], num_samples=6).draw()
    monkeypatch.setattr(norms, "SHIPPED", tmp_path / "none")
    monkeypatch.setattr(localisation, "_AUDITED", set())
    before = torch.get_num_threads()

    def compute(threads, name):
        monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / name))
        torch.set_num_threads(threads)
        return score_samples(model, tokenizer, samples)

    yield compute
    torch.set_num_threads(before)


def pairs(scores):
    """The scores on math and on other text, by language and seed."""
    return [
        (math, next(s for k, s in scores.items() if k == key._replace(task=TASKS[1])))
        for key, math in scores.items()
        if key.task == TASKS[0]
    ]


def test_the_same_threads_give_the_same_tables(made):
    one, again = made(1, "one"), made(1, "again")
    for first, second in zip(
        set_tables(one, *TASKS, [0.01, 0.1]), set_tables(again, *TASKS, [0.01, 0.1]), strict=True
    ):
        assert first.equals(second)


def test_two_threads_give_the_same_sets_up_to_rounding(made):
    one, two = made(1, "one"), made(2, "two")
    for key in one:
        for name in one[key].weights:
            torch.testing.assert_close(
                two[key].norms[name], one[key].norms[name], rtol=ROUNDING, atol=0
            )
    for first, second in zip(pairs(one), pairs(two), strict=True):
        sets = [math_specific(*pair, 0.1) for pair in (first, second)]
        assert jaccard(*sets) > 0.999
