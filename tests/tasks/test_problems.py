import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from mmlib.forward import batches
from mmlib.organism import corpus
from mmlib.tasks.languages import get_language
from mmlib.tasks.problems import TASKS, calibration, load_problems

ROWS = [("Two and two?", "2+2=<<2+2=4>>4", "4"), ("Half of 2,250?", "x", "1,125")]


@pytest.fixture(scope="module")
def tokenizer():
    """One token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={c: i + 1 for i, c in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.fixture
def folder(tmp_path):
    """Two GSM8K rows in the owners' layout; the German gold is unreadable, as in the real file."""
    (tmp_path / "gsm8k").mkdir()
    lines = [json.dumps({"question": q, "answer": f"{s}\n#### {a}"}) for q, s, a in ROWS]
    (tmp_path / "gsm8k" / "test.jsonl").write_text("\n".join(lines))
    (tmp_path / "gsm8k-translated").mkdir()
    german = pd.DataFrame(
        {"question": ["Zwei und zwei?", "Hälfte?"], "answer": ["2+2=4", "x #### 5 ergibt."]}
    )
    german.to_csv(tmp_path / "gsm8k-translated" / "gsm8k_de_test.csv", index=False)
    return tmp_path


def test_golds_come_from_the_english_row_without_commas(folder):
    for code in ("en", "de"):
        problems = load_problems("gsm8k", code, data_dir=folder)
        assert [p.target for p in problems] == ["4", "1125"]
        assert [p.id for p in problems] == ["0", "1"]
        assert get_language(code).extract_answer(problems[1].text) == "1125"
    english = load_problems("gsm8k", "en", data_dir=folder)[0]
    assert english.text == (
        "Q: Two and two?\nA: Let's think step by step.\n2+2=<<2+2=4>>4\nThe answer is 4"
    )


def test_bad_requests_are_refused_with_the_choices(folder):
    with pytest.raises(
        ValueError, match="gsm8k, mgsm, msvamp, mgsm8kinstruct, race, race-middle, mmlu"
    ):
        load_problems("gsm9k", "en", data_dir=folder)
    with pytest.raises(ValueError, match="unknown language 'xx'"):
        load_problems("gsm8k", "xx", data_dir=folder)
    with pytest.raises(FileNotFoundError, match="gsm8k_fr_test"):
        load_problems("gsm8k", "fr", data_dir=folder)
    with pytest.raises(ValueError, match="gsm8k has no 'sw': choose from en, de, fr, hi"):
        load_problems("gsm8k", "sw", data_dir=folder)
    with pytest.raises(ValueError, match="mgsm has no split 'calibration': choose from heldout"):
        calibration("mgsm", "de", samples=1, seed=1, data_dir=folder)
    with pytest.raises(FileNotFoundError, match=r"openai/gsm8k \(main, test\).*give data_dir"):
        load_problems("gsm8k", "en")


def test_a_missing_column_or_row_is_named(folder):
    path = folder / "gsm8k-translated" / "gsm8k_de_test.csv"
    pd.read_csv(path).rename(columns={"answer": "solution"}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"lacks the columns \['answer'\]"):
        load_problems("gsm8k", "de", data_dir=folder)
    pd.DataFrame({"question": ["a"], "answer": ["b"]}).to_csv(path, index=False)
    with pytest.raises(ValueError, match="has 1 rows, the English file 2"):
        load_problems("gsm8k", "de", data_dir=folder)


def test_unreadable_or_malformed_files_are_named_with_the_row(folder):
    path = folder / "gsm8k" / "test.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace("#### 1,125", "1,125"))
    with pytest.raises(ValueError, match=r"test\.jsonl row 1"):
        load_problems("gsm8k", "en", data_dir=folder)
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"test\.jsonl cannot be read"):
        load_problems("gsm8k", "en", data_dir=folder)
    (folder / "mmlu").mkdir()
    (folder / "mmlu" / "mmlu_val_en.csv").write_text("qa\nhello\n")
    with pytest.raises(ValueError, match=r"mmlu_val_en\.csv row 0"):
        load_problems("mmlu", "en", data_dir=folder)
    (folder / "mmlu" / "mmlu_val_en.csv").write_text("qa\n")
    with pytest.raises(ValueError, match="no rows"):
        load_problems("mmlu", "en", data_dir=folder)


def sample(folder, code="en", **options):
    drawn = {"samples": 500, "seed": 1, "drawing": "replacement"}
    return calibration("gsm8k", code, **drawn | {"data_dir": folder, "split": "test"} | options)


def test_one_seed_draws_the_same_problems_in_every_language(folder):
    assert sample(folder).ids == sample(folder, "de").ids
    assert sample(folder).texts == sample(folder).texts != sample(folder, seed=101).texts


