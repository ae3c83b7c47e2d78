"""A Python that has imported slow libraries, and forks for each command line that it is sent.

`warm.py` starts it, by any interpreter, with a socket as its standard input and the names of
modules. It imports nothing of this project that it is not told to.
"""

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from importlib import import_module


def serve(connection):
    """Fork for each request. Return in a child alone, with the request and its files."""
    while True:
        message, files, *_ = socket.recv_fds(connection, 2**20, 4)
        if not message:  # whoever started this has ended
            sys.exit()
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            watch(files.pop())
            signal.signal(signal.SIGINT, signal.default_int_handler)
            connection.close()
            return json.loads(message), files
        for file in files:
            os.close(file)


def watch(report):
    """Fork once more; report the child's number and its status. Return in that child alone."""
    if child := os.fork():
        os.write(report, f"{child}\n".encode())
        _, status = os.waitpid(child, 0)
        with suppress(BrokenPipeError):  # nobody waits for it
            os.write(report, f"{os.waitstatus_to_exitcode(status)}\n".encode())
        os._exit(0)
    os.close(report)


def become(request, files):
    """Take over streams, folder and environment, and run what `python ARGUMENTS` would run."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    if encoding := os.environ.get("PYTHONIOENCODING"):
        sys.stdin.reconfigure(encoding=encoding, errors="strict")
        sys.stdout.reconfigure(encoding=encoding, errors="strict")
        sys.stderr.reconfigure(encoding=encoding, errors="backslashreplace")
    sys.path[1:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    option, *sys.argv = request["arguments"]
    if option == "-c":
        code, sys.argv[0] = sys.argv[0], "-c"
        sys.path[0] = ""
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})
    elif option == "-m":
        sys.path[0] = os.getcwd()
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(option)
        sys.argv.insert(0, option)
        runpy.run_path(option, run_name="__main__")


def end(main, *arguments):
    """Run `main`; end as Python does, but leave the memory to the system: it is quicker so."""
    status = 0
    try:
        main(*arguments)
    except SystemExit as error:
        status = error.code or 0
        if isinstance(status, str):
            print(status, file=sys.stderr)
            status = 1
    except BaseException:
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def reap(*_):
    """Let go of watchers that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    sys.path[0] = ""  # not the folder of this file
    for module in sys.argv[1:]:
        with suppress(ImportError):
            import_module(module)
    gc.freeze()  # a child that collects garbage need not copy all of this
    signal.signal(signal.SIGCHLD, reap)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who runs the tests
    end(become, *serve(socket.socket(fileno=0)))
