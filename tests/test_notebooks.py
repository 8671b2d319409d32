"""Sources as written, copies as published, and every chapter executed in miniature."""

import ast
import json
import math
import os
import re
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from papermill import inspect_notebook
from safetensors import safe_open
from scipy.stats import binomtest, spearmanr
from sklearn.metrics import cohen_kappa_score
from tokenizers import Tokenizer

from mmlib.__main__ import main
from mmlib.book import runner
from mmlib.book.chapters import Project, convert, hashes, parameters, run_record
from mmlib.claims.ledger import judge
from mmlib.claims.rules import CLAIMS
from mmlib.models import load_model

ROOT = Path(__file__).parents[1]
PROJECT = Project(ROOT)
NAMES = list(PROJECT.chapters)
MINIATURE_S = 60
"""Longest time a chapter may take in miniature, on one of two cores while the other tests too."""
TEXT = {"correct": str}  # a row of answers: 0110 is no number
LOCAL_PATH = re.compile(r"(?<![\w.:/<-])/(?:home|Users|root|tmp|opt|mnt|var|work|usr|content)/\S*")

chapter = pytest.mark.parametrize("name", NAMES)


def cells(path, kind="code"):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [
        {**c, "source": "".join(c["source"])} for c in notebook["cells"] if c["cell_type"] == kind
    ]


def outputs(path):
    return [output for cell in cells(path) for output in cell["outputs"]]


def texts(value):
    """Every text inside a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


# --- sources


def test_chapters_yml_names_every_notebook():
    assert {path.stem for path in (ROOT / "notebooks" / "chapters").glob("*.ipynb")} == set(NAMES)


def test_budgets_fit_into_fifteen_minutes():
    assert sum(entry.budget_s for entry in PROJECT.chapters.values()) <= 15 * 60


@chapter
def test_source_is_stripped(name):
    notebook = json.loads(PROJECT.source(name).read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert not {"papermill", "mmlib"} & set(notebook["metadata"])
    # What git's filter does to it is nothing.
    strip = [Path(sys.executable).with_name("nbstripout"), "--keep-id"]
    source = PROJECT.source(name).read_bytes()
    assert subprocess.run(strip, input=source, capture_output=True, check=True).stdout == source
    assert not LOCAL_PATH.search(PROJECT.source(name).read_text(encoding="utf-8"))


@chapter
def test_parameters_are_typed_explained_and_readable_by_papermill(name):
    ours = parameters(PROJECT, name)
    theirs = inspect_notebook(PROJECT.source(name))
    assert {n: (p.type, p.help) for n, p in ours.items()} == {
        n: (p["inferred_type_name"], p["help"]) for n, p in theirs.items()
    }
    for parameter in ours.values():
        assert parameter.help
        assert convert(parameter.default, parameter.type) == parameter.default
    tags = [cell["metadata"].get("tags", []) for cell in cells(PROJECT.source(name))]
    assert sum("parameters" in tag for tag in tags) == 1


@chapter
def test_the_notebook_tells_and_the_package_does(name):
    code = [cell["source"] for cell in cells(PROJECT.source(name))]
    for text in code:
        kinds = {type(node) for node in ast.walk(ast.parse(re.sub(r"(?m)^[%!].*", "", text)))}
        assert not kinds & {ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef}, text
    lines = [len([line for line in text.splitlines() if line.strip()]) for text in code]
    assert statistics.median(lines) <= 3, sorted(lines)


@chapter
def test_what_a_chapter_reads_is_declared(name):
    """A table that is read without being declared could change and leave the chapter fresh."""
    code = "\n".join(cell["source"] for cell in cells(PROJECT.source(name)))
    modules = hashes(PROJECT, name, {})["code"]
    # A claim that a chapter names counts with its whole part: it may read what another one reads.
    modules = {re.sub(r"^(claims\.\w+)\.\w+$", r"\1", module) for module in modules}
    paths = [ROOT / "mmlib" / f"{m.replace('.', '/')}.py" for m in modules]
    package = [path.read_text(encoding="utf-8") for path in paths]
    call = re.compile(r'\b(published|read_evidence|read_table)\(\s*"([\w-]+)"')
    place = {"published": "published", "read_evidence": "evidence", "read_table": "results"}
    read = {f"{place[c]}/{table}" for text in [code, *package] for c, table in call.findall(text)}
    own = {f"results/{table}" for table in re.findall(r'write_table\([^"]*"([\w-]+)"', code)}
    assert read - own <= set(PROJECT.chapters[name].reads)


# --- the published copies


def test_copies_are_up_to_date():
    stale = {row.chapter.name: row.reasons for row in runner.status(PROJECT) if row.reasons}
    assert stale == {}, "python -m mmlib run --stale"


@chapter
def test_copy_is_complete_and_without_errors(name):
    path = PROJECT.executed(name)
    code = cells(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert [output for output in outputs(path) if output["output_type"] == "error"] == []
    assert not any("injected-parameters" in c["metadata"].get("tags", []) for c in code)
    assert [c["source"] for c in code] == [c["source"] for c in cells(PROJECT.source(name))]


@chapter
def test_copy_keeps_no_path_and_no_warning(name):
    path = PROJECT.executed(name)
    found = [m.group() for text in texts(outputs(path)) for m in LOCAL_PATH.finditer(text)]
    assert found == []
    text = path.read_text(encoding="utf-8")
    for place in (ROOT, Path.home(), Path(sys.prefix)):
        assert len(place.parts) < 3 or str(place) not in text
    assert [o["text"] for o in outputs(path) if o.get("name") == "stderr"] == []


@chapter
def test_every_figure_has_a_description(name):
    for cell in cells(PROJECT.executed(name)):
        described = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        for output in cell["outputs"]:
            kinds = {kind.split("papermill.record/")[-1] for kind in output.get("data", ())}
            assert described or not kinds & {"image/png", "image/svg+xml", "image/jpeg"}
            for svg in re.findall(r"<svg\b[^>]*>", "".join(texts(output.get("data", {})))):
                labelled = re.search(r'role="img"[^>]*aria-label="[^"]{20,}"', svg)
                assert labelled or 'aria-hidden="true"' in svg, svg[:200]


def test_every_table_has_one_writer():
    tables = [t for name in NAMES for t in run_record(PROJECT.executed(name)).get("tables", ())]
    assert len(tables) == len(set(tables))
    on_disk = {path.name for path in (ROOT / "book" / "results").glob("*") if path.is_file()}
    assert on_disk == set(tables)


# --- miniature runs


@pytest.fixture(scope="session")
def borrowed(tmp_path_factory):
    """A checkout of links to this one: what a run writes does not land here."""
    root = tmp_path_factory.mktemp("borrowed")
    for name in ("notebooks", "mmlib"):
        (root / name).symlink_to(ROOT / name)
    (root / "book").mkdir()
    (root / "book" / "results").symlink_to(ROOT / "book" / "results")
    return Project(root)


@pytest.mark.notebook
@chapter
def test_miniature(name, borrowed, monkeypatch):
    monkeypatch.setenv("MMLIB_CACHE", str(borrowed.root / f"cache-{name}"))
    given = PROJECT.chapters[name].miniature
    assert given, f"give {name} a miniature in notebooks/chapters.yml"
    notebook = runner.run(borrowed, name, given)
    assert notebook.is_relative_to(borrowed.root / "runs")
    tables = {path.stem: pd.read_csv(path, dtype=TEXT) for path in notebook.parent.glob("*.csv")}
    assert name in CHECKS, "compare a number of this chapter with an independent calculation"
    CHECKS[name](tables, run_record(notebook)["parameters"])
    assert run_record(notebook)["seconds"] <= MINIATURE_S * float(os.environ.get("MMLIB_SLOW", "1"))


# Each chapter: at least one number against a calculation that does not use the package.


def frozen(folder, name):
    return pd.read_json(folder / f"{name}.jsonl.gz", lines=True, dtype=False)


def organism(given):
    return ROOT / "mmlib" / "organisms" / given["model"]


def shapes(folder):
    """Shapes of the tensors, read from the checkpoint file itself."""
    with safe_open(folder / "model.safetensors", "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118


def matrices(folder):
    """Sizes of the decoder's matrices."""
    found = shapes(folder).items()
    return [math.prod(s) for key, s in found if ".layers." in key and len(s) == 2]


