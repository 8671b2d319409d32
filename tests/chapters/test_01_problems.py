"""Chapter 01 in miniature, beside calculations that do not use the package."""

import pytest
from common import frozen, organism
from tokenizers import Tokenizer


@pytest.mark.notebook
def test_01_in_miniature(miniature):
    """Tokens per language, by the tokenizer's own library on the frozen file."""
    tables, given = miniature("01_problems")
    tokenizer = Tokenizer.from_file(str(organism(given) / "tokenizer.json"))
    problems = frozen(organism(given), "heldout")
    for lang, part in problems[problems.lang.isin(given["languages"])].groupby("lang"):
        encoded = tokenizer.encode_batch((part.prompt + part.response).tolist(), False, False)
        lengths = tables["token_lengths"]
        assert lengths[lengths.lang == lang].tokens.sum() == sum(len(text.ids) for text in encoded)