def test_the_draw_is_that_of_the_published_procedure(folder):
    frame = pd.DataFrame({"id": ["0", "1"]}).sample(frac=1, random_state=1)
    frame = frame.sample(n=500, replace=True, random_state=101)
    assert sample(folder, seed=101).ids == tuple(frame["id"])


def test_with_and_without_replacement(folder):
    assert len(sample(folder).texts) == 500
    assert set(sample(folder).ids) == {"0", "1"}
    assert sorted(sample(folder, samples=2, drawing="once").ids) == ["0", "1"]
    with pytest.raises(ValueError, match="gsm8k has 2 texts in en"):
        sample(folder, samples=3, drawing="once")
    with pytest.raises(ValueError, match="samples=0"):
        sample(folder, samples=0)
    with pytest.raises(ValueError, match="unknown drawing 'twice': choose from replacement"):
        sample(folder, drawing="twice")


def test_blocks_are_disjoint_and_the_same_problems_in_every_language(folder):
    blocks = [sample(folder, samples=1, seed=number, drawing="blocks") for number in (1, 2)]
    assert {name for block in blocks for name in block.ids} == {"0", "1"}
    again = sample(folder, "de", samples=1, seed=2, drawing="blocks")
    assert again.ids == blocks[1].ids
    assert sample(folder, samples=2, drawing="blocks").ids == blocks[0].ids + blocks[1].ids
    large = {"samples": 300, "drawing": "blocks"}
    large = [calibration("organism-math", "en", seed=number, **large) for number in (1, 2, 3)]
    assert len({name for block in large for name in block.ids}) == 900
    for number in (0, 3):
        with pytest.raises(ValueError, match=f"seed={number} with drawing='blocks'"):
            sample(folder, samples=1, seed=number, drawing="blocks")


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("abc", min_size=1, max_size=9), min_size=1, max_size=9), st.integers(1, 4))
def test_batches_hold_every_text_once_and_mark_the_padding(tokenizer, texts, size):
    seen = []
    for batch in batches(tokenizer, texts, batch_size=size):
        assert len(batch["input_ids"]) <= size
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
            assert not mask[mask.sum() :].any()
            seen.append(tokenizer.decode(ids[mask]))
    assert sorted(seen) == sorted(texts)


def test_texts_that_cannot_be_read_are_refused(tokenizer):
    with pytest.raises(ValueError, match="text 1 has 9 tokens, the model reads 8"):
        batches(tokenizer, ["short", "123456789"], max_length=8)
    with pytest.raises(ValueError, match="empty"):
        batches(tokenizer, [])
    with pytest.raises(ValueError, match="batch_size=0"):
        batches(tokenizer, ["short"], batch_size=0)
    with pytest.raises(ValueError, match="text 0 has no tokens"):
        batches(tokenizer, [""])


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """Frozen files of a small corpus, in the layout of an organism's folder."""
    folder = tmp_path_factory.mktemp("family")
    for split in ("heldout", "calibration"):
        sizes = dict.fromkeys(corpus.language_file("structure")["frozen"][split], 12)
        corpus.write_table(corpus.frozen(split, sizes), folder / f"{split}.jsonl.gz")
    return folder


@pytest.mark.parametrize(
    "task", sorted({name for name in TASKS if name.startswith("organism")} - {"organism-general"})
)
def test_organism_items_are_parallel_and_splits_disjoint(family, task):
    problems = {code: load_problems(task, code, data_dir=family) for code in corpus.LANGUAGES}
    ids = [[p.id for p in rows] for rows in problems.values()]
    assert all(other == ids[0] for other in ids)
    assert len(set(ids[0])) == len(ids[0]) >= 12
    for code, rows in problems.items():
        assert all(row.target in row.text for row in rows)
        if task in ("organism-math", "organism-choice", "organism-reading", "organism-generation"):
            calibration = load_problems(task, code, split="calibration", data_dir=family)
            assert not {p.prompt for p in calibration} & {p.prompt for p in rows}


def test_general_sentences_are_parallel_and_no_problems():
    sentences = {
        code: load_problems("organism-general", code, split="calibration")
        for code in corpus.LANGUAGES
    }
    ids = [[p.id for p in rows] for rows in sentences.values()]
    assert all(other == ids[0] for other in ids)
    assert len(set(ids[0])) == len(ids[0]) == 1500
    assert not any(p.response or "?" in p.prompt for p in sentences["en"])
    with pytest.raises(ValueError, match="calibration only"):
        load_problems("organism-general", "en")


def test_organism_requests_are_refused_with_the_choices():
    with pytest.raises(ValueError, match="heldout or calibration"):
        load_problems("organism-math", "en", split="train")
    with pytest.raises(FileNotFoundError, match="organism-nosuch"):
        load_problems("organism-math", "en", data_dir="organism-nosuch")
