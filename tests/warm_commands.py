"""Runs `embedprefs` commands as processes of their own, without importing torch anew for each.

A server process imports what the commands import, once. For each command it forks: the child gets the caller's
arguments, folder, environment, standard input and outputs, and ends as any process does. What a shell calls is a small
launcher that asks the server and ends with the child's exit code.

What a cold start costs and imports is the business of other tests, which start the real command.
"""

from __future__ import annotations

import array
import atexit
import gc
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

__all__ = ["warm_commands"]

_LAUNCHER = """#!{python} -IS
import array, json, os, signal, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    files = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))]
    server.sendmsg([len(request).to_bytes(8, "big")], files)
    server.sendall(request)
    answers = server.makefile("rb")
    child = int(answers.readline())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _frame: os.kill(child, number))
    sys.exit(int(answers.readline()))
"""


@contextmanager
def warm_commands(folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """Serve commands from one process; yield the folder with the launcher, to be put first in PATH.

    Args:
        folder: An empty folder, whose path is short enough for a socket's.
        environment: What the server imports the packages under; each command has its own.
    """
    address, launcher = folder / "s", folder / "bin" / "embedprefs"
    launcher.parent.mkdir()
    launcher.write_text(_LAUNCHER.format(python=sys.executable, address=str(address)), encoding="utf-8")
    launcher.chmod(launcher.stat().st_mode | stat.S_IXUSR)
    server = subprocess.Popen([sys.executable, __file__, str(address)], env=dict(environment))
    try:
        _wait_for(address, server)
        yield launcher.parent
    finally:
        server.terminate()
        server.wait()


def _wait_for(address: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 240
    while not address.exists():
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The server of warm commands did not begin; it ended with {server.poll()}.")
        time.sleep(0.05)


def serve(address: str) -> None:
    """Answer requests until the process is ended; a child returns from here to run its command."""
    import qdrant_client
    import sentence_transformers

    import embedprefs.cli.main
    import embedprefs.model
    import embedprefs_qdrant.commands
    import embedprefs_qdrant.ingest

    del embedprefs_qdrant, qdrant_client, sentence_transformers
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{address}.new")
    listener.listen()
    gc.freeze()  # a collection in a child would copy every page that it looks at
    Path(f"{address}.new").rename(address)  # there only once it listens
    while True:
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            break
        connection.close()
        _reap()
    sys.argv = ["embedprefs", *_become(connection)]
    _end(embedprefs.cli.main.run)


def _end(run: Callable[[], None]) -> NoReturn:
    """Run a command and end as the interpreter does, but for taking every imported module apart."""
    code: object = 0
    try:
        run()
    except SystemExit as ended:
        code = ended.code
    except BaseException:  # noqa: BLE001 - shown as the interpreter shows it
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def _reap() -> None:
    """Let go of the children that have ended."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _become(connection: socket.socket) -> list[str]:
    """Fork once more: the grandchild runs the command, this process tells the launcher how it ended."""
    descriptors = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * descriptors.itemsize), socket.MSG_WAITALL)
    for _, _, data in ancillary:
        descriptors.frombytes(data)
    stream = connection.makefile("rb")
    arguments, folder, environment = json.loads(stream.read(int.from_bytes(head, "big")))
    child = os.fork()
    if child:
        connection.sendall(f"{child}\n".encode())
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        connection.sendall(f"{code if code >= 0 else 128 - code}\n".encode())
        os._exit(0)
    stream.close()
    connection.close()
    for target, descriptor in enumerate(descriptors):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    return list(arguments)


if __name__ == "__main__":
    serve(sys.argv[1])
