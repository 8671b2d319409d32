"""Run commands side by side, each in its own process: one that dies takes nothing with it."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple


class Job(NamedTuple):
    """One command of `python -m mmlib`."""

    id: str
    command: Sequence[str]
    """Its words after `python -m mmlib --root ROOT`."""
    after: Sequence[str] = ()
    """Ids of the jobs whose output it reads; an id that is no job counts as there."""

    def words(self, root: Path) -> list[str]:
        """The whole command, as it can be typed."""
        return [sys.executable, "-m", "mmlib", "--root", str(root), *self.command]


def run(root: Path, jobs: Sequence[Job], *, workers: int = 1) -> list[str]:
    """Run jobs, `workers` at a time; a failure stops only the jobs that read what it writes.

    Args:
        root: The checkout; the output of each job is in `runs/logs/ID.log`.
        jobs: Among those that can start, an earlier one goes first.
        workers: Processes at a time. Several have one thread each, unless OMP_NUM_THREADS says
            otherwise, so that their numbers do not depend on the machine.

    Returns:
        Ids of the jobs that failed or were not started.

    Raises:
        ValueError: `workers` is below 1.
    """
    if workers < 1:
        raise ValueError(f"--workers is {workers}: give 1 or more")
    known = {job.id: job for job in jobs}
    order = TopologicalSorter({job.id: [i for i in job.after if i in known] for job in jobs})
    order.prepare()
    ready: set[str] = set()
    running, failed, finished = {}, {}, 0
    alive: set[subprocess.Popen] = set()
    start = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while order.is_active():
                ready |= set(order.get_ready())
                for name in [name for name in known if name in ready]:
                    if lost := [other for other in known[name].after if other in failed]:
                        print(f"{name}: not started, it reads from {', '.join(lost)}", flush=True)
                        failed[name] = None
                        finished += 1
                        order.done(name)
                        ready.discard(name)
                    elif len(running) < workers:
                        running[pool.submit(_process, root, known[name], workers, alive)] = name
                        ready.discard(name)
                for future in wait(running, return_when=FIRST_COMPLETED).done if running else ():
                    name, finished = running.pop(future), finished + 1
                    log = root / "runs" / "logs" / f"{name}.log"
                    if future.result():
                        failed[name] = log
                    left = (time.monotonic() - start) / finished * (len(known) - finished) / 60
                    state = f"{name}: FAILED" if name in failed else _last_line(log)
                    tail = f"{len(failed)} failed, about {left:.0f} min left"
                    print(f"[{finished}/{len(known)}] {state} ({tail})", flush=True)
                    order.done(name)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in tuple(alive):
                process.terminate()  # a chapter that is stopped removes what it had begun
            raise
    for name, log in failed.items():
        why = f"\n  {_last_line(log)}" if log else ""
        print(f"failed: {shlex.join(known[name].words(root))}{why}", flush=True)
    return list(failed)


def _process(root: Path, job: Job, workers: int, alive: set[subprocess.Popen]) -> int:
    """Run one in a process of its own, in `alive` meanwhile; returns its exit code."""
    log = root / "runs" / "logs" / f"{job.id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    threads = {"OMP_NUM_THREADS": "1"} if workers > 1 else {}
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            job.words(root),
            cwd=root,
            env={**threads, **os.environ},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        alive.add(process)
        code = process.wait()
        alive.discard(process)
    return code


def _last_line(log: Path) -> str:
    text = log.read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it left no output (killed?)"