def check_problems(tables, given):
    """Tokens per language, by the tokenizer's own library on the frozen file."""
    tokenizer = Tokenizer.from_file(str(organism(given) / "tokenizer.json"))
    problems = frozen(organism(given), "heldout")
    for lang, part in problems[problems.lang.isin(given["languages"])].groupby("lang"):
        encoded = tokenizer.encode_batch((part.prompt + part.response).tolist(), False, False)
        lengths = tables["token_lengths"]
        assert lengths[lengths.lang == lang].tokens.sum() == sum(len(text.ids) for text in encoded)


def check_organism(tables, given):
    """Accuracies counted in the shipped characters, Wilson intervals by SciPy."""
    shipped = pd.read_csv(ROOT / "mmlib" / "evidence" / "family_answers.csv", dtype=str)
    shipped = shipped.set_index(["model", "part", "lang"]).correct
    models = 1 + len(given["family"])
    assert len(tables["accuracy_by_part"]) == 9 * len(given["languages"]) * models
    for row in tables["accuracy_by_part"].itertuples():
        correct = shipped[row.model, row.part, row.lang]
        assert (row.n_correct, row.n) == (correct.count("1"), len(correct))
    for row in pd.concat([tables["accuracy_by_part"], tables["accuracy"]]).itertuples():
        interval = binomtest(row.n_correct, row.n).proportion_ci(method="wilson")
        assert (row.low, row.high) == pytest.approx((interval.low, interval.high))
    assert len(tables["answers"]) == len(tables["accuracy_by_part"])


def check_math_weights(tables, given):
    """Selected weights: int(size * K), summed over the matrices of the checkpoint file."""
    sizes = tables["set_sizes"].query("group == 'global'")
    numel = matrices(organism(given))
    expected = {ratio: sum(int(n * ratio) for n in numel) for ratio in given["keep_ratios"]}
    assert sizes.n_topk.tolist() == [expected[ratio] for ratio in sizes.keep_ratio]
    assert set(sizes.n_scored) == {sum(numel)}


def check_overlap(tables, given):
    """Global Jaccard, from the counts of single matrices."""
    overlap = tables["overlap"].set_index(["lang_a", "lang_b", "keep_ratio", "seed"])
    parts = overlap.query("group == 'module'").groupby(level=[0, 1, 2, 3])
    counts = parts[["size_a", "size_b", "intersection"]].sum()
    union = counts.size_a + counts.size_b - counts.intersection
    whole = overlap.query("group == 'global'")
    expected = (counts.intersection / union).reindex(whole.index)
    pd.testing.assert_series_equal(whole.jaccard, expected, check_names=False)


def check_cost(tables, given):
    """Stored sizes of the smallest shape: width 128, inner width 256, 4 layers, full attention."""
    cost = tables["localisation_cost"]
    value = cost[cost["shape"] == "1M"].groupby("quantity").value.first()
    stored, ratio = (value[f"stored per calibration{end}"] for end in ("", ", published / ours"))
    assert stored * ratio == pytest.approx(2 * 4 * (4 * 128 * 128 + 3 * 128 * 256))
    assert 0 < stored - 4 * 4 * (3 * 128 + 256) < 5000  # names and shared inputs


