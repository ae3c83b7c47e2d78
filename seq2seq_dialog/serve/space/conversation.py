"""A dialogue on the page: what happens as a visitor types, and how the replies come.

Like app.py, it needs transformers, torch and gradio alone.
"""

from __future__ import annotations

import html
import re
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
# The box that messages are typed into, during a reply and else.
REPLYING = {"value": "", "interactive": False, "submit_btn": False, "stop_btn": True}
READY = {"interactive": True, "submit_btn": True, "stop_btn": False}
# Keeps Gradio from taking what follows for a tag or an entity; nobody sees it.
NO_TAG = "\u2060"  # word joiner
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
        options = dict(options)
        if options.get("candidates") == self.saved("candidates"):  # not every engine knows them
            del options["candidates"]
        return self.answer(messages, **options)

    def saved(self, name: str) -> int:
        """Return a number that the model has saved, such as that of its beams; 1 without."""
        return getattr(self.model.generation_config, name, None) or 1


def connect(
    chatbots: Sequence[gr.Chatbot],
    message_box: gr.Textbox,
    controls: Sequence,
    answer: Callable[[list, Sequence], Iterator[list]],
) -> None:
    """Connect chatbots that answer the same message: say, retry, edit, undo, clear, stop.

    `answer` gets the history of each chatbot, which ends in what was said, and the values of the
    controls; it yields the histories as the replies grow.
    """
    count = len(chatbots)
    outputs = [message_box, *chatbots]

    def turn(prompt: str, before: Sequence, inputs: Sequence) -> Iterator[tuple]:
        shown, values = inputs[:count], inputs[count:]
        said = [[*history, message("user", prompt)] for history in before]
        try:
            check_message(prompt)
            yield gr.update(**REPLYING), *said
            for grown in answer(said, values):
                yield gr.skip(), *grown
        except ValueError as error:  # such as settings that do not go together: nothing is lost
            gr.Warning(str(error))  # an error of Gradio would cover the dialogue
            yield gr.update(value=prompt), *shown

    def say(prompt: str, *inputs):
        yield from turn(prompt, inputs[:count], inputs)

    def open_with(event: gr.SelectData, *inputs):
        yield from turn(event.value["text"], [[]] * count, inputs)

    def retry(event: gr.RetryData, *inputs):
        yield from turn(*rewind(event, chatbots, inputs[:count]), inputs)

    def edit(event: gr.EditData, *inputs):
        shown = before_edit(event, chatbots, inputs[:count])
        _, before = rewind(event, chatbots, shown)
        yield from turn(text(event.value), before, [*shown, *inputs[count:]])

    def undo(event: gr.UndoData, *histories):
        prompt, histories = rewind(event, chatbots, histories)
        return prompt, *histories

    shared = {"api_visibility": "private", "show_progress": "hidden"}
    replying = shared | {"outputs": outputs, "concurrency_id": "reply"}
    inputs = [*chatbots, *controls]
    events = [message_box.submit(say, [message_box, *inputs], **replying)]
    for chatbot in chatbots:
        events += [
            chatbot.example_select(open_with, inputs, **replying),
            chatbot.retry(retry, inputs, **replying),
            chatbot.edit(edit, inputs, **replying),
        ]
        chatbot.undo(undo, chatbots, outputs, queue=False, **shared)
    for event in events:
        event.then(lambda: gr.update(**READY), None, message_box, queue=False, **shared)
    message_box.stop(None, cancels=events, **shared)
    for chatbot in chatbots:  # a reply that went on would bring the dialogue back
        stopped = chatbot.clear(None, cancels=events, **shared)
        stopped.then(lambda: (gr.skip(), *[[]] * count), None, outputs, queue=False, **shared)


def rewind(event, chatbots: Sequence[gr.Chatbot], histories: Sequence) -> tuple[str, list]:
    """Return what the visitor said in the turn of an event, and the histories before it."""
    place, index = place_of(event, chatbots)
    return before_turn(histories, count_turns(histories[place][: index + 1]) - 1)


def before_edit(event, chatbots: Sequence[gr.Chatbot], histories: Sequence) -> list:
    """Return histories as they were; Gradio gives what was edited with its new words already."""
    place, index = place_of(event, chatbots)
    history = list(histories[place])
    history[index] = history[index] | {"content": event.previous_value}
    return [*histories[:place], history, *histories[place + 1 :]]


def place_of(event, chatbots: Sequence[gr.Chatbot]) -> tuple[int, int]:
    """Return in which chatbot an event is, and at which message of its history."""
    place = [chatbot._id for chatbot in chatbots].index(event.target._id)
    return place, event.index[0] if isinstance(event.index, (list, tuple)) else event.index


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
        raise ValueError(SAY_SOMETHING)
    if len(message) > LONGEST_MESSAGE:
        raise ValueError(TOO_LONG)


def replier(speaker: Speaker) -> Callable[..., Iterator[list]]:
    """Make the function that replies to a history; it yields the messages to add as they grow."""

    @GPU(duration=15)  # seconds
    def generate(messages: list[dict], options: dict) -> Iterator[str]:
        yield from stream(speaker, messages, options)

    def reply(history: Sequence, options: dict, shown: Sequence[str] = ()) -> Iterator[list]:
        messages, said = as_messages(history), ""
        start = time.perf_counter()
        for said in generate(messages, options):
            yield [message("assistant", said)]
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
        yield [message("assistant", said), *under]

    return reply


def message(role: str, content: str | Mapping) -> dict:
    """Make a message of a history: a text as `text` reads it, or a file."""
    return {"role": role, "content": escaped(content) if isinstance(content, str) else content}


def escaped(words: str) -> str:
    """Write words so that they are shown as they are: Gradio takes tags and entities for HTML.

    Entities would not do, since who edits a message or copies the dialogue sees what is written.
    """

    def as_text(match: re.Match) -> str:
        sign = match[0]
        return sign if html.unescape(sign) == sign else f"&{NO_TAG}{sign[1:]}"

    return re.sub(r"<(?=[a-zA-Z/!?])", f"<{NO_TAG}", re.sub(r"&[#\w]\w*;?", as_text, words))


def folded(title: str, content: str | Mapping) -> dict:
    """Make what is folded under a reply."""
    return message("assistant", content) | {"metadata": {"title": title, "status": "done"}}


def as_messages(history: Sequence[Mapping]) -> list[dict]:
    """Return the latest messages of a dialogue, without what is folded under replies."""
    messages = [
        {"role": message["role"], "content": text(message["content"])}
        for message in history[-2 * MOST_TURNS :]
        if not (message.get("metadata") or {}).get("title")
    ]
    if any(len(message["content"]) > LONGEST_MESSAGE for message in messages):
        raise ValueError(TOO_LONG)
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
    if any(options.get(name, speaker.saved(name)) > 1 for name in ("num_beams", "candidates")):
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
    lines = [f"The model reads {len(ids)} tokens, of {most} at most:", " ".join(tokens)]
    if cut:
        lines += ["", "Cut, as it does not fit:", *cut]
    if len(tokenizer(turns[-1], verbose=False)["input_ids"]) > most:
        lines += ["", "The beginning of the last message does not fit."]
    return "\n".join(lines)


def text(content: str | list[dict]) -> str:
    """Return the words of a turn, which Gradio passes as a string or in parts, `escaped`."""
    if not isinstance(content, str):
        content = " ".join(part["text"] for part in content if part["type"] == "text")
    return content.replace(NO_TAG, "")
