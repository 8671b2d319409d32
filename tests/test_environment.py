"""Every way into the project leads to the same versions and the same commands."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PINS = [*PROJECT["dependencies"], *(pin for pins in EXTRAS.values() for pin in pins)]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def test_conda_installs_the_same_pins():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = (entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == [*PINS, "--editable ."]
    assert "python=3.11" in environment["dependencies"]


def test_everything_is_pinned():
    assert [pin for pin in PINS if not re.fullmatch(r"[\w-]+==[\w.]+", pin)] == []


def test_make_installs_the_pinned_torch_first():
    command = ["make", "--dry-run", "--always-make", "html", "PY=/nowhere/python"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    installs = re.findall(r"pip install (.*)", done.stdout)
    assert installs[0] == next(pin for pin in PINS if pin.startswith("torch=="))
    assert installs[1] == f"--editable '.[{','.join(EXTRAS)}]'"


def test_an_unknown_preset_is_refused():
    command = ["make", "--dry-run", "reproduce", "PRESET=fast"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode
    assert "choose laptop or full" in done.stderr


def test_continuous_integration_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert (
        script.read_text(encoding="utf-8")
        .rstrip()
        .endswith('make --no-print-directory "${1:-test}"')
    )


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_by_hash(path):
    text = path.read_text(encoding="utf-8")
    uses = re.findall(r"uses: (.*)", text)
    assert uses
    for action in uses:
        assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)
    assert yaml.safe_load(text)["permissions"] == {"contents": "read"}