def counted_answers(table, given):
    """Share of right answers of each cell, counted in its characters."""
    cell = ["dtype", "lang", "condition", "factor", "keep_ratio", "seed", "fraction", "sample_seed"]
    table = table[table.lang.isin(given["languages"])].drop_duplicates([*cell, "part"])
    numbers = dict.fromkeys(["factor", "keep_ratio", "fraction"], float)
    table = table.astype(numbers | {"seed": int, "sample_seed": int})
    correct = table.correct.astype(str)
    return table.assign(correct=correct, right=correct.str.count("1"), n=correct.str.len()), cell


def check_what_breaks(tables, given):
    """Accuracies and changes of math, counted in the characters of the answers."""
    answers, cell = counted_answers(tables["edits"], given)
    math_answers = answers[answers.part.str.startswith("math-")]
    sums = math_answers.groupby(cell)[["right", "n"]].sum()
    told = tables["interventions"].query("skill == 'math'").set_index(cell)
    counted = (sums.right / sums.n).reindex(told.index)
    pd.testing.assert_series_equal(told.value, counted, check_names=False)
    changes = tables["changes"].query("skill == 'math' and keep_ratio == .1 and factor == 0")
    assert len(changes) >= 2
    for row in changes.itertuples():
        edited = sums.query(
            "dtype == @row.dtype and condition == @row.condition and factor == 0"
            " and keep_ratio == .1"
        )
        plain = sums.query("dtype == @row.dtype and condition == 'none'")
        difference = edited.right.sum() / edited.n.sum() - plain.right.sum() / plain.n.sum()
        assert row.difference == pytest.approx(difference)
    assert set(tables["edits"].condition) == {"none", *given["conditions"]}


def check_all_or_few(tables, given):
    """Accuracies counted in the characters of the answers; R squared of the line by NumPy."""
    answers, cell = counted_answers(tables["fraction_edits"], given)
    sums = answers.groupby(cell)[["right", "n"]].sum()
    values = (sums.right / sums.n).rename("value").reset_index()
    own = values.query("condition == 'math-specific' and keep_ratio in @given['keep_ratios']")
    base = values[values.condition == "none"].value.item()
    told = tables["fractions"]
    assert len(told) == (len(given["fractions"])) * len(given["sample_seeds"])
    assert (told.base == base).all()
    assert sorted(told[told.fraction < 1].value) == sorted(own[own.fraction < 1].value)
    means = own.groupby("fraction").value.mean()
    r = np.corrcoef([0, *means.index], [base, *means])[0, 1]
    line = tables["fraction_fits"].query("condition == 'random part' and shape == 'linear'")
    assert line.r_squared.item() == pytest.approx(r**2)


def check_errors(tables, given):
    """Kappa by scikit-learn; the errors of a cell, counted in the shipped characters."""
    labels = tables["error_labels"]
    found = tables["error_agreement"].set_index(["rater_a", "rater_b"]).kappa
    for pair, kappa in found.items():
        assert kappa == pytest.approx(cohen_kappa_score(*(labels[name] for name in pair)))
    shipped = pd.read_csv(ROOT / "mmlib" / "evidence" / "interventions.csv", dtype=str)
    answers, cell = counted_answers(shipped, given)
    answers = answers[answers.part.isin(given["parts"]) & (answers.dtype == given["edit_dtype"])]
    formats = answers.assign(format=answers.correct.str.count("f")).groupby(cell[:6])
    counted = (formats.format.sum() / formats.n.sum()).rename("counted")
    told = tables["errors"].join(counted, on=cell[:6])
    assert told.format.tolist() == pytest.approx(told.counted.tolist())
    assert told.format.max() > 0
    assert len(told) == len(counted) - 1


def whole_numbers(table):
    """Intersections that the sizes and the Jaccard of two sets imply, which have to be whole."""
    shared = table.jaccard / (1 + table.jaccard) * (table.size_a + table.size_b)
    assert np.allclose(shared, shared.round(), atol=1e-4)
    return shared.round().astype(int)


def check_ceilings(tables, given):
    """Counts add up to the checkpoint's matrices; Jaccards imply whole intersections."""
    table = tables["ceilings"]
    assert (whole_numbers(table) == table.intersection).all()
    whole = table[table.group == "global"]
    assert set(whole.n_scored) == {sum(matrices(organism(given)))}
    key = ["control", "lang_a", "lang_b", "keep_ratio", "seed"]
    parts = table[table.group.isin(["attention", "MLP"])].groupby(key).intersection.sum()
    assert parts.to_dict() == whole.set_index(key).intersection.to_dict()
    ends = tables["ceilings_prompts"].query("line == 'two languages'")
    most = ends[ends.num_samples == given["num_samples"]].set_index("seed").jaccard
    same = whole.query("control == 'math-specific' and keep_ratio == @given['keep_ratio']")
    assert most.to_dict() == pytest.approx(same.set_index("seed").jaccard.to_dict())


def check_travel(tables, given):
    """Losses counted in the characters of the answers."""
    answers = tables["transfer_answers"].fillna({"edited": ""})
    answers["right"] = answers.correct.str.count("1") / answers.correct.str.len()
    answers = answers[answers.part.isin(given["parts"])]
    right = answers.groupby(["weights", "edited", "lang"]).right.mean()
    told = tables["transfer"].query("kind == 'math'")
    assert len(told) == 2 * (len(given["languages"]) * 4 + 1)
    for row in told.itertuples():
        kind = row.weights.removeprefix("within ")
        whose = "all" if kind == "shared" else row.edited
        random = right["random " + kind, whose, row.lang]
        assert row.difference == pytest.approx(random - right[row.weights, row.edited, row.lang])
        assert row.n == given["items"]


