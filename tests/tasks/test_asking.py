"""What is read once gives the answers and numbers of the harness' own class of models."""

import json
import re

import pytest
import torch
import yaml
from lm_eval.api.instance import Instance
from transformers import AutoConfig, AutoModelForCausalLM

from mmlib.models import load_model
from mmlib.organism.training import random_checkpoint
from mmlib.tasks import asking, skills
from mmlib.tasks.evaluation import evaluate, gold_likelihood, text_likelihood
from mmlib.tasks.problems import load_problems

SHARING = ("llama", "qwen2", "qwen3", "gpt_neox")
WINDOWS = ("mistral", "gemma3_text")
EXAMPLES = "How many apples are there?\nAnswer: 3 + 4 = 7. The answer is 7.\n"
QUESTIONS = ("One?", "Two apples and three?", "How many pears does Luke have?\nAnswer:", "One")
STOPS = ["a", "1", " t"]
ALONE = {"eos": 1, "enough": 1}
"""How a row ends that is asked alone."""


@pytest.fixture
def built(checkpoint):
    """A function from an architecture to a random model that writes varied text."""

    def build(architecture):
        torch.manual_seed(0)
        config = AutoConfig.for_model(
            architecture,
            vocab_size=len(checkpoint[1]),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=4096,
            initializer_range=0.3,
            eos_token_id=checkpoint[1].eos_token_id,
            **({"sliding_window": 16} if architecture in WINDOWS else {}),
        )
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    return build


def requests(kind, last):
    """Prompts of four tasks: shared examples (twice), one prompt alone, nothing shared."""
    prompts = [("examples in en", EXAMPLES * 4 + question) for question in QUESTIONS]
    prompts += [("more in hi", "Two pears. " + EXAMPLES * 3 + question) for question in QUESTIONS]
    prompts += [("alone in en", EXAMPLES * 5)]
    prompts += [("bare in de", question) for question in QUESTIONS]
    return [
        Instance(kind, {"id": str(index)}, (prompt, last), 0, metadata=(task, index, 1))
        for index, (task, prompt) in enumerate(prompts)
    ]


def tokens_read(model, work, *given, **options):
    """What `work` gives, and how many tokens and steps it takes the model."""
    counts = []
    embed = model.get_input_embeddings()
    with embed.register_forward_hook(lambda _, given, __: counts.append(given[0].numel())):
        return work(*given, **options), sum(counts), len(counts)


@pytest.mark.parametrize(
    ("architecture", "batch_size"), [("llama", 1), *((name, 3) for name in SHARING + WINDOWS)]
)
def test_shared_tokens_change_no_answer_and_no_number(architecture, batch_size, checkpoint, built):
    model, tokenizer = built(architecture), checkpoint[1]
    options = {"pretrained": model, "tokenizer": tokenizer, "batch_size": batch_size}
    ours, theirs = asking._Harness(**options), asking.HFLM(**options)
    assert asking._can_share(model) == (architecture in SHARING)
    kwargs = {"until": STOPS, "max_gen_toks": 20, "do_sample": False}
    asked = requests("generate_until", kwargs)
    with torch.no_grad():
        found, few, steps = tokens_read(model, ours.generate_until, asked)
        expected, many, all_steps = tokens_read(model, theirs.generate_until, asked)
    assert found == expected
    assert len(set(found)) > 3
    if architecture in SHARING:
        assert few < 0.8 * many
    else:
        assert steps <= all_steps
    for text in (" 3 + 4 = 7.", " t"):
        asked = requests("loglikelihood", text)
        found, few, _ = tokens_read(model, ours.loglikelihood, asked)
        expected, many, _ = tokens_read(model, theirs.loglikelihood, asked)
        assert [flag for _, flag in found] == [flag for _, flag in expected]
        numbers = torch.tensor([[a for a, _ in rows] for rows in (found, expected)])
        assert torch.allclose(*numbers, atol=1e-4, rtol=1e-6)
        assert few < 0.8 * many if architecture in SHARING else few <= many
    rolling = [Instance("loglikelihood_rolling", {}, (EXAMPLES * n,), 0) for n in (1, 3)]
    pair = [harness.loglikelihood_rolling(rolling, True) for harness in (ours, theirs)]
    assert pair[0] == pytest.approx(pair[1], abs=1e-4)


def test_what_is_shared_is_compared_in_tokens_and_leaves_a_token():
    assert asking._common([[1, 2, 3], [1, 2, 4, 5], [1, 2, 3, 9]]) == [1, 2]
    assert asking._common([[1, 2], [1, 2, 4]]) == [1, 2]
    assert asking._common([[3], [1, 2]]) == asking._common([[], [1]]) == []
    assert asking._common([[7, 8]]) == [7, 8]


