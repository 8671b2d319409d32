"""What the problems look like in every language, and what a tokenizer makes of them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from mmlib.models import resolve
from mmlib.tasks.problems import load_problems


class Texts(NamedTuple):
    """What `rows` finds."""

    problems: pd.DataFrame
    """One row per problem and language: the fields of `mmlib.tasks.problems.Problem`."""
    lengths: pd.DataFrame
    """Their lengths, prompt and response together: task, id, lang, tokens, words."""
    coverage: pd.DataFrame
    """By language: share of the running words that are one token, characters per token, and share
    of the tokens that are a part of a character."""

    def shown(self, task: str, positions: list[int]) -> pd.DataFrame:
        """Problems of a task by their positions, in every language: language, prompt, response."""
        ids = self.problems[self.problems.task == task].id.unique()[positions]
        return self.problems[self.problems.id.isin(ids)][["language", "prompt", "response"]]


def rows(given: Mapping[str, Any]) -> Texts:
    """Load the problems and tokenize them."""
    folder = given["data_dir"] or None
    pairs = [(task, code) for task in given["tasks"] for code in given["languages"]]
    problems = pd.DataFrame(
        [item for pair in pairs for item in load_problems(*pair, data_dir=folder)]
    )
    tokenizer = AutoTokenizer.from_pretrained(resolve(given["model"]), trust_remote_code=False)
    texts = (problems.prompt + problems.response).tolist()
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    lengths = problems[["task", "id"]].assign(lang=problems.language, tokens=list(map(len, ids)))
    words = [text.split() for text in texts]
    lengths["words"] = list(map(len, words))
    running = problems[["language"]].assign(word=words).explode("word")
    return Texts(problems, lengths.reset_index(drop=True), _coverage(running, tokenizer))


def _coverage(words: pd.DataFrame, tokenizer: PreTrainedTokenizerBase) -> pd.DataFrame:
    """See `Texts.coverage`; `words` has one row per running word: language, word."""
    pieces = {
        word: tokenizer.encode(f" {word}", add_special_tokens=False) for word in {*words.word}
    }
    tokens = words.assign(token=words.word.map(pieces)).explode("token")
    # An unseen letter is written byte by byte, and none of its bytes can be decoded alone.
    broken = tokens.token.map({t: "\ufffd" in tokenizer.decode([t]) for t in {*tokens.token}})
    whole = words.word.map(lambda word: len(pieces[word]) == 1)
    characters = words.word.str.len().groupby(words.language).sum()
    table = whole.groupby(words.language, sort=False).mean().to_frame("one-token words")
    table["characters per token"] = characters / tokens.groupby("language").size()
    table["partial characters"] = broken.groupby(tokens.language).mean()
    return table
