"""What the doctor finds: a machine that is ready, and one mend for each thing that is not."""

import hashlib
import json
import sys
from collections import namedtuple

import pytest

from mmlib.__main__ import main
from mmlib.book import doctor


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """A folder that looks like a fetched checkpoint."""
    monkeypatch.setenv("MMLIB_CHECKPOINTS", str(tmp_path))
    folder = tmp_path / "qwen-coder-0.5b"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    files = {"model.safetensors": hashlib.sha256(b"weights").hexdigest()}
    (folder / "manifest.json").write_text(json.dumps({"files": files}))
    return folder


def test_this_machine_is_ready(fetched, tmp_path, capsys):
    assert main(["--root", str(tmp_path), "doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["Python", "packages", "machine", "kernel", "qwen-coder-0.5b"]
    assert [line.split(":")[0].split()[-1] for line in lines] == names


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_damaged_checkpoint_is_told(fetched, damage):
    weights = fetched / "model.safetensors"
    weights.write_bytes(b"other") if damage == "changed" else weights.unlink()
    check = doctor._checkpoint("qwen-coder-0.5b")
    assert "model.safetensors is" in check.told
    assert check.mend.endswith("python -m mmlib fetch qwen-coder-0.5b")


def test_another_version_and_a_missing_package_are_told(monkeypatch):
    lines = ["numpy==0.1", "no-such-package==1", 'no-such-tests==1 ; extra == "test"']
    monkeypatch.setattr(doctor, "requires", lambda _: lines)
    check = doctor._packages()
    assert "in place of ==0.1; no-such-package nothing in place of ==1" in check.told
    assert "no-such-tests" not in check.told
    assert "pip install" in check.mend


def test_too_little_room_has_a_mend(monkeypatch, tmp_path):
    usage = namedtuple("Usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage(5e8))
    monkeypatch.setattr(doctor, "hardware", lambda: "1 x CPU, 2 GiB, no GPU")
    monkeypatch.setattr(doctor, "memory", lambda: 2.0)
    check = doctor._machine(tmp_path)
    assert check.told == "1 x CPU, 2 GiB, no GPU, 0 GB free"
    assert "WORKERS=1" in check.mend
    assert "make room" in check.mend


def test_a_kernel_of_another_environment_is_told(monkeypatch):
    monkeypatch.setattr(sys, "prefix", "elsewhere")
    assert "another environment" in doctor._kernel().told
