"""What a grid promises: every combination once, resumed, and no failure stops another run."""

import json

import pytest
import yaml
from test_runner import edit, executed, fresh, make_checkout, project  # noqa: F401

from mmlib.__main__ import main
from mmlib.book import grid
from mmlib.book.chapters import ChapterError, Project, resolve


@pytest.fixture
def path(project):  # noqa: F811
    path = project.root / "grid.yml"
    text = {
        "chapter": "01_toy",
        "parameters": {"include_head": True},
        "vary": {"seed": [2, 3], "languages": [["en"], ["de", "no"]]},
    }
    path.write_text(yaml.safe_dump(text, sort_keys=False))
    return path


def seeds(runs):
    return [int(table.read_text().split()[1]) // 2 for table in grid.tables(runs, "toy")]


def test_every_combination_is_a_run_with_its_parameters(project, path):  # noqa: F811
    runs = grid.read(project, path)
    assert [(r.given["seed"], r.given["languages"]) for r in runs] == [
        (2, ["en"]),
        (2, ["de", "no"]),
        (3, ["en"]),
        (3, ["de", "no"]),
    ]
    assert all(run.given["include_head"] for run in runs)
    assert len({run.plan.id for run in runs}) == 4
    assert all(run.plan.reasons for run in runs)


def test_a_grid_runs_once_and_again_only_what_is_missing(project, path, capfd):  # noqa: F811
    assert grid.execute(project, grid.read(project, path), workers=2) == []
    runs = grid.read(project, path)
    assert seeds(runs) == [2, 2, 3, 3]
    (runs[1].plan.tables / "toy.csv").unlink()
    capfd.readouterr()
    assert main(["--root", str(project.root), "grid", str(path)]) == 0
    out = capfd.readouterr().out
    assert out.count("up to date") == 3
    assert out.count("done in") == 1
    assert seeds(grid.read(project, path)) == [2, 2, 3, 3]


def test_a_failed_run_is_told_and_the_others_go_on(project, path, capfd):  # noqa: F811
    notebook = project.source("01_toy")
    edit(notebook, "assert not", "assert seed != 2 and not")
    broken = Project(project.root)
    failed = grid.execute(broken, grid.read(broken, path), workers=2)
    assert [run.given["seed"] for run in failed] == [2, 2]
    out = capfd.readouterr().out
    assert out.count("FAILED") == out.count("failed: ") == 2
    assert "[4/4]" in out
    assert "2 failed" in out
    done = [run for run in grid.read(broken, path) if run not in failed and not run.plan.reasons]
    assert [run.given["seed"] for run in done] == [3, 3]


def test_tables_of_stale_runs_are_not_given(project, path):  # noqa: F811
    grid.execute(project, grid.read(project, path), workers=2)
    edit(project.source("01_toy"), "assert not", "assert 1 and not")
    stale = Project(project.root)
    with pytest.raises(ChapterError, match="run the grid first"):
        grid.tables(grid.read(stale, path), "toy")


def test_dry_run_and_tables_execute_nothing(project, path, capfd):  # noqa: F811
    assert main(["--root", str(project.root), "grid", str(path), "--dry-run"]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 4
    assert main(["--root", str(project.root), "grid", str(path), "--tables", "toy"]) == 2
    assert "run the grid first" in capfd.readouterr().err


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
    ],
)
def test_a_wrong_grid_is_refused_before_anything_runs(fresh, text, message):  # noqa: F811
    path = fresh.root / "grid.yml"
    path.write_text(text)
    with pytest.raises(ChapterError, match=message):
        grid.read(fresh, path)


def test_the_command_of_a_run_is_one_that_can_be_typed(project, path):  # noqa: F811
    command = grid.read(project, path)[1].command()
    given = dict(part.split("=", 1) for part in command if "=" in part)
    assert json.loads(given["languages"]) == ["de", "no"]
    assert command[command.index("run") + 1] == "01_toy"


def test_a_text_reaches_its_run_as_it_is(project, tmp_path):  # noqa: F811
    path = tmp_path / "grid.yml"
    path.write_text("chapter: 01_toy\nvary: {model: [a name, other]}\n")
    for run, name in zip(grid.read(project, path), ("a name", "other"), strict=True):
        given = dict(part.split("=", 1) for part in run.command() if "=" in part)
        assert given == {"model": name}
        values, _ = resolve(project, "01_toy", given)
        assert values["model"] == name
