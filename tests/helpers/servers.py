"""The server in this process, at a free port."""

import socket
import threading
import time
from contextlib import contextmanager

from seq2seq_dialog.serve.api import Server, make_app
from seq2seq_dialog.serve.scheduler import Scheduler

NAME = "tiny"  # that clients call the model


def wait_until(condition, seconds=20) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.01)


@contextmanager
def serving(model, tokenizer, key=None, queue=64):
    """Serve a model; gives the address and the scheduler."""
    scheduler = Scheduler(model, tokenizer, queue)
    server = Server(make_app(scheduler, NAME, key), scheduler)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", scheduler
        finally:
            scheduler.stop()
            thread.join()
