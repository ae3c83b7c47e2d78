"""Turns to model input: the only definition of a dialogue's textual form.

A context is the utterances so far, oldest first. Its text is the utterances with `__eou__` between
them. Its ids are those of that text, with the special tokens of the tokenizer around them:

    ["Hi!", "How are you?"]  ->  "Hi!__eou__How are you?"  ->  Hi ! __eou__ How are you ? </s>

Training, evaluation, `generate_response`, the chat template and the pipeline all use this file. A
context of one turn is the plain text, so that a plain call on older libraries gives the same ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TURN_SEPARATOR = "__eou__"


def as_turns(context: str | Sequence[str] | Sequence[Mapping[str, str]]) -> list[str]:
    """List the turns of a context that hold text, with single spaces for white space.

    Args:
        context: one string (several turns when `__eou__` stands between them), a list of turns,
            or a list of chat messages `{"role": ..., "content": ...}`; oldest first.
    """
    parts = [context] if isinstance(context, str) else context
    turns = []
    try:
        for part in parts:
            text = part["content"] if isinstance(part, Mapping) else part
            turns += [" ".join(turn.split()) for turn in text.split(TURN_SEPARATOR)]
    except (AttributeError, KeyError, TypeError) as error:
        raise TypeError(
            f"A context is a string, a list of turns or a list of messages with 'content'; "
            f"got {context!r}."
        ) from error
    turns = [turn for turn in turns if turn]
    if not turns:
        raise ValueError(f"A context needs at least one turn that holds text; got {context!r}.")
    return turns


def special_ids(tokenizer) -> tuple[list[int], list[int]]:
    """Return the ids a tokenizer puts before and after a text: `([], [1])` for T5."""
    text = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    start = next(i for i in range(len(whole)) if whole[i : i + len(text)] == text)
    return whole[:start], whole[start + len(text) :]


def join_turns(
    turn_ids: Sequence[Sequence[int]],
    separator_id: int,
    around: tuple[list[int], list[int]],
    max_length: int,
) -> tuple[list[int], int]:
    """Join tokenised turns, at least one, to one input, cut from the left at whole turns.

    If the last turn alone is too long, it is cut itself, also from the left. `around` are the ids
    before and after the text, of `special_ids`. Also returns how many turns did not fit whole.
    """
    before, after = around
    room = max_length - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"max_length is {max_length}, but {len(before) + len(after) + 1} is the least."
        )
    last = list(turn_ids[-1])
    ids, kept = last[-room:], int(len(last) <= room)
    if kept:
        for turn in reversed(turn_ids[:-1]):
            if len(ids) + 1 + len(turn) > room:
                break
            ids = [*turn, separator_id, *ids]
            kept += 1
    return [*before, *ids, *after], len(turn_ids) - kept


def encode_context(context, tokenizer) -> list[int]:
    """Encode a context (see `as_turns`) to at most `tokenizer.model_max_length` input ids."""
    turn_ids = tokenizer(as_turns(context), add_special_tokens=False)["input_ids"]
    separator_id = tokenizer.convert_tokens_to_ids(TURN_SEPARATOR)
    return join_turns(turn_ids, separator_id, special_ids(tokenizer), tokenizer.model_max_length)[0]


def chat_template(tokenizer) -> str:
    """Write the Jinja chat template that gives the ids of `encode_context`, uncut."""
    before, after = map(tokenizer.convert_ids_to_tokens, special_ids(tokenizer))
    turns = (
        "{% for message in messages %}"
        "{% if not loop.first %}" + TURN_SEPARATOR + "{% endif %}"
        "{{ message['content'].split() | join(' ') }}"
        "{% endfor %}"
    )
    return "".join([*before, turns, *after])
