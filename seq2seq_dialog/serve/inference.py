"""Answering: load a trained folder, reply to a context, hold a conversation."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from ..errors import UsageError
from ..models.loading import (
    check_vocabulary,
    load_model_files,
    load_tokenizer_files,
    loading,
)
from ..portable.context import as_turns, encode_context
from ..portable.options import checked_options
from ..shipped import command, find_model
from .exported_model import ExportedModel, find_export, is_export


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    trust_remote_code: bool = False,
    exported: bool = False,
):
    """Load a trained model for answering.

    Args:
        name: a run folder, an export, a model repository on the Hub, or `starter`, the small model
            of everyday English that ships with this package.
        device: where the model goes; a GPU where there is one by default, the CPU for an export.
        trust_remote_code: run model code that comes with the repository.
        exported: load the export in a run folder instead of the PyTorch model, if the device is the
            CPU, CTranslate2 is installed, and the run has not changed since the export;
            `engine(model)` tells which one it is. An export has `generate` and little else.

    Returns:
        (model, tokenizer, device)
    """
    if not isinstance(name, (str, os.PathLike)):
        raise UsageError(
            f"name is {name!r}; it must be a folder or the name of a model on the Hub."
        )
    name = find_model(os.path.expanduser(name))
    if device is None:
        accelerator = None if is_export(name) else torch.accelerator.current_accelerator()
        device = accelerator or "cpu"
    device = usable_device(device)
    export = find_export(name, device, exported)
    if export is not None:
        with loading(f"the export {str(export)!r}", f"Make it again by `{command('export')}`."):
            return ExportedModel(export), AutoTokenizer.from_pretrained(export), device
    remedy = (
        "Give a run folder (the output_dir of a finished run) or the name of a model on the Hub."
    )
    options = {"trust_remote_code": trust_remote_code}
    dtype = torch.float32 if device.type == "cpu" else "auto"  # many CPUs only emulate bf16
    what = f"a model from {str(name)!r}"
    tokenizer = load_tokenizer_files(name, what, remedy, **options)
    model = load_model_files(name, what, remedy, dtype=dtype, **options)
    check_vocabulary(model, tokenizer)
    return model.to(device).eval(), tokenizer, device


def usable_device(device: str | torch.device) -> torch.device:
    """Return a device that is there."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"The device {str(device)!r} cannot be used: {reason}") from error
    return torch.device(device)


def engine(model) -> str:
    """Name what a loaded model answers by: `PyTorch`, or `CTranslate2, int8`."""
    if isinstance(model, ExportedModel):
        return f"CTranslate2, {model.about['quantization']}"
    return "PyTorch"


def generate_response(
    context: str | Sequence, model, tokenizer, device=None, **generate_kwargs
) -> str:
    """Reply to a context.

        generate_response("How are you?", model, tokenizer, device)
        generate_response(["Hi!", "Hello, who is it?", "It's Ann."], model, tokenizer, num_beams=4)

    Args:
        context: a string (one turn, or several with `__eou__` between them), a message, or a list
            of turns or messages, oldest first; cut from the left at whole turns where it is long.
        device: the model's own by default.
        generate_kwargs: options of `model.generate()`; the model's saved settings by default.

    Raises:
        ValueError: the context holds no text, an option is out of its bounds, or there is no such
            device.
    """
    if not callable(getattr(model, "generate", None)):
        raise TypeError(
            f"model is a {type(model).__name__}; a model comes first, then its tokenizer."
        )
    ids = encode_context(context, tokenizer)
    return reply_to_batch([ids], model, tokenizer, device, **generate_kwargs)[0]


def reply_to_batch(
    contexts: Sequence[Sequence[int]], model, tokenizer, device=None, **generate_kwargs
) -> list[str]:
    """Reply to several contexts at once, each as `encode_context` returns it."""
    device = model.device if device is None else usable_device(device)
    ids = [torch.tensor(context) for context in contexts]
    masks = [torch.ones_like(row) for row in ids]
    input_ids = pad_sequence(ids, batch_first=True, padding_value=tokenizer.pad_token_id)
    output_ids = model.generate(
        input_ids=input_ids.to(device),  # (batch, source_len)
        attention_mask=pad_sequence(masks, batch_first=True).to(device),
        **checked_options(generate_kwargs),
    )  # (batch, target_len)
    texts = tokenizer.batch_decode(output_ids, skip_special_tokens=True)
    return [text.strip() for text in texts]


class Conversation:
    """A dialogue with a model that remembers its turns.

    `generate_kwargs`, options of `model.generate()`, may be changed between turns.
    """

    def __init__(self, model, tokenizer, **generate_kwargs):
        self.model, self.tokenizer, self.generate_kwargs = model, tokenizer, generate_kwargs
        self.reset()

    def say(self, text: str) -> str:
        """Say something and get the reply; both are remembered, unless replying fails."""
        turns = [*self.turns, *as_turns([text])]
        reply = self.reply_to(turns)
        self._before.append(self.turns)
        self.turns = [*turns, reply]
        return reply

    def reply_to(self, context) -> str:
        """Reply to a context that is not remembered, with this conversation's settings."""
        return generate_response(context, self.model, self.tokenizer, **self.generate_kwargs)

    def undo(self) -> bool:
        """Forget the last thing said and its reply; False where there is none."""
        if not self._before:
            return False
        self.turns = self._before.pop()
        return True

    def reset(self) -> None:
        """Forget everything."""
        self.turns: list[str] = []
        self._before: list[list[str]] = []
