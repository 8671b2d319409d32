"""Say which cell of a chapter runs, for how long, and how long the whole took last time."""

import sys
import threading
import time

from nbformat import NotebookNode


class Progress:
    """One line that renews itself on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, label: str, expected: float) -> None:
        """`expected`: seconds; 0 where nobody knows."""
        self.label, self.expected = label, expected
        self.number, self.cells, self.code = 0, 0, ""
        self.start = time.monotonic()
        self.terminal = sys.stdout.isatty()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.start

    def __enter__(self) -> "Progress":
        self._show()
        self.thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stopped.set()
        self.thread.join()
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)

    def begin(self, *, notebook: NotebookNode) -> None:
        """Called when the kernel is ready."""
        self.cells = len(notebook.cells)

    def cell(self, *, cell: NotebookNode, cell_index: int) -> None:
        """Called before a code cell is executed; cells are counted from 1, text included."""
        self.number, self.code = cell_index + 1, cell.source.partition("\n")[0]

    def _beat(self) -> None:
        while not self.stopped.wait(1 if self.terminal else 10):
            self._show()

    def _show(self) -> None:
        cell = f"cell {self.number}/{self.cells}: {self.code}" if self.number else "starting"
        whole = f" of about {self.expected:.0f}" if self.expected else ""
        line = f"{self.label}: {self.elapsed:.0f}{whole} s, {cell}"[:110]
        start, end = ("\r\x1b[K", "") if self.terminal else ("", "\n")
        print(f"{start}{line}", end=end, flush=True)