def check_precision(tables, given):
    """Changes counted in the characters of the answers; sums of one prompt have no time to stop."""
    answers = tables["precision_answers"].query("condition == 'math-specific'")
    answers = answers[answers.seed == given["seeds"][0]]
    sums = answers.groupby(["keep_ratio", "lang", "sums"]).correct.sum().unstack()
    for row in tables["precision_changes"].itertuples():
        texts = sums.loc[(row.keep_ratio, row.lang)]
        rounded, exact = (texts[name].count("1") / len(texts[name]) for name in texts.index)
        assert row.difference == pytest.approx(rounded - exact)
    told = tables["precision"].query("what == 'set size'")
    kept = sum(int(size * given["keep_ratios"][0]) for size in matrices(organism(given)))
    assert (told[["value", "exact"]] < kept).all(axis=None)


def check_format(tables, given):
    """Jaccards imply whole intersections; changed sets have one size wherever they occur."""
    rows = tables["formats"]
    whole_numbers(rows)
    own = tables["format_rows"].query("what == 'form'").set_index(["form", "lang_a", "seed"])
    pairs = tables["format_rows"].query("what == 'language'")
    for row in pairs.itertuples():
        for code, size in ((row.lang_a, row.size_a), (row.lang_b, row.size_b)):
            assert own.size_b[row.form, code, row.seed] == size
    sample = own.loc["another sample"].reset_index().query("lang_a == 'en'").iloc[0]
    first, second = given["seeds"]
    sizes = own.size_b["as it is"]["en"]
    assert (sample.size_a, sample.size_b) == (sizes[first], sizes[second])


def check_data(tables, given):
    """Sets come from the checkpoint's matrices, shares from its manifest, ranks from scipy."""
    whole_numbers(tables["mix_overlap"])
    sizes = tables["data_sizes"]
    names = [*given["models"], *given["cut"]]
    kept = {name: matrices(ROOT / "mmlib" / "organisms" / name) for name in names}
    for name, rows in sizes.groupby("model"):
        assert set(rows.n_topk) == {sum(int(size * 0.1) for size in kept[name])}
        path = ROOT / "mmlib" / "organisms" / name / "manifest.json"
        shares = json.loads(path.read_text())["recipe"]["mix"]["languages"]
        told = rows.drop_duplicates("lang").set_index("lang").share
        assert told.to_dict() == pytest.approx(
            {c: s / sum(shares.values()) for c, s in shares.items()}
        )
    means = tables["mixes"].pivot_table(index="lang", columns="mix", values="n_math_specific")
    shares = tables["mixes"].query("mix == 'skewed'").set_index("lang").share
    rho = {mix: spearmanr(means[mix], shares[means.index]).statistic for mix in means}
    rows = sizes[sizes.model.isin(given["models"])].groupby(["mix", "lang"]).n_math_specific.mean()
    assert means.stack().reorder_levels(["mix", "lang"]).sort_index().tolist() == pytest.approx(
        rows.sort_index().tolist()
    )
    effect = judge("O8", {"mixes": tables["mixes"]}).effect
    assert effect == pytest.approx(rho["skewed"] - rho["even"])


def check_emergence(tables, given):
    """Sets and pruned weights counted in the checkpoint; sizes of C3c by hand."""
    whole_numbers(tables["emergence_overlap"])
    sizes = matrices(ROOT / "mmlib" / "organisms" / "organism-skewed")
    told = tables["emergence_sizes"].query("group == 'global'")
    assert set(told.n_topk) == {sum(int(size * given["keep_ratio"]) for size in sizes)}
    pruned = tables["emergence_travel"].n_weights
    assert 0 < pruned.max() <= sum(int(size * given["edit_ratio"]) for size in sizes)
    accuracy = tables["emergence_accuracy"].query("part == @given['parts'][0]")
    overlap = tables["emergence_overlap"].query("group == 'global' and control == 'two languages'")
    for name, rows in (("accuracy", accuracy), ("jaccard", overlap)):
        mine = rows.groupby("model")[name].mean()
        assert sorted(tables["emergence"][name]) == pytest.approx(sorted(mine))


