"""Which requests are answered together, and when: the queue of the server and its threads.

One thread, or one a worker of an export, answers token by token, another whole replies: those of
beams, or of other decoding that chooses among replies when they are there.

Token by token, by PyTorch: a request joins the running batch after its next token, where the model
allows it (`running_batch.JOINABLE`); of other models, batches take turns, a token each. By an
export: requests that are alike are answered together, by CTranslate2, and those that come
meanwhile are the batch of another worker, or the next one.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import takewhile

import numpy as np
import torch
from transformers import GenerationConfig

from ..decoding.generation_config import (
    changed_settings,
    end_token_ids,
    finish_reason,
    most_new_tokens,
)
from ..decoding.running_batch import JOINABLE, RunningBatch
from ..errors import UsageError
from ..portable.context import decode_texts, encode_context, pad
from ..portable.options import EXTRA_OPTIONS, checked_options, extra_options
from .exported_model import ExportedModel
from .inference import encode_contexts, generate_batches
from .jobs import Abandoned, Choice, Job, Piece
from .safety import Safety
from .text_stream import cut_at_stop

logger = logging.getLogger(__name__)
MOST_ROWS = 64  # replies that are decoded at once
GATHER_SECONDS = 0.003  # to wait for more requests, where they could not join later
# Settings of decoding with which tokens can be handed out as they are chosen. With any other the
# whole reply is waited for.
STREAMED = {
    "do_sample",
    "early_stopping",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "min_new_tokens",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "repetition_penalty",
    "temperature",
    "top_k",
    "top_p",
}


class QueueFull(Exception):
    """More requests wait than may."""


class Stopping(Exception):
    """The server takes no more requests."""


class Scheduler:
    """Answers jobs by a loaded model.

    Args:
        most_waiting: jobs; more are refused.
        safety: a filter, under which no part of a reply is told before it is whole.
    """

    def __init__(self, model, tokenizer, most_waiting: int, safety: Safety | None = None):
        self.model, self.tokenizer, self.most_waiting = model, tokenizer, most_waiting
        self.safety = safety
        self.is_stopping = False
        self._waiting: dict[bool, deque[Job]] = {True: deque(), False: deque()}  # token by token?
        self._changed = threading.Condition()  # guards all that is above
        if isinstance(model, ExportedModel):
            streams = [self._stream_export] * model.workers
        else:
            streams = [self._stream_pytorch]
        # A tokenizer is not for several threads at once: each has its own.
        self._threads = [
            threading.Thread(target=work, args=(deepcopy(tokenizer),), daemon=True)
            for work in (*streams, self._answer_whole)
        ]
        for thread in self._threads:
            thread.start()

    # For the thread of the server

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFull, Stopping: it is not taken.
            ValueError: its context holds no text, or the model cannot decode so.
        """
        checked_options(job.options, self.model.config)
        job.source_ids = encode_context(job.context, self.tokenizer)
        config = self._config(job)
        options = tuple(sorted(job.options.items()))
        streamed = changed_settings(config) <= STREAMED and (config.num_beams or 1) == 1
        streamed = streamed and self.safety is None
        if not config.do_sample:
            job.seed = None
        elif isinstance(self.model, ExportedModel) and job.seed is not None:
            raise UsageError(
                f"seed is {job.seed}, but this server samples by the seed of its process alone: "
                "leave it out, or start the server with --no-export."
            )
        job.kind = options
        if not streamed:  # replies by one seed depend on what is in their batch
            job.kind += (job.count, None if job.seed is None else id(job))
        with self._changed:
            if self.is_stopping:
                raise Stopping
            if self.waiting >= self.most_waiting:
                raise QueueFull
            self._waiting[streamed].append(job)
            self._changed.notify_all()

    def cancel(self, job: Job) -> None:
        """Stop computing a job, whose client has gone."""
        job.is_cancelled = True
        with self._changed:
            for queue in self._waiting.values():
                if job in queue:
                    queue.remove(job)

    def stop(self) -> None:
        """Take no more jobs; the threads end when those that are here are answered."""
        with self._changed:
            self.is_stopping = True
            self._changed.notify_all()

    @property
    def has_ended(self) -> bool:
        """Whether no thread works any more, as all jobs are answered after `stop`."""
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """The number of jobs that nothing has been done for yet."""
        return sum(map(len, self._waiting.values()))

    # For the threads of the scheduler

    def _config(self, job: Job) -> GenerationConfig:
        """Return the settings that a job is decoded by."""
        config = deepcopy(self.model.generation_config)
        config.update(**job.options)
        return config

    def _take(self, streamed: bool, room: int, block: bool, gather: bool) -> list[Job]:
        """Take the job that waits longest and others of its kind; none where the work is over.

        Args:
            room: replies that they may have together; the first may have more.
            block: wait for a job, until there are to be no more.
            gather: then wait a moment for others.
        """
        queue = self._waiting[streamed]
        with self._changed:
            while True:
                if block:
                    self._changed.wait_for(lambda: queue or self.is_stopping)
                if gather:
                    self._changed.wait_for(lambda: len(queue) >= room, timeout=GATHER_SECONDS)
                if queue or not block or self.is_stopping:  # else its client has gone meanwhile
                    break
            taken: list[Job] = []
            for job in [job for job in queue if job.kind == queue[0].kind]:
                room -= job.count
                if room < 0 and taken:
                    break
                taken.append(job)
            for job in taken:
                queue.remove(job)
        return taken

    @contextmanager
    def _telling_errors(self, jobs: Iterable[Job]) -> Iterator[None]:
        """Tell jobs what has gone wrong, which ends them."""
        try:
            yield
        except Exception as error:
            if not isinstance(error, ValueError):
                logger.exception("requests have failed")
            for job in jobs:
                job.tell(error)
                job.is_cancelled = True

    def _stream_pytorch(self, tokenizer) -> None:
        """Answer jobs token by token, by PyTorch."""
        joinable = self.model.config.model_type in JOINABLE
        batches: list[RunningBatch] = []
        while True:
            room = MOST_ROWS - sum(len(batch.rows) for batch in batches)
            jobs = []
            if room > 0:
                block = not batches
                jobs = self._take(True, room, block=block, gather=block and not joinable)
            if not jobs and not batches:
                return
            if jobs:
                with self._telling_errors(jobs):
                    batches.append(self._begin(jobs, tokenizer))
            for batch in batches:
                self._advance(batch)
            batches = [batch for batch in batches if any(row.goes_on for row in batch.rows)]
            if joinable and len(batches) > 1:
                batches = [self._join(*batches)]

    def _choices(self, jobs: Sequence[Job], tokenizer) -> list[Choice]:
        """List the replies to make, those of a job side by side."""
        ends = end_token_ids(self.model.generation_config)
        return [Choice(job, i, tokenizer, ends) for job in jobs for i in range(job.count)]

    def _begin(self, jobs: Sequence[Job], tokenizer) -> RunningBatch:
        rows = self._choices(jobs, tokenizer)
        config = self._config(jobs[0])
        draws = None
        if config.do_sample:
            longest = most_new_tokens(config)
            draws = torch.stack([draw(row.job.seed, row.index, longest) for row in rows])
            draws = draws.to(self.model.device)
        sources = pad(
            [row.job.source_ids for row in rows], tokenizer.pad_token_id, self.model.device
        )
        options = {
            name: jobs[0].options[name] for name in jobs[0].options if name not in EXTRA_OPTIONS
        }
        options |= {"num_return_sequences": 1}
        return RunningBatch.begin(self.model, rows, *sources, draws, **options)

    def _join(self, batch: RunningBatch, other: RunningBatch) -> RunningBatch:
        with self._telling_errors({row.job for row in [*batch.rows, *other.rows]}):
            batch.join(other)
        return batch

    def _advance(self, batch: RunningBatch) -> None:
        with self._telling_errors({row.job for row in batch.rows}):
            for step in batch.step():
                step.row.take(step.token_id, step.finish_reason)
            batch.keep(lambda row: row.goes_on)

    def _stream_export(self, tokenizer) -> None:
        """Answer jobs token by token, by CTranslate2."""
        most = self.model.about.get("max_batch_size") or MOST_ROWS
        while jobs := self._take(True, most, block=True, gather=True):
            rows = self._choices(jobs, tokenizer)
            with self._telling_errors(jobs):
                for start in range(0, len(rows), most):
                    self._stream_rows(rows[start : start + most], tokenizer)

    def _stream_rows(self, rows: Sequence[Choice], tokenizer) -> None:
        def on_token(place: int, token_id: int, is_last: bool) -> bool:
            row = rows[place]
            reason = ("stop" if token_id in row.ends else "length") if is_last else None
            row.take(token_id, reason)
            return not row.goes_on

        sources = pad([row.job.source_ids for row in rows], tokenizer.pad_token_id, "cpu")
        options = rows[0].job.options | {"num_return_sequences": 1}
        self.model.generate(*sources, on_token=on_token, **options)

    def _answer_whole(self, tokenizer) -> None:
        """Answer jobs by whole replies, told at their end."""
        while jobs := self._take(False, MOST_ROWS, block=True, gather=True):
            with self._telling_errors(jobs):
                self._decode_whole(jobs, tokenizer)

    def _decode_whole(self, jobs: Sequence[Job], tokenizer) -> None:
        """Decode the replies to jobs of one kind together, and tell them."""
        first, config = jobs[0], self._config(jobs[0])
        options = first.options | self._ways_to(first.count, first.options, config)
        abandoned = Abandoned(jobs)
        if not isinstance(self.model, ExportedModel):
            options["stopping_criteria"] = [abandoned]
        elif (config.num_beams or 1) == 1:
            options["on_token"] = abandoned.are_gone
        if first.seed is None:
            torch.seed()  # not that of the last request
        else:
            torch.manual_seed(first.seed % 2**63)
        ids = encode_contexts([job.context for job in jobs], tokenizer, self.safety)
        for places, replies in generate_batches(ids, self.model, tokenizer, **options):
            for place, rows in zip(places, replies, strict=True):
                job = jobs[place]
                self._tell_whole(job, rows.expand(job.count, -1), config, tokenizer)

    def _ways_to(self, count: int, options: Mapping, config) -> dict:
        """Return the options by which as many replies are decoded; greedily all are one."""
        beams = config.num_beams or 1
        candidates = extra_options(self.model, options)["candidates"]
        if beams == candidates == 1 and not config.do_sample:
            return {"num_return_sequences": 1}
        ways = {"num_return_sequences": count}
        if candidates > 1:
            ways["candidates"] = max(candidates, count)
        if beams > 1:
            ways["num_beams"] = max(beams, ways.get("candidates", count))
        return ways

    def _tell_whole(self, job: Job, rows: torch.Tensor, config, tokenizer) -> None:
        """Tell the replies to a job, (replies, target_len), or what the filter puts in place."""
        texts = shown = decode_texts(rows, tokenizer)
        if self.safety is not None:
            shown = self.safety.filtered([job.context], [texts])[0]
        others = {*end_token_ids(config), config.pad_token_id}
        for index, (row, text) in enumerate(zip(rows.tolist(), shown, strict=True)):
            tokens = list(takewhile(lambda token_id: token_id not in others, row[1:]))
            has_end = len(tokens) + 1 < len(row)
            reason = finish_reason(config, len(tokens) + has_end, has_end)
            cut = cut_at_stop(text, job.stop) if text == texts[index] else None
            if cut is not None or text != texts[index]:
                reason = "stop"
            job.tell(Piece(index, text if cut is None else cut, reason, len(tokens)))


def draw(seed: int | None, index: int, count: int) -> torch.Tensor:
    """Draw numbers to sample a reply by, (count,): the same for the same seed and index."""
    seed = secrets.randbits(64) if seed is None else seed % 2**64
    return torch.from_numpy(np.random.default_rng((seed, index)).random(count, dtype=np.float32))
