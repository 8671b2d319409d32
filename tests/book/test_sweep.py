"""What a sweep promises: every combination once, resumed, and evidence only of complete runs."""

import json

import pytest
from checkouts import edit, toy_runs

from mmlib.__main__ import main
from mmlib.book import sweep
from mmlib.book.chapters import ChapterError, Project, resolve


def seeds(runs):
    return [int(table.read_text().split()[1]) // 2 for table in sweep.tables(runs, "toy")]


def test_every_combination_is_a_run_with_its_parameters(grids):
    runs = toy_runs(grids, "wide")
    assert [(r.given["seed"], r.given["languages"]) for r in runs] == [
        (2, ["en"]),
        (2, ["de", "no"]),
        (3, ["en"]),
        (3, ["de", "no"]),
    ]
    assert all(run.given["include_head"] for run in runs)
    assert len({run.id for run in runs}) == 4
    assert all(run.reasons for run in runs)


def test_a_grid_runs_once_and_again_only_what_is_missing(grids, capfd):
    sweep.execute(grids, sweep.find(grids, "toy"), workers=2)
    runs = toy_runs(grids)
    assert seeds(runs) == [2, 3]
    (runs[1].tables / "toy.csv").unlink()
    with pytest.raises(ChapterError, match=rf"{runs[1].id} has no table .*run the sweep first"):
        sweep.filling(grids, sweep.find(grids, "toy"), sweep.order(grids, ["toy"]))
    capfd.readouterr()
    sweep.execute(Project(grids.root), sweep.find(grids, "toy"))
    out = capfd.readouterr().out
    assert out.count("up to date") == 1
    assert out.count("done in") == 1
    assert seeds(toy_runs(grids)) == [2, 3]


def test_a_failed_run_is_named_and_nothing_is_kept(grids, capfd):
    evidence = grids.places["evidence"]
    evidence.mkdir()
    (evidence / "doubles.csv").write_text("value\n1\n")
    edit(grids.source("01_toy"), "assert not", "assert seed != 3 and not")
    assert main(["--root", str(grids.root), "sweep", "toy", "--workers", "2"]) == 2
    told = capfd.readouterr()
    broken = [run for run in toy_runs(grids) if run.given["seed"] == 3]
    assert all(run.id in told.err for run in broken)
    assert "nothing of it is kept" in told.err
    assert [path.name for path in evidence.iterdir()] == ["doubles.csv"]
    assert (evidence / "doubles.csv").read_text() == "value\n1\n"
    done = [run for run in toy_runs(grids) if not run.reasons]
    assert [run.given["seed"] for run in done] == [2]  # the other was not stopped


def test_tables_of_several_grids_become_one_evidence_table(grids, monkeypatch, capfd):
    import mmlib.study.evidence as evidence

    kept = {}
    monkeypatch.setattr(
        evidence,
        "keep_evidence",
        lambda name, paths, *, where, folder: kept.update({name: (paths, where, folder)}),
    )
    assert main(["--root", str(grids.root), "sweep", "toy", "--workers", "2"]) == 0
    paths, where, folder = kept["doubles"]
    assert [path.read_text().split()[1] for path in paths] == ["4", "6", "10"]
    assert (where, folder) == ("value > 2", grids.places["evidence"])
    # A table that its own runs fill cannot make them stale.
    edit(grids.root / "notebooks/chapters.yml", "published/facts", "evidence/doubles")
    assert all("evidence/doubles" not in str(run.reasons) for run in toy_runs(grids))


def test_dry_run_and_tables_execute_nothing(grids, capfd):
    root = ["--root", str(grids.root), "sweep"]
    assert main([*root, "toy", "--dry-run"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 3
    assert main([*root, "toy", "--tables", "toy"]) == 2
    assert "run the sweep first" in capfd.readouterr().err
    assert main([*root]) == main([*root, "toy", "--all"]) == 2
    assert main([*root, "toi"]) == 2
    assert "no grid 'toi'" in capfd.readouterr().err


def test_another_value_of_what_a_grid_fixes(grids):
    (grid,) = sweep.given([sweep.find(grids, "toy")], {"include_head": "false"})
    assert not any(run.given["include_head"] for run in sweep.runs(grids, grid))
    with pytest.raises(ChapterError, match="no grid fixes 'seed'"):
        sweep.given([grid], {"seed": "7"})


def test_a_grid_goes_after_what_it_names(fresh):
    folder = fresh.root / sweep.FOLDER
    folder.mkdir(parents=True)
    for name, after in {"a": "[c]", "b": "[]", "c": "[b]", "d": "[d]"}.items():
        (folder / f"{name}.yml").write_text(f"chapter: 01_toy\nafter: {after}\n")
    assert [grid.name for grid in sweep.order(fresh, ["a", "b"])] == ["b", "c", "a"]
    with pytest.raises(ChapterError, match="comes after itself"):
        sweep.order(fresh, ["d"])


def test_models_are_made_first_and_once(fresh, monkeypatch, capfd):
    path = fresh.root / "models.yml"
    path.write_text(
        "models:\n  runs/a: {recipe: r, seeds: [1, 2], items: 5, snapshots: [0, 7], parameters: "
        "&p {x: 1}}\n  runs/b: {recipe: r, parameters: {<<: *p, y: 2}}\n"
        "  runs/c: {architecture: llama}\nchapter: 01_toy\n"
        "parameters: {model: runs/b}\n"
    )
    (fresh.root / "runs/a-1").mkdir(parents=True)
    (fresh.root / "runs/a-1/config.json").touch()
    made = []
    monkeypatch.setattr(sweep.pool, "run", lambda root, jobs, **_: made.append(jobs) or [])
    sweep.execute(fresh, sweep.find(fresh, str(path)))
    first, then = ([" ".join(job.command) for job in jobs] for jobs in made)
    assert first == [
        "train r --out runs/a-2 -p x=1 -p seed=2 -p mix.seed=2 --items 5 --snapshots 0 7",
        "train r --out runs/b -p x=1 -p y=2",
        "random-model runs/c --architecture llama --data-dir .",
    ]
    assert then == ["run 01_toy -p model=runs/b --wait"]
    made.clear()
    monkeypatch.setattr(sweep.pool, "run", lambda root, jobs, **_: made.append(jobs) or ["runs-b"])
    with pytest.raises(ChapterError, match="runs-b failed"):
        sweep.execute(fresh, sweep.find(fresh, str(path)))
    assert len(made) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "is no grid"),
        ("chapter: 01_toy\nvari: {}", "has to have the key chapter"),
        ("vary: {seed: [1]}", "has to have the key chapter"),
        ("chapter: 01_toy\nvary: {seed: 3}", "vary.seed has to be a list"),
        ("chapter: 01_toi", "no chapter '01_toi'"),
        ("chapter: 01_toy\nvary: {sead: [1]}", "no parameter 'sead'"),
        ("chapter: 01_toy\nvary: {seed: [1.5]}", "seed of 01_toy expects int"),
        ("chapter: 01_toy\nvary: {seed: [2, 2]}", "two runs with the same"),
        ("chapter: 01_toy", "replace the published edition"),
        ("a: [", "is no grid"),
        ("chapter: [01_toy]", "has to have the key chapter"),
        ("chapter: 01_toy\nvary: {seed: []}", "vary.seed has to be a list"),
        ("chapter: 01_toy\nvary: [seed]", "vary has to be a mapping"),
        ("chapter: 01_toy\nparameters: [seed]", "parameters has to be a mapping"),
        (
            "chapter: 01_toy\nparameters: {seed: 1}\nvary: {seed: [2]}",
            "seed is given in parameters",
        ),
        ("models: {a: {}}", "models.a has to have the key recipe"),
        ("chapter: 01_toy\nfills: {a: {tabel: b}}", "is no grid"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(fresh, text, message):
    path = fresh.root / "grid.yml"
    path.write_text(text)
    with pytest.raises(ChapterError, match=message):
        sweep.runs(fresh, sweep.find(fresh, str(path)))


def test_the_command_of_a_run_is_one_that_can_be_typed(grids):
    command = toy_runs(grids, "wide")[1].command()
    chosen = dict(part.split("=", 1) for part in command if "=" in part)
    assert json.loads(chosen["languages"]) == ["de", "no"]
    assert command[command.index("run") + 1] == "01_toy"


def test_a_text_reaches_its_run_as_it_is(project, tmp_path):
    path = tmp_path / "grid.yml"
    path.write_text("chapter: 01_toy\nvary: {model: [a name, other]}\n")
    runs = sweep.runs(project, sweep.find(project, str(path)))
    for run, name in zip(runs, ("a name", "other"), strict=True):
        chosen = dict(part.split("=", 1) for part in run.command() if "=" in part)
        assert chosen == {"model": name}
        values, _ = resolve(project, "01_toy", chosen)
        assert values["model"] == name