def check_neurons(tables, given):
    """Positive gates counted question by question, without padding, for one draw and language."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    table = frozen(ROOT / "mmlib/organisms/organism-base", "calibration")
    math = table[table.task == "math"]
    shared = sorted(set.intersection(*(set(own.id) for _, own in math.groupby("lang"))))
    chosen = np.random.default_rng(101).choice(shared, given["num_questions"], replace=False)
    prompts = math[math.lang == "hi"].set_index("id").prompt.loc[chosen]
    model = AutoModelForCausalLM.from_pretrained(
        ROOT / "mmlib/organisms/organism-base", dtype=torch.float32
    )
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "mmlib/organisms/organism-base")
    fires, tokens, outs = 0, 0, []
    gate = model.model.layers[5].mlp.gate_proj
    gate.register_forward_hook(lambda module, given, out: outs.append(out))
    for prompt in prompts:
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            model(ids)
        real = outs.pop()[0][ids[0] != tokenizer.bos_token_id]
        fires, tokens = fires + int((real > 0).sum()), tokens + len(real)
    rate = tables["firing"].query("seed == 101 and layer == 5 and lang == 'hi'").rate.item()
    assert rate == pytest.approx(fires / tokens / 512, rel=1e-3)


def check_align(tables, given):
    """The loss of held-out translations before training, and what is trained, by hand."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = ROOT / "mmlib" / "organisms" / "organism-base"
    table = frozen(folder, "translations").query("kind == 'math'")
    ids = sorted(table[table.lang == "hi"].id.unique())
    aside = np.random.default_rng(1).choice(ids, given["heldout"], replace=False)
    pairs = table[(table.lang == "hi") & table.id.isin(aside)]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    losses = []
    for start in range(0, len(pairs), given["train_batch"]):
        logs = []
        for row in pairs.iloc[start : start + given["train_batch"]].itertuples():
            asked = f"Translate this from [Hindi] to [English]:\n[Hindi]: {row.text}\n[English]: "
            before = tokenizer(asked).input_ids
            after = tokenizer(row.english, add_special_tokens=False).input_ids
            after.append(tokenizer.eos_token_id)
            with torch.no_grad():
                scores = model(torch.tensor([before + after])).logits[0].log_softmax(-1)
            logs += [scores[len(before) - 1 + i, t].item() for i, t in enumerate(after)]
        losses.append(-np.mean(logs))
    first = tables["system_log"].query("step == 0 and stage == 1").heldout_loss
    assert list(first) == pytest.approx([np.mean(losses)] * len(first), rel=0.02)  # in bfloat16
    trained = tables["system_costs"].groupby("system").trained.max()
    block = 2 * 192 * 512
    whole = sum(math.prod(shape) for shape in shapes(folder).values())
    assert trained.to_dict() == {"SLAM": 2 * block, "QAlign": whole}
    right = tables["system_answers"].set_index(["system", "part", "lang"]).correct
    told = tables["alignment"].set_index(["system", "part", "lang"]).accuracy
    for key in told.index:
        assert told[key] == right[key].count("1") / given["items"]
    assert told["base"].sum() > 0
    assert {"math-1", "math-new"} == set(told.index.get_level_values("part"))
    gains = tables["alignment_gains"].set_index(["problems", "system", "lang"]).difference
    for problems, part in (("known templates", "math-1"), ("new templates", "math-new")):
        gain = told["SLAM", part, "hi"] - told["base", part, "hi"]
        assert gains[problems, "SLAM", "hi"] == pytest.approx(gain)


def check_moves(tables, given):
    """Share of the first and last layer, and of their neighbours by half, from the tensors."""
    updates = tables["expert_updates"]
    outer = tables["expert_outer"].set_index(["role", "seed"]).share
    assert set(updates.steps) == {given["steps"]}
    for role, seed in outer.index:
        of_layer = dict.fromkeys(range(8), 0.0)
        own = updates[(updates.role == role) & (updates.seed == seed)]
        assert own[own.tensor.str.contains("embed")].absolute.tolist() == [0.0]
        for row in own.itertuples():
            if found := re.search(r"layers\.(\d+)\.", row.tensor):
                of_layer[int(found[1])] += row.n * row.absolute
        ends = of_layer[0] + of_layer[7] + (of_layer[1] + of_layer[6]) / 2
        assert outer[role, seed] == pytest.approx(ends / sum(of_layer.values()))
    assert len(outer) == 4
    log = tables["expert_log"].query("role == 'sw' and step == 5")
    assert (log.heldout_loss < 2).all()


def check_swap(tables, given):
    """Accuracies and the gain of the swap over the math expert, digit by digit."""
    answers = tables["swap_answers"]
    assert answers.correct.str.len().eq(given["items"]).all()
    right = {
        key: g.count("1") for key, g in answers.groupby(["system", "lang"]).correct.sum().items()
    }
    told = tables["swap"].groupby(["system", "lang"]).accuracy.sum()
    for (system, lang), value in told.items():
        assert value == pytest.approx(right[system, lang] / given["items"])
    gain = tables["swap_gains"].set_index("target").difference["sw"]
    math = answers[answers.part.str.startswith("math") & (answers.lang == "sw")]
    sums = math.groupby("system").correct.sum().str.count("1")
    number = given["items"] * math.part.nunique()
    assert gain == pytest.approx((sums["swap"] - sums["math expert"]) / number)
    assert {"base", "joint", "TIES", "reversed", "random 2"} < set(answers.system)
    assert sums["base"] > 0


def check_layers(tables, given):
    """Rank correlations of a view with a yardstick, layer by layer, by scipy."""
    from scipy.stats import spearmanr

    cell = ["lang", "seed", "layer"]
    views = tables["layer_views"].set_index(["view", *cell]).value.sort_index()
    change = tables["layer_yardsticks"].set_index(["yardstick", *cell]).change.sort_index()
    pair = ("math update", "take from the base")
    rhos = [
        spearmanr(views[pair[0], code, seed], change[pair[1], code, seed]).statistic
        for code in given["targets"]
        for seed in given["seeds"]
    ]
    told = tables["layer_agreement"].set_index(["left", "right"]).loc["math update", "from base"]
    assert told.rho == pytest.approx(np.mean(rhos))
    assert told.n == len(given["seeds"])
    # What is left of the whole loss when a layer changes is the same for every layer.
    table = tables["layer_yardsticks"]
    whole = (table.loss - table.change).groupby([table.yardstick, table.lang, table.seed])
    assert whole.agg(np.ptp).max() < 1e-9
    assert table.change.abs().max() > 1e-4


