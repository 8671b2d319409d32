"""The language files are parallel, well-formed and spelt as their dictionaries say."""

import dataclasses
import re
import shutil
import subprocess
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import yaml

from mmlib.organism import corpus
from mmlib.organism.corpus import LANGUAGES, Item, language_file, render
from mmlib.tasks.languages import get_language

STRUCTURE = language_file("structure")

DICTIONARIES = {
    "en": "en_US",
    "de": "de_DE",
    "fr": "fr",
    "hi": "hi_IN",
    "sw": "sw_TZ",
    "bn": "bn_BD",
}


WITHOUT_AFFIXES = ("hi", "bn")
"""Hunspell cuts words of these scripts at vowel signs; their dictionaries are plain word lists."""


def shape(value):
    """Keys and lengths of a language file, without its words."""
    if isinstance(value, dict):
        return {k: shape(v) for k, v in value.items() if k not in ("objects", "names")}
    return [shape(v) for v in value] if isinstance(value, list) else type(value).__name__


@pytest.mark.parametrize("language", LANGUAGES)
def test_language_files_are_parallel(language):
    texts, english = language_file(language), language_file("en")
    assert shape(texts) == shape(english)
    assert list(texts["math"]) == list(english["math"])
    assert len(texts["objects"]) == len(english["objects"])
    assert [len(texts["names"][g]) for g in "mf"] == [16, 16]
    forms = {tuple(sorted(noun)) for noun in texts["objects"]}
    assert len(forms) == 1, "every noun has the same forms"


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_that_are_answers_differ(language):
    texts = language_file(language)
    people = [corpus.person(texts, index)["many"] for index in range(32)]
    lists = [people, texts["syllables"], *(r["values"] for r in texts["reading"].values())]
    for words in lists:
        assert all(isinstance(word, str) for word in words)
        assert len(set(words)) == len(words)
        assert not [(a, b) for a in words for b in words if a != b and f" {a} " in f" {b} "]
    towns = [corpus.town(texts, index) for index in range(STRUCTURE["towns"])]
    assert len(set(towns)) == STRUCTURE["towns"]


def test_every_family_has_twelve_templates_and_the_steps_of_its_tier():
    counts = Counter(name.split("/")[0] for name in language_file("en")["math"])
    assert set(counts) == set(STRUCTURE["families"])
    assert set(counts.values()) == {12}
    tiers = {family: corpus.tier(f"{family}/1") for family in counts}
    assert set(tiers.values()) == {1, 2, 3}
    for sign in "+-*/":
        for level in (1, 2, 3):
            families = [f for f, t in tiers.items() if t == level]
            assert any(sign in str(STRUCTURE["families"][f]["steps"]) for f in families)


def symbols(text):
    found = re.findall(r"\{(\w)(?: (\w))?", text)
    return {name for pair in found for name in pair} - {""}


@pytest.mark.parametrize("language", LANGUAGES)
def test_placeholders_are_those_of_the_english_sentence(language):
    texts, english = language_file(language), language_file("en")
    pairs = [(texts["math"][k], english["math"][k]) for k in english["math"]]
    pairs += zip(texts["story"], english["story"], strict=True)
    for theirs, ours in pairs:
        assert symbols(theirs) == symbols(ours), theirs
        for number in "abcd":
            printed = rf"\{{{number}(?: \w)?\}}"
            assert len(re.findall(printed, theirs)) == len(re.findall(printed, ours)), theirs