def test_equal_prompts_leave_their_last_token(checkpoint, built):
    model, tokenizer = built("llama"), checkpoint[1]
    options = {"pretrained": model, "tokenizer": tokenizer, "batch_size": 2}
    kwargs = {"until": ["\n"], "max_gen_toks": 5, "do_sample": False}
    for kind, last in (("generate_until", kwargs), ("loglikelihood", " 3")):
        asked = [
            Instance(kind, {"id": "0"}, (EXAMPLES * 4, last), 0, metadata=("one in en", n, 1))
            for n in range(3)
        ]
        harnesses = (asking._Harness(**options), asking.HFLM(**options))
        ours, theirs = (getattr(harness, kind)(asked, True) for harness in harnesses)
        if kind == "loglikelihood":
            ours, theirs = ([a for a, _ in rows] for rows in (ours, theirs))
            theirs = pytest.approx(theirs, abs=1e-4)
        assert ours == theirs


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_positions_that_depend_on_the_length_of_a_text_are_not_shared(rope, built):
    model = built("llama")
    model.config.rope_parameters = {"rope_type": rope}
    assert not asking._can_share(model)


def test_a_row_ends_with_its_own_answer(checkpoint):
    tokenizer = checkpoint[1]
    texts = {
        "The answer is 7. Human: How": True,
        "The answer is 7. Question: How": True,
        "The answer is 7. Luke": False,
        "Question: 7": False,
        "It is 7.\n": True,
    }
    rows = tokenizer(list(texts), add_special_tokens=False).input_ids
    for language, rule in (("en", texts.values()), (None, [*[False] * 4, True])):
        found = [
            bool(asking._Ended(tokenizer, ["\n"], [2], language, **ALONE)(ids, None))
            for ids in (torch.tensor([[5, 5, *row]]) for row in rows)
        ]
        assert found == list(rule)
    prompt = tokenizer("The answer is 7. Human:\n", return_tensors="pt").input_ids
    assert not asking._Ended(tokenizer, ["\n"], [prompt.shape[1]], "en", **ALONE)(prompt, None)


@pytest.mark.parametrize("rows", [8, 3])
def test_rows_that_are_done_make_place_for_the_next(rows, checkpoint, built):
    model, tokenizer = built("qwen2"), checkpoint[1]
    options = {"pretrained": model, "tokenizer": tokenizer, "batch_size": rows}
    kwargs = {"until": STOPS, "max_gen_toks": 60, "do_sample": False}
    asked = [
        Instance(
            "generate_until", {"id": text}, (EXAMPLES * 4 + text, kwargs), 0, ("many in en", 0, 1)
        )
        for text in (f"{number} pears{' more' * (number % 3)}" for number in range(8))
    ]
    shapes, embed = [], model.get_input_embeddings()
    with embed.register_forward_hook(lambda _, given, __: shapes.append(given[0].shape)):
        found = asking._Harness(**options).generate_until(asked, True)
    assert found == asking.HFLM(**options).generate_until(asked, True)
    assert len({*map(len, found)}) > 2
    read = [place for place, (_, tokens) in enumerate(shapes) if tokens > 1]
    assert read[:2] == [0, 1]  # what they share, and the first prompts
    assert sum(shapes[place][0] for place in read[1:]) == 8
    batches = [batch for batch, tokens in shapes if tokens == 1]
    assert set(batches[: read[-1] - len(read) + 1]) <= {rows}  # none is empty while prompts wait
    assert sorted(batches, reverse=True) == batches
    assert len(set(batches)) > 1


# --- gold likelihood ---


@pytest.fixture
def german(tmp_path):
    """A folder with three problems of GSM8K in English and German."""
    english = [(f"{n} and {n}?", f"<<{n}+{n}={2 * n}>>{2 * n} it is.", 2 * n) for n in (2, 3, 40)]
    (tmp_path / "gsm8k").mkdir()
    (tmp_path / "gsm8k-translated").mkdir()
    rows = [{"question": q, "answer": f"{a}\n#### {gold}"} for q, a, gold in english]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    for split in ("train", "test"):
        (tmp_path / f"gsm8k/{split}.jsonl").write_text(text)
    lines = ["question,answer"]
    lines += [f"{q.replace('and', 'und')},{a.replace('it is', 'ist es')}" for q, a, _ in english]
    (tmp_path / "gsm8k-translated/gsm8k_de_test.csv").write_text("\n".join(lines))
    return tmp_path