def check_advice(tables, given):
    """Accuracies digit by digit, as many weights in every set, and the smaller gain of R3."""
    answers = tables["advice_answers"]
    right = answers.groupby(["study", "system", "lang"]).correct.sum().str.count("1")
    asked = answers.groupby(["study", "system", "lang"]).correct.sum().str.len()
    for study in ("layers", "weights"):
        told = tables[f"advice_{study}"].groupby(["system", "lang"]).accuracy.mean()
        for key, value in told.items():
            assert value == pytest.approx(right[study, *key] / asked[study, *key])
    log = tables["advice_log"]
    sizes = log[log.study == "weights"].groupby(["target", "seed"]).n_weights.nunique()
    assert (sizes == 1).all()
    trained = log[log.study == "layers"].system.unique()
    assert set(trained) == {"all", "middle", "outer", "random 1"}
    forms = tables["advice_forms"]
    assert (forms.n == given["form_items"]).all()
    assert len(forms) == 2 * 3 * 3  # trainings, systems, forms
    assert forms.as_asked.between(0, 1).all()


def test_gains_of_chapter_16_counted_in_the_evidence():
    """Right answers of the headline and of the knowledge task, digit by digit."""
    rows = pd.read_csv(ROOT / "mmlib" / "evidence" / "system_answers.csv", dtype=TEXT)
    results = ROOT / "book" / "results"
    keys = ["system", "seed", "part", "lang"]
    main = rows.query("start == 'none' and pair_source == 'organism' and steps == 100")
    told = pd.read_csv(results / "alignment.csv").set_index(keys).accuracy
    for key, grades in main.drop_duplicates(keys).set_index(keys).correct.items():
        assert told[key] == pytest.approx(grades.count("1") / len(grades))
    knowledge = rows.query("pair_source == 'organism-knowledge' and lang == 'hi' and seed == 1")
    table = frozen(ROOT / "mmlib/organisms/organism-base", "heldout")
    ids = sorted(table[(table.task == "knowledge") & (table.lang == "hi")].id)
    unseen = np.random.default_rng(1).choice(ids, 150, replace=False)
    grades = dict(zip(ids, knowledge.correct.item(), strict=True))
    told = pd.read_csv(results / "alignment_knowledge.csv").set_index(keys).accuracy
    right = sum(grades[name] == "1" for name in unseen) / 150
    assert told["SLAM", 1, "knowledge", "hi"] == pytest.approx(right)


def check_at_a_glance(tables, given):
    """Effect of C1 in the published table, straight from the file."""
    rows = pd.read_csv(ROOT / "mmlib" / "published" / "mathlang_overlap.csv").query(
        "group == 'global' and lang_a != lang_b"
    )
    k, jaccard = rows.keep_ratio, rows.intersection / rows.union
    effect = min((jaccard - k * (1 - k) / (k * k - k + 2)).min(), (2 / 3 - jaccard).min())
    ledger = tables["ledger"].set_index("id")
    assert ledger.published_effect["C1"] == pytest.approx(effect)
    assert set(ledger.index) == set(CLAIMS)


CHECKS = {
    "00_at_a_glance": check_at_a_glance,
    "01_problems": check_problems,
    "02_organism": check_organism,
    "03_math_weights": check_math_weights,
    "04_overlap": check_overlap,
    "05_cost": check_cost,
    "06_what_breaks": check_what_breaks,
    "07_all_or_few": check_all_or_few,
    "08_errors": check_errors,
    "09_ceilings": check_ceilings,
    "10_travel": check_travel,
    "11_precision": check_precision,
    "12_data": check_data,
    "13_format": check_format,
    "14_emergence": check_emergence,
    "15_neurons": check_neurons,
    "16_align": check_align,
    "17_moves": check_moves,
    "18_swap": check_swap,
    "19_layers": check_layers,
    "20_advice": check_advice,
}


def random_folder(parent, kind, real_data, *, layers):
    """A small checkpoint of random weights, with a tokenizer for the real text."""
    folder = parent / f"random-{kind}"
    shape = f"--layers {layers} --hidden-size 64 --heads 4 --kv-heads 2 --intermediate-size 128"
    options = ["--data-dir", str(real_data), "--architecture", kind, "--vocab-size", "2000"]
    assert main(["random-model", str(folder), *options, *shape.split()]) == 0
    return folder