def rendered(language):
    """Every sentence of a language file with every object, both genders, and 1, 2, 5 and 21."""
    texts = language_file(language)
    for number in (1, 2, 5, 21):
        for index, noun in enumerate(texts["objects"]):
            for k, pattern in enumerate([*texts["math"].values(), *texts["story"]]):
                words = dict.fromkeys("abcd", number) | {"o": noun}
                words["p"] = corpus.person(texts, (index * 5 + k) % 32)
                words["q"] = corpus.person(texts, (index * 7 + k + 11) % 32)
                yield pattern, words, corpus.fill(pattern, words, texts["counted"])
    for name, relation in [*texts["reading"].items(), *texts["knowledge"].items()]:
        asked = relation["ask"] if isinstance(relation["ask"], list) else [relation["ask"]]
        for pattern in [*relation["facts"], *asked, *filter(None, [relation.get("who")])]:
            for k, value in enumerate(texts["reading"][name]["values"]):
                words = {"p": corpus.person(texts, 2 * k), "v": value, "t": corpus.town(texts, k)}
                yield pattern, words, corpus.fill(pattern, words, texts["counted"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_sentence_renders_with_every_entity_and_number(language):
    counted = language_file(language)["counted"]
    seen = set()
    for pattern, words, text in rendered(language):
        assert not re.search(r"[{}|]|  |^ | $| [.,?!।]", text), text
        assert unicodedata.is_normalized("NFC", text)
        if re.search(r"\{[abcd] o\}", pattern):
            noun = words["o"]["one" if words["a"] == 1 else "many"]
            assert counted.format(n=words["a"], noun=noun) in text
        seen.add(pattern)
    assert len(seen) > 180


def unknown_words(language, words):
    """Those words that Debian's dictionary of the language does not have."""
    name = DICTIONARIES[language]
    if language in WITHOUT_AFFIXES:
        lines = Path(f"/usr/share/hunspell/{name}.dic").read_text(encoding="utf-8").split("\n")
        known = {unicodedata.normalize("NFC", line.split("/")[0].strip()) for line in lines}
        return {word for word in words if unicodedata.normalize("NFC", word) not in known}
    command = ["hunspell", "-d", name, "-i", "utf-8", "-l"]
    done = subprocess.run(
        command, input="\n".join(sorted(words)), capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_word_is_in_the_dictionary_or_in_the_reviewed_list(language):
    if not shutil.which("hunspell"):
        pytest.skip("hunspell is not installed; .ci/run installs it with the dictionaries")
    texts = language_file(language)
    text = " ".join({line for _, _, line in rendered(language)})
    labels = [*texts["layouts"], *texts["copy"], *texts["translate"].values(), texts["choice"]]
    labels += [texts["closing"], texts["tell"], *texts["openings"], *texts["operations"].values()]
    text += " " + re.sub(r"\{\w+\}", " ", " ".join(labels))
    names = {form for i in range(32) for form in corpus.person(texts, i).values()}
    names |= {corpus.town(texts, i) for i in range(STRUCTURE["towns"])}
    words = set(re.split(r"[\s\d.,?!:;()।-]+", text)) - names - {""}
    reviewed = yaml.safe_load(
        (Path(__file__).parent / "reviewed_words.yaml").read_text(encoding="utf-8")
    )
    unknown = unknown_words(language, words) - set(reviewed.get(language) or {})
    assert sorted(w for w in unknown if not any(w in name for name in names)) == []


def test_number_gender_and_noun_forms():
    noun = {"one": "livre", "many": "livres", "gender": "m", "de": "de livres"}
    words = {"a": 1, "b": 3, "o": noun, "p": {"many": "Rose", "gender": "f"}}
    pattern = "{a o}, {b o}, {o.de}, {o:un|une}, {p:né|née}, {a:est|sont}, {b:est|sont}, {p}"
    expected = "1 livre, 3 livres, de livres, un, née, est, sont, Rose"
    assert corpus.fill(pattern, words) == expected
    assert corpus.fill("{a o}", words, "{noun} {n}") == "livre 1"


def test_gender_and_class_agree():
    item = Item("math", "add/1", (12, 7), (0, 20), (1,), layout=1)
    assert "कितनी किताबें" in render(item, "hi")["prompt"]
    assert "vitabu vingapi" in render(item, "sw")["prompt"]
    item = dataclasses.replace(item, things=(3,))
    assert "कितने कंचे" in render(item, "hi")["prompt"]
    assert "12টি" in render(item, "bn")["prompt"]


def test_the_record_of_romanised_hindi_is_the_romanised_record():
    hindi, latin = get_language("hi"), get_language("hi-Latn")
    for name in ("question_label", "answer_label", "step_phrase", "closing"):
        assert corpus.romanised(getattr(hindi, name)) == getattr(latin, name)
    for name in ("other_closings", "choice_labels"):
        assert tuple(corpus.romanised(list(getattr(hindi, name)))) == getattr(latin, name)


def test_unknown_language_and_split_name_the_choices():
    with pytest.raises(ValueError, match=r"'bn', 'de', 'en', 'fr', 'hi', 'sw'"):
        language_file("xx")
    with pytest.raises(ValueError, match="heldout, calibration"):
        corpus.frozen("test")
