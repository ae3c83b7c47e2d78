"""A dialogue on the page: what happens as a visitor types, and how the replies come.

Like app.py, it needs transformers, torch and gradio alone.
"""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import gradio as gr
import torch
from transformers import TextIteratorStreamer

try:
    from spaces import GPU  # installed on ZeroGPU hardware; it has to be imported before torch
except ImportError:

    def GPU(**_):
        """Return a function as it is, where there is no GPU to ask for."""
        return lambda function: function


LONGEST_MESSAGE = 4000  # letters, far more than a model reads
MOST_TURNS = 256  # of a dialogue that are looked at, the latest
SEPARATOR = "__eou__"  # the token between two turns, as in context.py
PAUSE = 0.05  # seconds from one sight of a growing reply to the next, each of which costs some ms
TOO_LONG = f"The message is too long: at most {LONGEST_MESSAGE:,} letters."
SAY_SOMETHING = "Say something first: the message is empty."


def text_turns(messages: Sequence[Mapping]) -> list[str]:
    """List what messages say, without those that are empty."""
    return [message["content"] for message in messages if message["content"].strip()]


class Speaker(NamedTuple):
    """A model that answers on the page."""

    name: str  # user/name on the Hub, or a folder
    model: object
    tokenizer: object
    answer: Callable[..., str]  # the reply to a list of messages, by options of generate()
    encode: Callable[[list], Sequence[int]]  # the ids that the model reads of messages, or of turns
    # What can be shown under a reply: its title, and a function of messages, reply and options.
    extras: Mapping[str, Callable] = {}
    # The turns of messages that a filter, if any, lets the model read; None: not even the last.
    readable: Callable[[list], list[str] | None] = text_turns

    def reply(self, messages: list[dict], options: dict) -> str:
        """Reply by options of the page; one that is as the model has it saved is not passed on."""
        saved = getattr(self.model.generation_config, "candidates", None) or 1
        options = dict(options)
        if options["candidates"] == saved:  # not every model and engine knows candidates
            del options["candidates"]
        return self.answer(messages, **options)


def connect(
    chatbots: Sequence[gr.Chatbot],
    message: gr.Textbox,
    controls: Sequence,
    answer: Callable[[list, Sequence], Iterator[list]],
) -> None:
    """Connect chatbots that answer the same message: say, retry, edit, undo, clear, stop.

    `answer` gets the history of each chatbot, which ends in what was said, and the values of the
    controls; it yields the histories as the replies grow.
    """
    count = len(chatbots)
    outputs = [message, *chatbots]

    def turn(prompt: str, histories: Sequence, values: Sequence) -> Iterator[tuple]:
        check_message(prompt)
        said = [[*history, {"role": "user", "content": prompt}] for history in histories]
        yield gr.update(value="", interactive=False, submit_btn=False, stop_btn=True), *said
        try:
            for grown in answer(said, values):
                yield gr.skip(), *grown
        except ValueError as error:  # settings that do not go together: nothing typed is lost
            gr.Warning(str(error))
            yield gr.update(value=prompt), *histories

    def say(prompt: str, *inputs):
        yield from turn(prompt, inputs[:count], inputs[count:])

    def open_with(event: gr.SelectData, *inputs):
        yield from turn(event.value["text"], [[]] * count, inputs[count:])

    def retry(event: gr.RetryData, *inputs):
        yield from turn(*rewind(event, chatbots, inputs[:count]), inputs[count:])

    def edit(event: gr.EditData, *inputs):
        _, before = rewind(event, chatbots, inputs[:count])
        yield from turn(event.value, before, inputs[count:])

    def undo(event: gr.UndoData, *histories):
        prompt, histories = rewind(event, chatbots, histories)
        return prompt, *histories

    shared = {"api_visibility": "private", "show_progress": "hidden"}
    replying = shared | {"outputs": outputs, "concurrency_id": "reply"}
    inputs = [*chatbots, *controls]
    events = [message.submit(say, [message, *inputs], **replying)]
    for chatbot in chatbots:
        events += [
            chatbot.example_select(open_with, inputs, **replying),
            chatbot.retry(retry, inputs, **replying),
            chatbot.edit(edit, inputs, **replying),
        ]
        chatbot.undo(undo, chatbots, outputs, queue=False, **shared)
        chatbot.clear(lambda: [[]] * count, None, chatbots, queue=False, **shared)
    ready = {"interactive": True, "submit_btn": True, "stop_btn": False}
    for event in events:
        event.then(lambda: gr.update(**ready), None, message, queue=False, **shared)
    message.stop(None, cancels=events, api_visibility="private")


def rewind(event, chatbots: Sequence[gr.Chatbot], histories: Sequence) -> tuple[str, list]:
    """Return what the visitor said in the turn of an event, and the histories before it."""
    place = [chatbot._id for chatbot in chatbots].index(event.target._id)
    index = event.index[0] if isinstance(event.index, (list, tuple)) else event.index
    return before_turn(histories, count_turns(histories[place][: index + 1]) - 1)