def write_hub_files(folder):
    """Files of Orca-Math, Aya and MGSM8KInstruct in the layout of the hub's, with sums."""
    rows = {
        "orca-math": {
            "question": [f"{n} and {n}?" for n in range(12)],
            "answer": [f"{n} + {n} = {2 * n}" for n in range(12)],
        },
        "aya": {
            "inputs": [f"{text} {n}." for text in ("Andika", "Schreibe") for n in range(12)],
            "targets": [str(n) for n in range(12)] * 2,
            "language_code": ["swh"] * 12 + ["deu"] * 12,
        },
    }
    lines = [
        {
            "prompt": f"Answer in {name}.\n\n### Instruction:\n{n} + {n}?\n\n### Response:",
            "chosen": f"{2 * n} #### {2 * n}",
        }
        for n in range(20)
        for name in ("English", "German")
    ]
    (folder / "mgsm8kinstruct").mkdir()
    path = folder / "mgsm8kinstruct" / "MGSM8KInstruct_Parallel.json"
    path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    for task, columns in rows.items():
        (folder / task).mkdir()
        pd.DataFrame(columns).to_parquet(folder / task / "train-00000-of-00001.parquet")


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_chapter_06_runs_on_other_models_and_real_text(
    kind, borrowed, real_data, tmp_path, monkeypatch
):
    """By parameters alone: calibrate on GSM8K, edit, ask GSM8K with eight worked examples."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    folder = random_folder(tmp_path, kind, real_data, layers=2)
    conditions = ["math-specific", "random", "top-K math"]
    given = {
        "model": str(folder),
        "data_dir": str(real_data),
        "math": "gsm8k",
        "nonmath": "mmlu",
        "languages": ["de"],
        "seeds": [1],
        "num_samples": 8,
        "keep_ratios": [0.1],
        "conditions": conditions,
        "factors": [1.01],
        "edit_dtypes": ["bfloat16"],
        "tasks": ["gsm8k", "mmlu"],
        "parts": ["gsm8k", "mmlu"],
        "scale_parts": ["gsm8k"],
        "items": 2,
        "sweep": True,
    }
    notebook = runner.run(borrowed, "06_what_breaks", given)
    edits = pd.read_csv(notebook.parent / "edits.csv", dtype={"correct": str})
    assert (edits.correct.str.len() == 2).all()
    assert edits.value_counts(["part", "factor"]).to_dict() == {
        ("gsm8k", 0): 3,
        ("mmlu", 0): 3,
        ("gsm8k", 1): 1,
        ("mmlu", 1): 1,
        ("gsm8k", 1.01): 2,
    }
    sizes = edits[edits.factor == 0].groupby("condition").n_weights.first()
    assert sizes["top-K math"] == sum(int(n * 0.1) for n in matrices(folder))
    assert sizes["math-specific"] == sizes["random"] < sizes["top-K math"]


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_chapter_15_runs_on_other_models_and_real_text(
    kind, borrowed, real_data, tmp_path, monkeypatch
):
    """By parameters alone: firing on MGSM, and what each reading of the rule selects."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    folder = random_folder(tmp_path, kind, real_data, layers=4)
    given = {
        "model": str(folder),
        "data_dir": str(real_data),
        "task": "mgsm",
        "split": "heldout",
        "control_task": "",
        "other_task": "",
        "languages": ["en", "de", "sw"],
        "seeds": [1, 2],
        "num_questions": 12,
        "fewer": 6,
        "draws": 3,
    }
    notebook = runner.run(borrowed, "15_neurons", given)
    firing = pd.read_csv(notebook.parent / "firing.csv")
    assert len(firing) == 2 * 4 * 3
    assert firing.rate.between(0.3, 0.7).all()  # random gates are open half of the time
    readings = pd.read_csv(notebook.parent / "firing_selection.csv", dtype=TEXT)
    assert set(readings.text) == {"math", "fewer questions", "wrapped"}


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_chapter_16_runs_on_other_models_and_real_text(
    kind, borrowed, real_data, tmp_path, monkeypatch
):
    """By parameters alone: firing on MGSM, selection, a few steps on its translations, grading."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    folder = random_folder(tmp_path, kind, real_data, layers=4)
    given = {
        "model": str(folder),
        "data_dir": str(real_data),
        "task": "mgsm",
        "split": "heldout",
        "pair_source": "mgsm",
        "pair_kinds": ["question"],
        "pair_split": "heldout",
        "languages": ["en", "de", "sw"],
        "shares": [3.0, 1.0],
        "systems": ["SLAM"],
        "ablations": [],
        "seeds": [1],
        "steps": 5,
        "train_batch": 2,
        "num_questions": 20,
        "peak": 3,
        "tasks": ["mgsm"],
        "parts": ["mgsm"],
        "items": 2,
        "shown": 12,
        "maps": [1],
        "sweep": True,
    }
    notebook = runner.run(borrowed, "16_align", given)
    costs = pd.read_csv(notebook.parent / "system_costs.csv")
    assert costs.trained.item() in (2 * 64 * 128, 2 * 2 * 64 * 128)  # one or two of three layers
    log = pd.read_csv(notebook.parent / "system_log.csv")
    assert log[log.step == 5].heldout_loss.item() < log[log.step == 0].heldout_loss.item()
    answers = pd.read_csv(notebook.parent / "system_answers.csv", dtype=TEXT)
    assert set(answers.lang) == {"en", "de", "sw"}
    assert (answers.correct.str.len() == 2).all()


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_17_compares_any_checkpoints_with_their_base(borrowed, tmp_path, monkeypatch):
    """By parameters alone: a local folder with another last layer, beside a shipped expert."""
    import torch

    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    model, tokenizer = load_model("organism-base", dtype="float32")
    with torch.no_grad():
        model.model.layers[7].mlp.down_proj.weight += 0.25
    model.save_pretrained(tmp_path / "other")
    tokenizer.save_pretrained(tmp_path / "other")
    given = {"experts": [str(tmp_path / "other"), "organism-base-sw"], "roles": []}
    notebook = runner.run(borrowed, "17_moves", given)
    outer = pd.read_csv(notebook.parent / "expert_outer.csv").set_index("role").share
    assert outer["other"] == pytest.approx(1.0)  # all of it in the last layer
    profile = pd.read_csv(notebook.parent / "expert_profile.csv").set_index(["role", "layer"]).times
    assert profile["other", 7] == pytest.approx(8.0)


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_17_trains_on_published_data_sets(borrowed, real_data, tmp_path, monkeypatch):
    """Orca-Math and Aya in the layout of the hub's files, a base of random weights."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    write_hub_files(tmp_path)
    given = {"model": str(random_folder(tmp_path, "qwen3", real_data, layers=4))}
    given |= {"sweep": True, "data_dir": str(tmp_path), "experts": [], "roles": ["math", "sw"]}
    given |= {"math_tasks": ["orca-math"], "language_tasks": ["aya"], "seeds": [1, 2], "steps": 5}
    given |= {"train_batch": 2, "heldout": 2, "learning_rate": 0.001, "embeddings": True}
    given |= {"experts_dir": str(tmp_path / "experts")}
    notebook = runner.run(borrowed, "17_moves", given)
    log = pd.read_csv(notebook.parent / "expert_log.csv").dropna(subset="heldout_loss")
    ends = log.pivot(index=["role", "seed"], columns="step", values="heldout_loss")
    assert (ends[5] < ends[0]).all()
    updates = pd.read_csv(notebook.parent / "expert_updates.csv")
    assert (updates[updates.tensor.str.contains("embed")].absolute > 0).all()


