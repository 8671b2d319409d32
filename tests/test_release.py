"""What a release has besides the code."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not shutil.which("chromium"), reason="no browser to print with")
def test_every_page_is_printed_once(tmp_path):
    html, out = tmp_path / "html", tmp_path / "pdf"
    for name in ("index", "chapters/01_one", "_static/part", "search"):
        page = html / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(f"<title>{name}</title><p>{name}</p>", encoding="utf-8")
    subprocess.run([ROOT / ".ci" / "pdf", html, out], check=True)
    printed = {str(path.relative_to(out)) for path in out.rglob("*.pdf")}
    assert printed == {"index.pdf", "chapters/01_one.pdf"}
    assert all((out / name).read_bytes().startswith(b"%PDF") for name in printed)


def test_a_folder_that_is_not_there_is_an_error(tmp_path):
    command = [ROOT / ".ci" / "pdf", tmp_path / "html", tmp_path / "pdf"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode
    assert "html" in done.stderr