def count_turns(history: Sequence[Mapping]) -> int:
    """Count what the visitor has said."""
    return sum(message["role"] == "user" for message in history)


def before_turn(histories: Sequence, turn: int) -> tuple[str, list]:
    """Return what the visitor said in a turn, counted from 0, and the histories before it."""
    prompt, before = "", []
    for history in histories:
        places = [i for i, message in enumerate(history) if message["role"] == "user"]
        prompt = text(history[places[turn]]["content"])
        before.append(history[: places[turn]])
    return prompt, before


def check_message(message: str) -> None:
    """Refuse a message that is empty or too long."""
    if not (message or "").strip():
        raise gr.Error(SAY_SOMETHING, print_exception=False)
    if len(message) > LONGEST_MESSAGE:
        raise gr.Error(TOO_LONG, print_exception=False)


def replier(speaker: Speaker) -> Callable[..., Iterator[list]]:
    """Make the function that replies to a history; it yields the messages to add as they grow."""

    @GPU(duration=15)  # seconds
    def generate(messages: list[dict], options: dict) -> Iterator[str]:
        yield from stream(speaker, messages, options)

    def reply(history: Sequence, options: dict, shown: Sequence[str] = ()) -> Iterator[list]:
        messages, said = as_messages(history), ""
        start = time.perf_counter()
        for said in generate(messages, options):
            yield [{"role": "assistant", "content": said}]
        seconds = time.perf_counter() - start
        if not said:
            gr.Info("The reply is empty. Say something else, or let the model sample.")
        size = len(speaker.tokenizer(said)["input_ids"])
        heading = f"{seconds:.2f} s · {size} tokens, {size / seconds:.1f} a second"
        under = [folded(heading, reading(speaker, messages))]
        for title in shown:
            try:
                under.append(folded(title, speaker.extras[title](messages, said, options)))
            except ValueError as error:  # what this model cannot show
                under.append(folded(title, str(error)))
        yield [{"role": "assistant", "content": said}, *under]

    return reply


def folded(title: str, content) -> dict:
    """Make what is folded under a reply."""
    metadata = {"title": title, "status": "done"}  # which folds it
    return {"role": "assistant", "content": content, "metadata": metadata}


def as_messages(history: Sequence[Mapping]) -> list[dict]:
    """Return the latest messages of a dialogue, without what is folded under replies."""
    messages = [
        {"role": message["role"], "content": text(message["content"])}
        for message in history[-2 * MOST_TURNS :]
        if not (message.get("metadata") or {}).get("title")
    ]
    if any(len(message["content"]) > LONGEST_MESSAGE for message in messages):
        raise gr.Error(TOO_LONG, print_exception=False)
    return messages[-MOST_TURNS:]


class Stopped(Exception):
    """Nobody waits for the reply any more."""


class Streamer(TextIteratorStreamer):
    """The words of a reply, for another thread than that of `generate()`, which it can stop."""

    stopped = False

    def put(self, value: torch.Tensor) -> None:
        if self.stopped:
            raise Stopped
        super().put(value)


def stream(speaker: Speaker, messages: list[dict], options: dict) -> Iterator[str]:
    """Yield a reply as it grows, word by word; with beams or candidates, the whole reply alone."""
    if options["num_beams"] > 1 or options["candidates"] > 1:
        yield speaker.reply(messages, options)
        return
    streamer = Streamer(speaker.tokenizer, skip_prompt=True, skip_special_tokens=True)
    with ThreadPoolExecutor(1) as pool:
        whole = pool.submit(speaker.reply, messages, options | {"streamer": streamer})
        whole.add_done_callback(lambda _: streamer.end())  # where generate() fails, it has not
        said, shown_at = "", 0.0
        try:
            for words in streamer:
                said += words
                if words and time.perf_counter() - shown_at > PAUSE:
                    yield said.strip()
                    shown_at = time.perf_counter()
        finally:
            streamer.stopped = True
    yield whole.result()


def reading(speaker: Speaker, messages: Sequence[Mapping]) -> str:
    """Word what the model reads of a dialogue: its tokens, and what was cut."""
    tokenizer, most = speaker.tokenizer, speaker.tokenizer.model_max_length
    turns = speaker.readable(messages)
    if turns is None:
        return "The filter has kept the last message from the model."
    ids = speaker.encode(turns)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    cut = turns[: -1 - tokens.count(SEPARATOR)]
    shown = html.escape(" ".join(tokens))  # else </s> is taken for a tag, and not shown
    lines = [f"The model reads {len(ids)} tokens, of {most} at most:", shown]
    if cut:
        lines += ["", "Cut, as it does not fit:", *cut]
    if len(tokenizer(turns[-1], verbose=False)["input_ids"]) > most:
        lines += ["", "The beginning of the last message does not fit."]
    return "\n".join(lines)


def text(content: str | list[dict]) -> str:
    """Return the text of a turn, which Gradio passes as a string or in parts."""
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")
