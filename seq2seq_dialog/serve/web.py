"""The chat page of a model on this machine, or of several that answer the same turn.

The page of one model is that of a Space, which runs space/app.py without this package.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from ..errors import UsageError
from ..portable.context import encode_context
from ..run_folder import VOTES
from .attention import attention_map, draw_map, readable, save
from .chat import describe_candidates
from .exported_model import ExportedModel
from .inference import engine, generate_response, load
from .safety import safety_of
from .votes import check_different, check_votes


def web(folders: Sequence[str], port: int | None = None, votes: str = VOTES, **options) -> None:
    """Serve the chat page of models on this machine, for this machine alone, until Ctrl-C.

    The port is by default the first free one from 7860 on; `votes` is the file for votes where
    there are several models; `options` are those of `load`, and of the filter (`safety_of`).
    """
    if find_spec("gradio") is None:
        raise UsageError("The page needs Gradio, which is not installed: pip install gradio")
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"port is {port}; it must be from 1 to 65535.")
    check_different(folders)
    from .arena import arena
    from .space.app import page
    from .space.conversation import Speaker, text_turns

    disable_progress_bar()
    safety = safety_of(options)
    if len(folders) > 1:
        check_votes(votes)
    speakers, about = [], []
    for folder in folders:
        model, tokenizer, device = load(folder, **options)
        answer, extras = functions_of(model, tokenizer)
        turns_read = text_turns
        if safety is not None:  # candidates and attention maps are not filtered
            answer, extras, turns_read = safety.guard(answer), {}, safety.readable
        encode = partial(encode_context, tokenizer=tokenizer)
        speakers.append(Speaker(str(folder), model, tokenizer, answer, encode, extras, turns_read))
        about.append(f"{folder} by {engine(model)}, on {device}")
    demo = page(*speakers) if len(speakers) == 1 else arena(speakers, Path(votes))
    serve(demo, port, "; ".join(about))


def functions_of(model, tokenizer) -> tuple[Callable, Mapping]:
    """Return how a model answers, and what can be shown under its replies: see `Speaker`."""
    if isinstance(model, ExportedModel):
        return partial(generate_response, model=model, tokenizer=tokenizer), {}
    seed = None

    def answer(messages: list, **options) -> str:
        nonlocal seed
        seed = torch.seed()
        return generate_response(messages, model, tokenizer, **options)

    def candidates(messages: list, reply: str, options: dict) -> str:
        torch.manual_seed(seed)  # those that the reply was chosen from
        return describe_candidates(messages, model, tokenizer, options)

    pictures = tempfile.TemporaryDirectory(prefix="seq2seq-dialog-")

    def attention(messages: list, reply: str, options: dict) -> dict:
        source, target, weights = attention_map(messages, model, tokenizer, reply)
        figure = draw_map(readable(source, tokenizer), readable(target, tokenizer), weights)
        path = Path(pictures.name, "attention.png")
        save(figure, path)  # over the last one, of which Gradio has a copy
        return {"path": str(path), "alt_text": "attention: context across, reply down"}

    return answer, {"Candidates": candidates, "Attention map": attention}


def serve(demo, port: int | None, what: str) -> None:
    """Serve a page to this machine alone, until Ctrl-C; tell where, and what it is."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    from .space.app import LAUNCH_OPTIONS

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
    print(f"{what}: {demo.local_url}  (Ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):
        while True:
            time.sleep(1)
    demo.close(verbose=False)