def direct(model, tokenizer, prompt, solution):
    """Mean log-probability and number of tokens by the plain model."""
    ids = torch.tensor([tokenizer(prompt + solution).input_ids])
    start = len(tokenizer(prompt).input_ids)
    with torch.no_grad():
        scores = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
    chosen = scores.gather(1, ids[0, start:, None])
    return float(chosen.mean()), len(chosen)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_gold_likelihood_of_worked_problems_is_that_of_the_plain_model(
    batch_size, checkpoint, built, german
):
    model, tokenizer = built("qwen3"), checkpoint[1]
    asked = {"languages": ["de"], "data_dir": german, "batch_size": batch_size}
    table, read, _ = tokens_read(model, gold_likelihood, model, tokenizer, "gsm8k", **asked)
    assert list(table.columns) == ["lang", "task", "problem_id", "log_likelihood", "n_tokens"]
    config = yaml.safe_load((skills._HARNESS / "gsm8k_de.yaml").read_text())
    examples = config["fewshot_config"]["samples"]
    shots = "".join(f"Q: {e['question']}\n\nA: {e['target']}\n\n\n" for e in examples)
    for row, document in zip(
        table.itertuples(), skills.documents("gsm8k", "de", german), strict=True
    ):
        assert row.problem_id == document["id"]
        solution = re.sub("<<.*>>", "", document["response"])
        assert "ist es." in solution
        prompt = f"{shots}Q: {document['question']}\n\nA:"
        value, count = direct(model, tokenizer, prompt, f" {solution}")
        assert row.n_tokens == count
        assert row.log_likelihood == pytest.approx(value, abs=1e-4)
    assert read < 1.3 * len(tokenizer(shots).input_ids) + 3 * 60  # the examples once


def test_gold_likelihood_of_an_organism_is_that_of_its_calibration_text(checkpoint, heldout):
    asked = {"languages": ["en", "hi"], "limit": 3, "data_dir": heldout}
    table = gold_likelihood(*checkpoint, ["organism-math", "organism-knowledge"], **asked)
    assert table.value_counts(["task", "lang"]).eq(3).all()
    for row in table.itertuples():
        problems = load_problems(row.task, row.lang, data_dir=heldout)
        problem = next(p for p in problems if p.id == row.problem_id)
        value, count = direct(*checkpoint, problem.prompt, problem.response)
        assert (row.log_likelihood, row.n_tokens) == (pytest.approx(value, abs=1e-4), count)
    two = {"organism-math": list(table.problem_id[:2])}
    few = gold_likelihood(*checkpoint, "organism-math", **asked, only=two)
    assert few.problem_id.tolist() == 2 * two["organism-math"]
    with pytest.raises(ValueError, match="has no worked solution; take a task"):
        gold_likelihood(*checkpoint, "organism-choice-ranked", **asked)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_likelihood_of_a_text_is_that_of_the_plain_model(checkpoint, heldout, batch_size):
    asked = {"languages": ["en", "hi"], "limit": 3, "data_dir": heldout, "batch_size": batch_size}
    table = text_likelihood(*checkpoint, ["organism-reading", "organism-math"], **asked)
    assert table.value_counts(["task", "lang"]).eq(3).all()
    for row in table.itertuples():
        problem = load_problems(row.task, row.lang, data_dir=heldout)[:3]
        (text,) = [p.text for p in problem if p.id == row.problem_id]
        value, count = direct(*checkpoint, "", text)  # after the token that begins a text
        assert (row.log_likelihood, row.n_tokens) == (pytest.approx(value, abs=1e-4), count)
    with pytest.raises(ValueError, match="unknown task 'mmul'"):
        text_likelihood(*checkpoint, "mmul", languages=["en"])


def test_answers_are_those_of_the_harness_own_class(checkpoint, built, german, monkeypatch):
    assert asking._Harness is not asking.HFLM
    answers = evaluate(
        built("llama"), checkpoint[1], "gsm8k", languages=["de"], data_dir=german, batch_size=2
    )
    with monkeypatch.context() as patch:
        patch.setattr(asking, "_Harness", asking.HFLM)
        plain = evaluate(
            built("llama"), checkpoint[1], "gsm8k", languages=["de"], data_dir=german, batch_size=2
        )
    assert answers.equals(plain)


# --- the cache ---


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_roomy_cache_changes_no_token_and_no_number(architecture, tmp_path):
    """Against the library's own generation, beyond the room for 64 tokens and with padding."""
    texts = [p.text for p in load_problems("organism-math", "en")[:50]]
    sizes = {"hidden_size": 32, "intermediate_size": 64, "layers": 2, "heads": 2, "kv_heads": 1}
    folder = random_checkpoint(
        tmp_path / "m", texts=texts, architecture=architecture, vocab_size=300, **sizes
    )
    model, tokenizer = load_model(str(folder), dtype="float32")
    tokenizer.padding_side = "left"
    batch = tokenizer(["one apple", "two apples and a pear"], return_tensors="pt", padding=True)
    options = {"attention_mask": batch["attention_mask"], "do_sample": False}
    length = batch["input_ids"].shape[1] + 150
    expected = model.generate(**batch, max_length=length, do_sample=False, eos_token_id=-1)
    asked = asking._Harness(pretrained=model, tokenizer=tokenizer, batch_size=2)
    found = asked._model_generate(batch["input_ids"], length, [], eos_token_id=-1, **options)
    assert found.shape[1] == length
    assert torch.equal(found, expected)
    layer, known = asking._Roomy(), asking.DynamicLayer()
    for new in (3, 1, 70, 1):
        states = torch.randn(2, 2, 1, new, 4)
        for got, wanted in zip(layer.update(*states), known.update(*states), strict=True):
            assert torch.equal(got, wanted)
