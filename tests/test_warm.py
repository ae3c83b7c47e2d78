"""A process of `helpers.warm` is like one from the command line, but for what is imported."""

import os
import signal
import subprocess
import sys
import time

import pytest
from helpers import warm


@pytest.mark.parametrize(
    "code",
    [
        "print(sys.argv, sys.stdin.read(), os.getcwd(), os.environ['HERE'], sys.path[0], __name__)",
        "print(sys.path[1] if sys.path[1] == os.environ['PYTHONPATH'] else sys.path)",
        "print('end', end=''); sys.exit(3)",
        "sys.exit('a message')",
        "sys.exit()",
        "raise ValueError('broken')",
        "import atexit; atexit.register(print, 'at the end')",
        "import threading, time; threading.Timer(0.1, print, ['later']).start()",
        "os._exit(7)",
        "os.kill(os.getpid(), 15)",
        "subprocess.run([sys.executable, '-c', 'print(1)'], check=True)",
    ],
)
@pytest.mark.parametrize("form", ["-c", "script", "-m"])
def test_it_does_what_a_process_from_the_command_line_does(tmp_path, code, form):
    code = f"import os, subprocess, sys\n{code}\n"
    (tmp_path / "written.py").write_text(code)
    command = {"-c": ["-c", code], "-m": ["-m", "written"]}
    command = [*command.get(form, [str(tmp_path / "written.py")]), "one", "two words"]
    env = os.environ | {"HERE": "this one", "PYTHONPATH": str(tmp_path / "more")}
    ours = warm.run(*command, cwd=tmp_path, env=env, input="said")
    options = {"cwd": tmp_path, "env": env, "input": "said", "capture_output": True}
    theirs = subprocess.run([sys.executable, *command], text=True, **options)
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    assert ours.stderr.splitlines()[-1:] == theirs.stderr.splitlines()[-1:]


def test_it_is_stopped_by_signals(tmp_path):
    code = "try: open('ready', 'w').close(); time.sleep(600)\nexcept KeyboardInterrupt: print('oh')"
    for number, status in ((signal.SIGINT, 0), (signal.SIGKILL, -signal.SIGKILL)):
        process = warm.start("-c", f"import time\n{code}", cwd=tmp_path)
        while not (tmp_path / "ready").exists():
            time.sleep(0.01)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait() == process.poll() == status
        assert process.result().stdout == ("" if status else "oh\n")
        (tmp_path / "ready").unlink()
