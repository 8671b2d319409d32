"""Kernels for chapters in miniature: copies of one process that has imported what chapters import.

Importing takes a kernel longer than most miniatures take. A warm process imports everything once
and is forked for every chapter, which then has a process, an environment and a memory of its own,
as a kernel that is started in the usual way.
"""

import importlib
import json
import os
import pkgutil
import signal
import subprocess
import sys
import time
from pathlib import Path


class Kernel:
    """A forked kernel, with what jupyter_client asks of a `subprocess.Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid):
        self.pid, self.returncode = pid, None

    def poll(self):
        """None while it runs; the warm process collects the real exit status."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            self.returncode = 0
        return self.returncode

    def wait(self, timeout=None):
        """Wait until it has ended."""
        end = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("kernel", timeout)
            time.sleep(0.02)
        return self.returncode

    def send_signal(self, number):
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """End it at once."""
        self.send_signal(signal.SIGKILL)

    def terminate(self):
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class WarmKernels:
    """Starts kernels by forking a process that has imported everything once it is there."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.stdout.readline()  # no chapter waits for the imports of all

    def launch(self, command, *, env=None, cwd=None, **_):
        """Start a kernel, in place of `jupyter_client.launcher.launch_kernel`."""
        env = dict(os.environ if env is None else env)
        order = {"arguments": command[command.index("-f") :], "env": env, "cwd": str(cwd or ".")}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return Kernel(int(self.process.stdout.readline()))

    def close(self):
        """End the warm process; a kernel that still runs notices and ends too."""
        self.process.kill()
        self.process.communicate()


def become_kernel(arguments, env, cwd):
    """Run a kernel in this fork until it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # the orders and the answers of the warm process
        os.dup2(nothing, descriptor)
    from ipykernel.kernelapp import launch_new_instance

    launch_new_instance(argv=arguments)


def serve():
    """Import what chapters import, then fork for every order on stdin.

    Answers are "ready", and a process id for every order.
    """
    os.environ["JPY_PARENT_PID"] = str(os.getpid())  # kernels end with this process
    here = str(Path(__file__).parent)
    sys.path[:] = [place for place in sys.path if place != here]
    import mmlib

    for module in pkgutil.walk_packages(mmlib.__path__, "mmlib."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("ipykernel.kernelapp", "ipykernel.zmqshell", "myst_nb", "scipy.stats"):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a kernel that has ended
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            become_kernel(**order)
            os._exit(0)
        os.setpgid(pid, pid)  # signals to a kernel's group must not reach the tests
        print(pid, flush=True)


if __name__ == "__main__":
    serve()
