"""Pairs against texts written by hand, and filters against what they are to find."""

import json
from collections import Counter

import pandas as pd
import pytest

from mmlib.study.pairs import (
    COLUMNS,
    REASONS,
    bare_question,
    doubts,
    draw_pairs,
    load_pairs,
    split_pairs,
)

GOOD = ("Lena hat 3 Äpfel und kauft 4 dazu.", "Lena has 3 apples and buys 4 more.")


def table(rows, lang="de"):
    return pd.DataFrame(
        [(str(n), lang, "question", text, english) for n, (text, english) in enumerate(rows)],
        columns=COLUMNS,
    )


def test_pairs_of_an_organism_are_parallel():
    pairs = load_pairs("organism", ["en", "de", "hi"], kinds=["math"], data_dir="organism-base")
    assert set(pairs.lang) == {"de", "hi"}
    assert set(pairs.kind) == {"math"}
    by_id = pairs.groupby("id").english.nunique()
    assert (by_id == 1).all()
    assert len(pairs) == 2 * len(by_id)
    assert not doubts(pairs).isin(set(REASONS) - {"duplicate"}).any()


def test_sources_can_be_joined():
    names = ("organism", "organism-knowledge")
    how = {"data_dir": "organism-base", "split": "heldout"}
    parts = [load_pairs(name, ["en", "hi"], **how) for name in names]
    both = load_pairs("+".join(names), ["en", "hi"], **how)
    assert both.equals(pd.concat(parts, ignore_index=True))
    with pytest.raises(ValueError, match="unknown source 'organisms'"):
        load_pairs("organism+organisms", ["en", "hi"], **how)


def test_questions_of_a_task_lose_their_labels():
    pairs = load_pairs("organism-knowledge", ["de"], data_dir="organism-base", split="heldout")
    row = pairs.set_index("id").loc["knowledge-heldout-0001"]
    assert row.text == "Die Stadt Radami hat ein Tier: Welches ist es?"
    assert row.english == "The town of Radami has an animal: which one?"
    assert bare_question("Exercice : Combien ?\nRéponse :") == "Combien ?"
    assert bare_question("How many: two?\nAnswer:") == "How many: two?"


def test_questions_and_answers_of_a_benchmark(tmp_path):
    rows = [
        ("English", "Ann has 3 apples. How many?", "She has 3 apples. #### 3"),
        ("German", "Anna hat 3 Äpfel. Wie viele?", "Sie hat 3 Äpfel. #### 3"),
    ]
    lines = [
        {
            "prompt": f"Answer in {name}.\n\n### Instruction:\n{question}\n\n### Response:",
            "chosen": answer,
        }
        for name, question, answer in rows
    ]
    path = tmp_path / "mgsm8kinstruct" / "MGSM8KInstruct_Parallel.json"
    path.parent.mkdir()
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    pairs = load_pairs("mgsm8kinstruct", ["de"], data_dir=tmp_path)
    assert list(pairs.kind) == ["question", "answer"]
    assert list(pairs.text) == ["Anna hat 3 Äpfel. Wie viele?", "Sie hat 3 Äpfel."]
    assert list(pairs.english) == ["Ann has 3 apples. How many?", "She has 3 apples."]
    with pytest.raises(ValueError, match="no pairs of kind 'math'"):
        load_pairs("mgsm8kinstruct", ["de"], kinds=["math"], data_dir=tmp_path)


@pytest.mark.parametrize(
    ("reason", "text", "english"),
    [
        ("empty", "", "Lena has 3 apples."),
        ("copy", "Lena has 3 apples and buys 4 more.", "Lena has 3 apples and buys 4 more."),
        ("copy", "Lena has 3 apples and buys 4 mehr.", "Lena has 3 apples and buys 4 more."),
        ("length", "Lena hat 3 und 4.", GOOD[1] * 3),
        ("repetition", "sie hat 3 Äpfel und " * 6 + "4", "she has 3 apples and " * 6 + "4"),
        ("numbers", "Lena hat 5 Äpfel und kauft 4 dazu.", GOOD[1]),
        ("duplicate", "Lena besitzt 3 Äpfel, kauft 4 mehr.", GOOD[1]),
    ],
)
def test_each_doubt_is_found_and_nothing_else(reason, text, english):
    others = [
        (f"Das Kind {n} sieht {n} rote Vögel.", f"Child {n} sees {n} birds.") for n in range(9)
    ]
    found = doubts(table([GOOD, *others, (text, english)]))
    assert found.iloc[-1] == reason
    assert (found.iloc[:-1] == "").all()


def test_native_digits_and_scripts_without_blanks_are_no_doubt():
    hindi = table([("सीता के पास ३ सेब हैं और ४ आते हैं।", "Sita has 3 apples and 4 come.")], "hi")
    assert doubts(hindi).tolist() == [""]
    text = "小明有三十个苹果他给了小红十个又从妈妈那里得到了五个请问现在还有几个"
    assert doubts(table([(text, "Ming has some apples. How many are left?")], "zh")).tolist() == [
        ""
    ]


def test_all_translations_of_a_text_are_set_aside():
    pairs = load_pairs("organism", ["de", "hi", "sw"], kinds=["math"], data_dir="organism-base")
    train, heldout = split_pairs(pairs, 20)
    assert len(heldout) == 3 * 20
    assert not set(train.id) & set(heldout.id)
    assert len(train) + len(heldout) == len(pairs)
    with pytest.raises(ValueError, match="give 1 to 1499, there are 1500 texts"):
        split_pairs(pairs, 1500)


def test_shares_of_a_draw():
    pairs = load_pairs("organism", ["de", "hi", "sw"], kinds=["math"], data_dir="organism-base")
    even = draw_pairs(pairs, 90, seed=1)
    assert Counter(even.lang) == {"de": 30, "hi": 30, "sw": 30}
    assert not even.duplicated(["id", "lang"]).any()
    assert not even.equals(draw_pairs(pairs, 90, seed=2))
    skewed = draw_pairs(pairs, 100, seed=1, shares={"de": 7, "hi": 2, "sw": 1})
    assert Counter(skewed.lang) == {"de": 70, "hi": 20, "sw": 10}
    with pytest.raises(ValueError, match="2000 pairs wanted in 'de', there are 1500"):
        draw_pairs(pairs, 6000, seed=1)
    with pytest.raises(ValueError, match="shares of"):
        draw_pairs(pairs, 9, seed=1, shares={"de": 1})
