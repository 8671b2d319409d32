"""The book, built once, and a browser to look at it with."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The book built once, also where several processes run tests."""
    from filelock import FileLock

    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared
    html = shared / "book" / "_build" / "html"
    with FileLock(shared / "book.lock"):
        if not (shared / "book" / "built").exists():
            where = ["--path-output", str(shared / "book"), "-W", "-n", "--keep-going"]
            command = [shutil.which("jupyter-book", path=Path(sys.executable).parent), "build"]
            limit = 300 * float(os.environ.get("MMLIB_SLOW", "1"))
            done = subprocess.run(
                [*command, str(ROOT / "book"), "--config", str(ROOT / "_config.yml"), *where],
                capture_output=True, text=True, check=False, timeout=limit,
            )  # fmt: skip
            warnings = re.findall(r".*WARNING.*", done.stdout + done.stderr)
            assert done.returncode == 0, "\n".join(warnings) or done.stderr[-2000:]
            (shared / "book" / "built").touch()
    return html


class Browser:
    """Headless Chromium, spoken to through its debugging socket."""

    def __init__(self, binary, folder):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
        options += ["--no-first-run", "--disable-background-networking", "--disable-sync"]
        options += ["--disable-component-update", "--remote-allow-origins=*"]
        options += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen([binary, *options], stderr=subprocess.DEVNULL)
        self.count, self.events = 0, []
        self.socket = self._connect(Path(folder) / "DevToolsActivePort")
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def _connect(self, port_file):
        import websocket

        for _ in range(300):
            if port_file.exists() and "\n" in port_file.read_text():
                break
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
            tab = next(tab for tab in json.load(answer) if tab["type"] == "page")
        return websocket.create_connection(tab["webSocketDebuggerUrl"], timeout=60)

    def call(self, method, **parameters):
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": parameters}))
        while (message := json.loads(self.socket.recv())).get("id") != self.count:
            self.events.append(message)
        assert "error" not in message, message
        return message["result"]

    def run(self, script):
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        return found["result"].get("value")

    def look(self, width, theme):
        """Give the page a width and the reader a preference, as a phone or a laptop would."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        preference = [{"name": "prefers-color-scheme", "value": theme}]
        self.call("Emulation.setEmulatedMedia", features=preference)

    def open(self, path, fragment=""):
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri() + fragment)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(json.loads(self.socket.recv()))
        self.run("window.MathJax?.startup?.promise?.then(() => 0)")

    def press(self, key):
        """Press a key, as a reader without a mouse would."""
        codes = {
            "Tab": 9,
            "Escape": 27,
            "ArrowDown": 40,
            "ArrowRight": 39,
            "End": 35,
            "PageDown": 34,
        }
        event = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, **event)

    def seen(self, method):
        return [event["params"] for event in self.events if event.get("method") == method]

    def close(self):
        self.socket.close()
        self.process.terminate()
        self.process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser():
    names = ("chromium", "chromium-browser", "google-chrome")
    binary = next(filter(None, map(shutil.which, names)), None)
    if not binary:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    pytest.importorskip("websocket")
    # a profile outside pytest's folders, which Chromium may still write to while it ends
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(binary, folder)
        with contextlib.closing(browser):
            yield browser


# The page has taken on theme and width (colours may fade in), or ten seconds have passed.
SETTLED = """
(async () => {
  const done = () => document.documentElement.dataset.theme == '%s' && innerWidth == %d
    && document.getAnimations().every(a => a.playState != 'running');
  for (let i = 0; i < 200 && !done(); i++) await new Promise(r => setTimeout(r, 50));
  await new Promise(r => requestAnimationFrame(() => setTimeout(r, 50)));
})()
"""
