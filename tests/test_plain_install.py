"""A plain install, without the extras, runs README's lines up to the evaluation."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PLAIN = ["accelerate", "filelock", "numpy", "pandas", "pyyaml", "safetensors", "torch"]
PLAIN += ["tqdm", "transformers"]


def closure(names):
    """Distributions that these need, each with its own needs."""
    done, queue = {}, list(names)
    while queue:
        name = queue.pop().lower().replace("_", "-")
        if name in done:
            continue
        done[name] = distribution(name)
        for line in done[name].requires or ():
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                queue.append(need.name)
    return done


def test_the_lines_of_the_readme_need_a_plain_install_only(tmp_path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert sorted(Requirement(line).name for line in project["dependencies"]) == sorted(PLAIN)
    for found in closure(PLAIN).values():
        for top in {path.parts[0] for path in found.files} - {"..", "__pycache__"}:
            link = tmp_path / top
            if not link.exists():
                link.symlink_to(Path(found.locate_file(top)).resolve())
    (tmp_path / "mmlib").symlink_to(ROOT / "mmlib")
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    lines = block[: block.index("    answers = evaluate(")] + "    print(model.dtype)\n"
    # -S: nothing of site-packages but what lies in the folder.
    done = subprocess.run(
        [sys.executable, "-S", "-c", lines],
        env={"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "torch.float32"
    absent = [sys.executable, "-S", "-c", "import lm_eval"]
    assert subprocess.run(absent, env={"PYTHONPATH": str(tmp_path)}, check=False).returncode
