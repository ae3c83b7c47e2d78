"""The chat page of a model on this machine.

The page itself is defined once, in space/app.py, which a Space runs without this package.
"""

import time
from contextlib import suppress
from functools import partial
from importlib.util import find_spec

from transformers.utils.logging import disable_progress_bar

from ..errors import UsageError
from .inference import engine, generate_response, load
from .safety import safety_of


def web(folder: str, port: int | None = None, **options) -> None:
    """Serve the chat page of a model on this machine, for this machine alone, until Ctrl-C.

    The port is by default the first free one from 7860 on; `options` are those of `load`, and of
    the filter (`safety_of`).
    """
    if find_spec("gradio") is None:
        raise UsageError("The page needs Gradio, which is not installed: pip install gradio")
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"port is {port}; it must be from 1 to 65535.")
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from .space.app import LAUNCH_OPTIONS, page

    disable_progress_bar()
    safety = safety_of(options)
    model, tokenizer, device = load(folder, **options)

    answer = partial(generate_response, model=model, tokenizer=tokenizer, safety=safety)
    demo = page(answer, model, tokenizer, str(folder))
    address = {"server_name": "127.0.0.1", "server_port": port, "share": False}
    # Another name for this address is a page elsewhere that wants to talk with it (DNS rebinding).
    hosts = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    address["app_kwargs"] = {"middleware": [hosts]}
    try:
        demo.launch(**address, prevent_thread_lock=True, quiet=True, **LAUNCH_OPTIONS)
    except OSError as error:
        raise UsageError(
            f"Port {port or '7860 and the next 99'} cannot be used, most likely because another "
            "program uses it: choose another with --port."
        ) from error
    print(
        f"{folder} by {engine(model)}, on {device}: {demo.local_url}  (Ctrl-C ends it)", flush=True
    )
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)
    demo.close(verbose=False)