def noisy_experts(base):
    """Two copies of a checkpoint beside it, all of whose weights have moved; as parameters."""
    import torch

    paths = {}
    for seed, name in enumerate(("math_expert", "language_expert")):
        model, tokenizer = load_model(str(base), dtype="float32")
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.01 * torch.randn_like(parameter)
        paths[name] = str(base.with_name(name))
        model.save_pretrained(paths[name])
        tokenizer.save_pretrained(paths[name])
    return paths


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_18_swaps_two_local_checkpoints(borrowed, real_data, tmp_path, monkeypatch):
    """By parameters alone: random weights in hub layout, asked MGSM with eight worked examples."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    base = random_folder(tmp_path, "llama", real_data, layers=4)
    given = {"model": str(base), "languages": [], "target": "sw", "tasks": ["mgsm"], "parts": []}
    given |= noisy_experts(base)
    given |= {"skill_tasks": [], "ask_dir": str(real_data), "audit_items": 1}
    given["audited"] = ["base", "math expert", "language expert", "swap", "revert", "TIES"]
    notebook = runner.run(borrowed, "18_swap", given)
    swap = pd.read_csv(notebook.parent / "swap.csv")
    assert set(zip(swap.part, swap.lang, strict=True)) == {("mgsm", "sw")}
    assert set(swap.system) == set(given["audited"])
    assert swap.accuracy.isin([0.0, 1.0]).all()


@pytest.mark.notebook
@pytest.mark.slow
def test_chapter_18_trains_on_published_data_sets(borrowed, real_data, tmp_path, monkeypatch):
    """Orca-Math and Aya from a folder, a base in hub layout, MGSM to be solved."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    write_hub_files(tmp_path)
    base = random_folder(tmp_path, "qwen3", real_data, layers=4)
    given = {"model": str(base), "sweep": True, "languages": ["sw"], "seeds": [1], "joint": False}
    given |= {"math_expert": str(base), "language_expert": str(base), "target": "sw"}
    given |= {"math_tasks": ["orca-math"], "language_tasks": ["aya"], "data_dir": str(tmp_path)}
    given |= {"steps": 5, "train_batch": 2, "heldout": 2, "learning_rate": 0.001}
    given |= {"experts_dir": str(tmp_path / "experts"), "embeddings": True, "items": 2}
    given |= {"tasks": ["mgsm"], "parts": [], "skill_tasks": [], "ask_dir": str(real_data)}
    given |= {"audit_items": 1, "merge": ["base", "math expert", "language expert", "swap"]}
    notebook = runner.run(borrowed, "18_swap", given)
    answers = pd.read_csv(notebook.parent / "swap_answers.csv", dtype=TEXT)
    assert set(answers.system) == {"base", "math expert", "language expert", "swap"}
    assert set(answers.lang) == {"en", "sw"}
    assert (answers.correct.str.len() == 2).all()
    assert len(list((tmp_path / "experts").glob("*/model.safetensors"))) == 2


@pytest.mark.notebook
@pytest.mark.slow
def test_chapters_19_and_20_on_local_checkpoints(borrowed, real_data, tmp_path, monkeypatch):
    """Sets from GSM8K and MMLU, experts of Orca-Math and Aya; the advice is asked MGSM."""
    monkeypatch.setenv("MMLIB_CACHE", str(tmp_path / "cache"))
    write_hub_files(tmp_path)
    base = random_folder(tmp_path, "qwen3", real_data, layers=4)
    given = {"model": str(base), "sweep": True, "languages": ["en", "de"], "targets": ["de"]}
    given |= {"math": "gsm8k", "nonmath": "mmlu", "data_dir": str(real_data), "num_samples": 4}
    given |= {"seeds": [1, 2], "samples": [1, 2], "steps": 5, "train_batch": 2, "heldout": 2}
    given["train_dir"] = str(tmp_path)
    layers = noisy_experts(base) | {"target": "de", "items": 2}
    layers |= {"math_tasks": ["orca-math"], "language_tasks": ["aya"]}
    layers |= {"split": "calibration", "num_questions": 4, "prune_ratio": 0.1, "keep_ratio": 0.3}
    layers["experts_dir"] = str(tmp_path / "experts")
    notebook = runner.run(borrowed, "19_layers", given | layers)
    measured = pd.read_csv(notebook.parent / "layer_yardsticks.csv")
    assert set(measured.layer) == {0, 1, 2, 3}
    assert set(measured.lang) == {"de"}
    assert np.isfinite(measured.loss).all()
    views = pd.read_csv(notebook.parent / "layer_views.csv")
    assert (views[views["view"].str.contains("update")].value > 0).all()
    advice = {"train_tasks": ["mgsm8kinstruct"]}
    advice |= {"tasks": ["mgsm"], "parts": [], "items": 1, "draws": 1, "layer_rates": [0.001]}
    advice |= {"weight_rates": [0.003], "form_steps": 5, "form_items": 2, "keep_ratios": [0.1]}
    advice |= {"keep_ratio": 0.3, "audit_items": 1, "seeds": [1], "samples": [1]}
    advice["runs_dir"] = str(tmp_path / "advice")
    notebook = runner.run(borrowed, "20_advice", given | advice)
    answers = pd.read_csv(notebook.parent / "advice_answers.csv", dtype=TEXT)
    assert set(answers.part) == {"mgsm"}
    assert set(answers[answers.study == "weights"].system) == {"own", "shared", "random 1"}
    forms = pd.read_csv(notebook.parent / "advice_forms.csv")
    assert (forms.n == 2).all()
