"""A course in a folder, for machines without a network.

It has the wheels of this package and of all that it needs, the copies for participants, the slides,
the book, and a note that says the three commands to begin with.
"""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from mmlib.book.chapters import ChapterError, Project
from mmlib.book.slides import write_slides
from mmlib.book.student import write_copies

EXTRAS = ("tasks", "study", "book")
NOTE = """\
# Math Across Languages: a kit for a course

Nothing here needs a network. Python {python} for {platform} is needed: the packages are for it.

    python{python} -m venv course
    course/bin/python -m pip install --no-index --find-links wheels 'mmlib[{extras}]'
    course/bin/jupyter lab

On Windows it is `course\\Scripts` in place of `course/bin`. `course/bin/python -m mmlib doctor`
says whether the machine is ready. Participants work in `student/`; `book/index.html` is the book,
and `slides/` has the slides.
"""


def write_kit(project: Project, out: Path) -> dict[str, int]:
    """Pack the kit; pip takes packages from where its own settings say.

    Args:
        project: The checkout, with the book built in ``_build/html``.
        out: A folder that is empty, or not there.

    Returns:
        Part of the kit -> its size in bytes.

    Raises:
        ChapterError: The folder has something in it, the book is not built, or pip failed.
    """
    html = project.root / "_build" / "html"
    if not (html / "index.html").is_file():
        raise ChapterError(f"{html} has no book: make html")
    if out.is_dir() and any(out.iterdir()):
        raise ChapterError(f"{out} is not empty: choose another folder or remove it")
    _wheels(project.root, out / "wheels")
    write_copies(project, out / "student", book=out / "book")
    write_slides(project, out / "slides")
    shutil.copytree(html, out / "book")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    note = NOTE.format(python=python, platform=sys.platform, extras=",".join(EXTRAS))
    (out / "README.md").write_text(note, encoding="utf-8")
    return {
        part: sum(path.stat().st_size for path in (out / part).rglob("*") if path.is_file())
        for part in ("wheels", "student", "slides", "book")
    }


def _wheels(root: Path, out: Path) -> None:
    """Collect the wheels; torch first and alone, so that pip takes the build that is installed."""
    pins = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    torch = next(pin for pin in pins["dependencies"] if pin.startswith("torch=="))
    pip = [sys.executable, "-m", "pip", "wheel", "--wheel-dir", str(out), "--find-links", str(out)]
    for wanted in (torch, f"{root}[{','.join(EXTRAS)}]"):
        done = subprocess.run([*pip, wanted], check=False)
        if done.returncode:
            raise ChapterError(f"pip could not get {wanted}: see above; PIP_EXTRA_INDEX_URL helps")
