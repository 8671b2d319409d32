"""A sweep is started by us or by Snakemake, and either goes on where the other was stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import edit, toy_runs, wait_until

from mmlib.__main__ import main
from mmlib.book import sweep

SNAKEFILE = Path(sweep.__file__).with_name("Snakefile")
needs_snakemake = pytest.mark.skipif(
    not shutil.which("snakemake"),
    reason="Snakemake 9 is not on the PATH (an environment of its own)",
)


def listed(root, capfd, *names):
    capfd.readouterr()
    assert main(["--root", str(root), "sweep", *names, "--list"]) == 0
    return json.loads(capfd.readouterr().out)


def test_what_is_left_is_listed_with_what_goes_first(grids, capfd):
    runs = {name: [run.id for run in toy_runs(grids, name)] for name in ("toy", "more")}
    assert listed(grids.root, capfd, "toy") == {
        **{name: [] for name in runs["more"]},
        "more": runs["more"],
        **{name: [] for name in runs["toy"]},
        "toy": ["more", *runs["toy"]],
    }


def test_a_job_is_done_alone_and_once(grids, capfd):
    first, second = (run.id for run in toy_runs(grids))
    job = ["--root", str(grids.root), "sweep", "toy", "--job"]
    assert main([*job, second]) == 0
    assert [run.id for run in toy_runs(grids) if run.reasons] == [first]
    assert (grids.runs / "logs" / f"{second}.log").is_file()
    assert second not in listed(grids.root, capfd, "toy")
    assert main([*job, second]) == 0
    assert capfd.readouterr().out == f"{second}: nothing to do\n"
    assert main([*job, "toy-1"]) == 2
    assert "no job 'toy-1'" in capfd.readouterr().err
    (grids.root / "fail").touch()
    assert main([*job, first]) == 1


def test_the_job_of_a_grid_keeps_its_tables(grids, monkeypatch):
    import mmlib.study.evidence as evidence

    kept = []
    monkeypatch.setattr(evidence, "keep_evidence", lambda name, *_, **__: kept.append(name))
    monkeypatch.setattr(sweep, "filling", lambda *_: {"doubles": []})
    monkeypatch.setattr(sweep.pool, "run", lambda *_, **__: [])
    assert main(["--root", str(grids.root), "sweep", "toy", "--job", "toy"]) == 0
    assert kept == ["doubles"]


def test_models_go_first(fresh):
    path = fresh.root / "models.yml"
    text = "models: {runs/a: {recipe: r}}\nchapter: 01_toy\nvary: {seed: [2]}\nafter: [b]\n"
    path.write_text(text)
    (fresh.root / "b.yml").write_text("models: {runs/b: {recipe: r}}\n")
    grids = sweep.order(fresh, [str(path)])
    (run,) = sweep.runs(fresh, grids[-1])
    assert {job.id: job.after for job in sweep.jobs(fresh, grids)} == {
        "runs-b": [],
        "b": ["runs-b"],
        "runs-a": ["b"],
        run.id: ["b", "runs-a"],
        "models": ["b", "runs-a", run.id],
    }


def snakemake(root, **options):
    """Start the sweep `wide` by Snakemake, in a group of processes of its own."""
    command = ["snakemake", "-s", SNAKEFILE, "--cores", "1", "--keep-going", "--nolock"]
    command += ["--config", "sweep=wide", f"python={sys.executable}"]
    how = {"cwd": root, "start_new_session": True, "text": True}
    return subprocess.Popen(command, stdout=-1, stderr=subprocess.STDOUT, **how, **options)


def ended(process):
    told = process.communicate(timeout=300)[0]
    return process.returncode, told


def fresh_seeds(project):
    return [run.given["seed"] for run in toy_runs(project, "wide") if not run.reasons]


@needs_snakemake
def test_either_engine_goes_on_where_the_other_failed_or_was_killed(grids, capfd):
    root = grids.root
    edit(grids.source("01_toy"), "assert not", "assert seed != 3 or not")
    (root / "fail").touch()
    code, told = ended(snakemake(root))
    assert code == 1, told
    assert fresh_seeds(grids) == [2, 2]
    (root / "fail").unlink()

    (root / "stay").touch()
    (root / "kernel.pid").unlink()
    process = snakemake(root)
    wait_until((root / "kernel.pid").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    os.kill(int((root / "kernel.pid").read_text()), signal.SIGKILL)  # a session of its own
    assert fresh_seeds(grids) == [2, 2]
    (root / "stay").unlink()

    third = next(run for run in toy_runs(grids, "wide") if run.reasons)
    assert main(["--root", str(root), "sweep", "wide", "--job", third.id]) == 0
    # What Snakemake has made once, and saw end, may be stale.
    (next(r for r in toy_runs(grids, "wide") if not r.reasons).tables / "toy.csv").unlink()
    before = {
        run.id: (run.tables / "toy.csv").stat().st_mtime_ns
        for run in toy_runs(grids, "wide")
        if not run.reasons
    }
    assert len(before) == 2
    code, told = ended(snakemake(root))
    assert code == 0, told
    runs = toy_runs(grids, "wide")
    assert not any(run.reasons for run in runs)
    assert {i: (grids.runs / i / "toy.csv").stat().st_mtime_ns for i in before} == before
    assert list(listed(root, capfd, "wide")) == ["wide"]
    capfd.readouterr()
    assert main(["--root", str(root), "sweep", "wide"]) == 0
    assert capfd.readouterr().out.count("up to date") == 4
