"""A server that speaks OpenAI's `/v1/chat/completions`: where it listens, and for whom."""

import ipaddress
import os
import socket
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from ..errors import Stopped, UsageError
from .inference import engine, load
from .safety import safety_of
from .scheduler import Scheduler

WORKERS = 2  # batches that an export computes side by side


def serve(
    folder: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str | None = None,
    queue: int = 64,
    **options,
) -> None:
    """Serve a model until Ctrl-C or SIGTERM; replies under way are then finished.

    Args:
        host: the address to listen at; any but this machine's own needs a key.
        api_key_env: the environment variable that has the key.
        queue: requests that may wait; more are answered by 429.
        options: of the filter (`safety_of`), and of `load`.
    """
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if not find_spec(name)]
    if missing:
        raise UsageError(f"The server needs {', '.join(missing)}: pip install {' '.join(missing)}")
    from .api import Server, make_app

    if queue < 1:
        raise UsageError(f"queue is {queue}; it must be at least 1.")
    key, safety = read_key(api_key_env), safety_of(options)
    with bind(host, port, key is not None) as listener:
        disable_progress_bar()
        workers = min(WORKERS, torch.get_num_threads())
        model, tokenizer, device = load(folder, workers=workers, **options)
        scheduler = Scheduler(model, tokenizer, queue, safety)
        name = model_name(folder)
        server = Server(make_app(scheduler, name, key, host), scheduler)
        listener.listen()
        print(
            f"{name} by {engine(model)}, on {device}: {url(listener)}/v1  (Ctrl-C ends it)",
            flush=True,
        )
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # a second one
            raise Stopped() from None


def model_name(folder: str) -> str:
    """Return the name that clients call a model: that of its folder, or the one on the Hub."""
    path = Path(folder)
    return path.resolve().name if path.is_dir() else folder


def read_key(variable: str | None) -> str | None:
    """Read the API key from the environment."""
    if variable is None:
        return None
    key = os.environ.get(variable, "")
    if not key.strip():
        raise UsageError(
            f"There is no key in the environment variable {variable}. Set it, or leave "
            "--api-key-env."
        )
    return key.strip()


def bind(host: str, port: int, has_key: bool) -> socket.socket:
    """Take an address, without listening yet."""
    if not 1 <= port <= 65535:
        raise UsageError(f"port is {port}; it must be from 1 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
    except (OSError, UnicodeError) as error:  # the latter of what no name of a host can be
        raise UsageError(f"host is {host!r}, which is no address of this machine.") from error
    if not (has_key or ipaddress.ip_address(address[0].partition("%")[0]).is_loopback):
        raise UsageError(
            f"host is {host!r}, where other machines reach the server, so it needs a key: put one "
            "into an environment variable and name it by --api-key-env, or leave --host."
        )
    # asyncio sends small pieces at once (TCP_NODELAY) where it knows that the protocol is TCP.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"Port {port} of {host} cannot be used ({error.strerror}), most likely because another "
            "program uses it: choose another by --port."
        ) from error
    return listener


def url(listener: socket.socket) -> str:
    """Spell the address of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
