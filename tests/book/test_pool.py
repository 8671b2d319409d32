"""Jobs side by side: each after what it reads from, and a failure stops only its readers."""

import json
import sys

import pytest
import yaml

from mmlib.book import pool
from mmlib.book.chapters import Project, sources


class Stamp(pool.Job):
    """A job that writes when it began and ended, unless a file `fail-ID` is there."""

    def words(self, root):
        code = (
            "import pathlib, sys, time; begun = time.time(); time.sleep(0.1); "
            f"failed = pathlib.Path('fail-{self.id}').exists(); "
            f"pathlib.Path('{self.id}').write_text(f'{{begun}} {{time.time()}}'); "
            "print('so much'); sys.exit(failed)"
        )
        return [sys.executable, "-c", code]


JOBS = [Stamp("last", [], ("c", "b")), Stamp("c", [], ("a",)), Stamp("a", []), Stamp("b", [])]


def times(root):
    return {j.id: [float(t) for t in (root / j.id).read_text().split()] for j in JOBS}


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_job_begins_when_what_it_reads_is_written(tmp_path, workers):
    assert pool.run(tmp_path, JOBS, workers=workers) == []
    at = times(tmp_path)
    assert all(at[job.id][0] > at[other][1] for job in JOBS for other in job.after)
    begun = [sum(b <= t < e for b, e in at.values()) for t, _ in at.values()]
    assert max(begun) <= workers


def test_two_processes_run_at_once(tmp_path):
    pool.run(tmp_path, [Stamp("a", []), Stamp("b", [])], workers=2)
    (a0, a1), (b0, b1) = ([float(t) for t in (tmp_path / n).read_text().split()] for n in "ab")
    assert max(a0, b0) < min(a1, b1)


def test_a_failure_stops_its_readers_only(tmp_path, capsys):
    (tmp_path / "fail-a").touch()
    assert sorted(pool.run(tmp_path, JOBS, workers=2)) == ["a", "c", "last"]
    assert (tmp_path / "b").exists()
    assert not (tmp_path / "c").exists()
    out = capsys.readouterr().out
    assert "c: not started, it reads from a" in out
    assert "so much" in out


def test_fewer_than_one_worker_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--workers is 0"):
        pool.run(tmp_path, JOBS, workers=0)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_chapter_waits_for_those_that_write_what_it_reads(tmp_path, recorded):

    for folder in ("notebooks", "book/chapters"):
        (tmp_path / folder).mkdir(parents=True)
    about = {"title": "?", "budget_s": 1}
    chapters = {
        "a": about,
        "b": about,
        "c": about | {"reads": ["results/sizes", "published/claims"]},
        "d": about,
    }
    (tmp_path / "notebooks/chapters.yml").write_text(yaml.safe_dump(chapters, sort_keys=False))
    for name in chapters if recorded else ():
        tables = {"sizes.csv": "0"} if name == "b" else {}
        ran = {"cells": [], "metadata": {"mmlib": {"tables": tables}}}
        (tmp_path / f"book/chapters/{name}.ipynb").write_text(json.dumps(ran))
    project = Project(tmp_path)
    # Whichever were never executed may write it.
    assert sources(project, "c") == (["b"] if recorded else ["a", "b"])
    assert sources(project, "a") == sources(project, "d") == []
