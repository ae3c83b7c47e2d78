"""A request to the server while it is answered: what it asks for, and its replies in the making."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from transformers import StoppingCriteria

from .text_stream import TextStream


class Piece(NamedTuple):
    """What is new of a reply."""

    index: int  # of the reply, where a request wants several
    text: str
    finish_reason: str | None = None  # "stop" or "length"; None: the reply goes on
    tokens: int = 0  # of the whole reply, where it has ended


@dataclass(eq=False)
class Job:
    """A request.

    Args:
        context: as `encode_context` takes it.
        options: of `generate()`, over the model's saved settings.
        tell: called with each `Piece`, or with the exception that ends the request, by a thread of
            the scheduler.
        count: of replies.
        stop: texts that end a reply.
        in_pieces: tell text as it comes, not at the end.
        seed: of sampling; without one, replies differ each time.
    """

    context: Sequence
    options: dict
    tell: Callable[[Piece | Exception], None]
    count: int = 1
    stop: Sequence[str] = ()
    in_pieces: bool = True
    seed: int | None = None
    # By the scheduler:
    source_ids: list[int] = field(default_factory=list)
    kind: tuple = ()  # jobs for which it is equal can be answered together
    is_cancelled: bool = False


class Choice:
    """A reply in the making: a row of a batch. `ends` are the tokens that end it."""

    def __init__(self, job: Job, index: int, tokenizer, ends: Sequence[int]):
        self.job, self.index, self.stream = job, index, TextStream(tokenizer, job.stop)
        self.ends, self.has_ended = ends, False

    @property
    def goes_on(self) -> bool:
        """Whether a further token is wanted."""
        return not self.has_ended and not self.job.is_cancelled

    def take(self, token_id: int, finish_reason: str | None) -> None:
        """Take the next token, and tell what is new."""
        if not self.goes_on:
            return
        text = ""
        if token_id in self.ends:
            pass  # which is no part of the reply
        elif self.job.in_pieces or self.job.stop:
            text = self.stream.add(token_id)
        else:  # decoded at the end, at once
            self.stream.token_ids.append(token_id)
        if self.stream.stopped:
            finish_reason = "stop"
        if finish_reason is not None:
            self.end(finish_reason, text)
        elif text:
            self.job.tell(Piece(self.index, text))

    def end(self, finish_reason: str, text: str = "") -> None:
        """Tell the rest of the reply, after `text`."""
        self.has_ended = True
        text += self.stream.end()
        self.job.tell(Piece(self.index, text, finish_reason, len(self.stream.token_ids)))


class Abandoned(StoppingCriteria):
    """Ends a batch when the clients of all its jobs have gone."""

    def __init__(self, jobs: Sequence[Job]):
        self.jobs = jobs

    def are_gone(self, *_) -> bool:
        """Tell it; `on_token` of an export wants it with each token."""
        return all(job.is_cancelled for job in self.jobs)

    def __call__(self, input_ids: torch.Tensor, scores, **kwargs) -> torch.Tensor:
        return torch.full((len(input_ids),), self.are_gone(), device=input_ids.device)  # (rows,)
