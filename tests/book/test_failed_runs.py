"""Runs that fail, are killed or wait for each other, and the command line that starts them."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
from checkouts import edit, published, reasons, wait_until
from filelock import FileLock

from mmlib.__main__ import main
from mmlib.book import runner
from mmlib.book.chapters import (
    ChapterError,
    run_record,
)


def test_a_failing_cell_changes_nothing_and_is_explained(project, capsys):
    (project.root / "fail").touch()
    before = published(project)
    assert main(["--root", str(project.root), "run", "01_toy", "--force"]) == 1
    assert published(project) == before
    message = capsys.readouterr().err
    assert "failed in cell 5" in message
    assert "AssertionError: told to" in message
    kept = project.runs / "failed" / "01_toy"
    assert str(kept / "01_toy.ipynb") in message
    assert str(project.root) not in (kept / "01_toy.ipynb").read_text()
    assert not list((project.runs / ".partial").iterdir())


def test_runs_started_at_the_same_moment_do_not_share_a_kernel(fresh):
    """With default sockets, two kernels in one folder read each other's messages."""
    command = [sys.executable, "-m", "mmlib", "--root", str(fresh.root), "run", "02_other"]
    runs = [subprocess.Popen([*command, "-p", f"x={x}"], stderr=subprocess.PIPE) for x in (2, 3)]
    said = [process.communicate()[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 0]
    assert not any(b"Invalid Signature" in text for text in said)
    made = [run_record(p)["parameters"] for p in fresh.runs.glob("02_other-*/02_other.ipynb")]
    assert sorted(values["x"] for values in made) == [2, 3]


def start(project):
    """Run the first chapter in another process, up to the cell that stays."""
    (project.root / "stay").touch()
    (project.root / "kernel.pid").unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "mmlib",
        "--root",
        str(project.root),
        "run",
        "01_toy",
        "--force",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    wait_until((project.root / "kernel.pid").exists)
    return process


def is_running(pid):
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_a_killed_run_leaves_nothing_and_the_next_one_is_clean(project):
    edit(project.root / "mmlib/deep.py", "2", "3")
    before = published(project)
    process = start(project)
    assert published(project) == before
    with pytest.raises(ChapterError, match=f"by process {process.pid}"):
        runner.run(project, "01_toy", force=True)
    process.kill()
    process.communicate()
    assert published(project) == before
    assert reasons(project) == ["code changed: deep"]
    kernel = int((project.root / "kernel.pid").read_text())
    wait_until(lambda: not is_running(kernel))

    (project.root / "stay").unlink()
    assert list((project.runs / ".partial").iterdir())
    runner.run(project, "01_toy")
    assert not list((project.runs / ".partial").iterdir())
    assert (project.places["results"] / "toy.csv").read_text() == "value\n3\n"
    assert reasons(project) == []


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks processes up in /proc")
def test_a_stopped_run_cleans_up_itself(project):
    before = published(project)
    process = start(project)
    process.send_signal(signal.SIGTERM)
    _, message = process.communicate(timeout=60)
    assert process.returncode == 130
    # The kernel may protest before and after.
    assert b"mmlib: stopped; nothing in book/ was changed" in message.splitlines()
    assert published(project) == before
    assert not list((project.runs / ".partial").iterdir())
    wait_until(lambda: not is_running(int((project.root / "kernel.pid").read_text())))


KEEP = """\
kept = pathlib.Path(os.environ['MMLIB_KEPT'])
kept.mkdir(parents=True, exist_ok=True)
made = (kept / 'long').exists()
_ = (kept / 'long').write_text('x'), (out / 'toy.csv').write_text(f'value\\n{made}\\n')"""


def test_what_a_failed_run_has_kept_is_there_for_the_next_one_alike(project):
    notebook = nbformat.read(project.source("01_toy"), as_version=4)
    notebook.cells[3].source += "\n" + KEEP
    nbformat.write(notebook, project.source("01_toy"))
    (project.root / "fail").touch()
    for given in ({}, {"seed": 2}):
        with pytest.raises(runner.ChapterFailedError):
            runner.run(project, "01_toy", given)
    assert len(list((project.runs / ".kept").rglob("long"))) == 2
    edit(project.root / "mmlib/deep.py", "2", "3")
    with pytest.raises(runner.ChapterFailedError):
        runner.run(project, "01_toy")  # other code keeps its own
    assert len(list((project.runs / ".kept").rglob("long"))) == 3
    (project.root / "fail").unlink()
    runner.run(project, "01_toy")
    assert (project.places["results"] / "toy.csv").read_text() == "value\nTrue\n"
    left = [path.relative_to(project.runs).parts[1] for path in project.runs.rglob("long")]
    assert [name[:7] for name in left] == ["01_toy-"]  # of the run that did not end well


def test_a_run_that_waits_takes_what_the_other_process_makes(project, capsys):
    edit(project.root / "mmlib/deep.py", "2", "3")
    with start(project) as process, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(runner.run, project, "01_toy", wait=True)
        wait_until(lambda: "waiting for it" in capsys.readouterr().out)
        (project.root / "stay").unlink()
        assert process.wait(60) == 0
        made = (project.places["results"] / "toy.csv").stat().st_mtime
        assert waiting.result(60) == project.executed("01_toy")
    assert "another process has made it" in capsys.readouterr().out
    assert (project.places["results"] / "toy.csv").stat().st_mtime == made


def test_a_table_that_is_no_longer_written_goes(project):
    write = "_ = (out / 'toy.csv')"
    edit(project.source("01_toy"), write, write.replace("toy", "renamed"))
    runner.run(project, "01_toy")
    assert [path.name for path in project.places["results"].iterdir()] == ["renamed.csv"]


def test_a_lock_left_by_a_dead_process_does_not_hold(project):
    lock = project.runs / ".locks" / "02_other"
    lock.write_text("99999999")
    with FileLock(lock), pytest.raises(ChapterError, match="process 99999999"):
        runner.run(project, "02_other")
    runner.run(project, "02_other")
    assert lock.read_text() == str(os.getpid())


def test_list_and_status_and_stale(project, capsys):
    call = ["--root", str(project.root)]
    assert main([*call, "list"]) == 0
    assert "A question?" in capsys.readouterr().out
    assert main([*call, "list", "01_toy"]) == 0
    assert "keep_ratios: list[float] = [0.1, 0.2]" in capsys.readouterr().out
    assert main([*call, "status"]) == 1
    assert "02_other             - (budget 60 s): never run" in capsys.readouterr().out
    assert main([*call, "run", "--stale"]) == 0
    output = capsys.readouterr().out
    assert "[1/2] 01_toy: up to date" in output
    assert "[2/2] 02_other: done in" in output
    assert main([*call, "status"]) == 0


@pytest.mark.parametrize("arguments", [["run"], ["run", "--all", "01_toy"], ["run", "03"]])
def test_unclear_requests_are_refused(executed, capsys, arguments):
    assert main(["--root", str(executed.root), *arguments]) == 2
    assert capsys.readouterr().err.startswith("mmlib: ")


def test_a_folder_without_chapters_is_named(tmp_path, capsys):
    assert main(["--root", str(tmp_path), "list"]) == 2
    assert "chapters.yml is missing" in capsys.readouterr().err
