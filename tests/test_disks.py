"""A full disk, one that may only be read, two writers at once and a clock that jumps."""

import os
import subprocess
import time
from pathlib import Path

import faults
import pytest
from checkouts import reasons
from test_kills import contents, hidden, readable

from mmlib.book import runner
from mmlib.files import load_tensors, replacing, save_tensors
from mmlib.organism.training import _held
from mmlib.study.tables import RunInfo

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs Linux")
WORK = [faults.saves, faults.calibration]


@pytest.fixture(scope="module", autouse=True)
def server():
    faults.start_server()


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own; mounting one is for root."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24k", "none", str(place)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no disk may be mounted here; a limit on the size of files stands for it")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def remount(disk, how):
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


@pytest.mark.parametrize("work", WORK)
def test_a_full_disk_is_told_and_leaves_nothing_half(work, disk, tmp_path):
    (disk / "work").mkdir()
    place = tmp_path / "link"  # what is told of it lies beside it
    place.symlink_to(disk / "work")
    (disk / "filler").write_bytes(bytes(16 * 1024))
    assert not faults.done(work, place)
    assert "No space left on device" in faults.told_by(place).read_text()
    readable(place)
    remount(disk, "size=4m")
    assert faults.done(work, place)
    assert hidden(place) == []


@pytest.mark.parametrize("work", WORK)
def test_a_file_that_cannot_be_finished_is_told_and_leaves_nothing_half(work, tmp_path):
    whole, place = tmp_path / "whole", tmp_path / "place"
    for folder in (whole, place):
        folder.mkdir()
    assert faults.done(work, whole)
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    assert not faults.done(work, place, largest=largest - 1)
    assert "File too large" in faults.told_by(place).read_text()
    readable(place)
    assert faults.done(work, place)
    assert contents(place).keys() == contents(whole).keys()
    assert hidden(place) == []


@pytest.mark.parametrize("work", WORK)
def test_a_disk_that_may_only_be_read_is_told(work, disk, tmp_path):
    (disk / "work").mkdir()
    remount(disk, "ro")
    link = tmp_path / "link"
    link.symlink_to(disk / "work")
    assert not faults.done(work, link)
    assert "Read-only file system" in faults.told_by(link).read_text()
    remount(disk, "rw")
    assert list((disk / "work").iterdir()) == []


def test_two_writers_of_one_file_leave_one_of_the_two(tmp_path):
    target = tmp_path / "state.safetensors"
    writers = [faults.SERVER.Process(target=faults.write_often, args=(target, n)) for n in (1, 2)]
    save_tensors(target, *faults.state(1))
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        arrays, told = load_tensors(target)  # raises where it is half of one
        assert set(arrays["w"].tolist()) == {float(told["writer"])}
        reads += 1
    assert [writer.exitcode for writer in writers] == [0, 0]
    assert reads > 0
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_a_second_training_of_one_folder_is_refused(tmp_path):
    with _held(tmp_path / "organism"), pytest.raises(ValueError, match="another process trains"):
        _held(tmp_path / "organism")
    with _held(tmp_path / "organism"):
        pass


def test_what_a_killed_writer_left_goes_and_what_it_had_put_aside_comes_back(tmp_path):
    process = subprocess.Popen(["true"])
    process.wait()
    target = tmp_path / "folder"
    with replacing(target) as path:
        path.mkdir()
        (path / "old.txt").touch()
        mine = path.parent.name
    dead = tmp_path / mine.replace(f".{os.getpid()}.", f".{process.pid}.")
    dead.mkdir()
    target.rename(dead / "old")  # the moment between the two steps of a replacement
    (tmp_path / f"{mine}x").mkdir()  # a writer that is at work
    with pytest.raises(KeyboardInterrupt), replacing(target):
        raise KeyboardInterrupt
    assert {path.name for path in tmp_path.iterdir()} == {"folder", f"{mine}x"}
    assert (target / "old.txt").exists()


@pytest.mark.parametrize("years", [-30, 30])
def test_a_clock_that_jumps_makes_nothing_stale(project, monkeypatch, years):
    then = time.time() + years * 365 * 24 * 3600
    for path in project.root.rglob("*"):
        os.utime(path, (then, then))
    assert reasons(project) == []
    monkeypatch.setattr(time, "time", lambda: then)
    assert RunInfo.collect("m").date
    assert runner.Task.of(project, "01_toy", {}).reasons() == []
