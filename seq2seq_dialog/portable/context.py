"""Turns to model input: the only definition of a dialogue's textual form.

A context is the utterances so far, oldest first. Its text is the utterances with `__eou__` between
them. Its ids are those of that text, with the special tokens of the tokenizer around them:

    ["Hi!", "How are you?"]  ->  "Hi!__eou__How are you?"  ->  Hi ! __eou__ How are you ? </s>

Training, evaluation, `generate_response`, the chat template and the pipeline all use this file. A
context of one turn is the plain text, so that a plain call on older libraries gives the same ids.

What stands before a dialogue is turns of their own at its front: an instruction (a system message),
who the model is, what it knows. They are cut last:

    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi!"}]
    ->  "instruction: Be kind.__eou__Hi!"

What people write is text, never control: no one can forge a turn or end a reply by writing
`__eou__` or `</s>`, which are read as `_ _eou__` and `< /s>`. There is one exception: in a context
that is one plain string, `__eou__` stands between turns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import torch
from torch.nn.utils.rnn import pad_sequence

TURN_SEPARATOR = "__eou__"
# What the turns before a dialogue begin with, by the role of the message that gives them.
BACKGROUND = {"system": "instruction: ", "persona": "persona: ", "knowledge": "knowledge: "}


def as_turns(context: str | Sequence[str] | Sequence[Mapping[str, str]]) -> list[str]:
    """List the turns of a context that hold text, with single spaces for white space.

    Args:
        context: one string (several turns when `__eou__` stands between them), a list of turns,
            a chat message `{"role": ..., "content": ...}` or a list of such; oldest first. In lists
            and messages, `__eou__` is text. Wherever messages with a role of `BACKGROUND` are,
            their texts stand before the dialogue, a turn a role, as in training.
    """
    parts = context.split(TURN_SEPARATOR) if isinstance(context, str) else context
    parts = [parts] if isinstance(parts, Mapping) else parts
    try:
        if isinstance(parts, (set, frozenset)):
            raise TypeError("a set has no order")
        dialogue, background = [], {role: [] for role in BACKGROUND}
        for part in parts:
            role = part.get("role") if isinstance(part, Mapping) else None
            background.get(role, dialogue).append(" ".join(_text(part).split()))
    except (AttributeError, KeyError, TypeError) as error:
        raise TypeError(
            f"A context is a string, a list of turns or a list of messages with 'content'; "
            f"got {context!r}."
        ) from error
    turns = [
        BACKGROUND[role] + " ".join(filter(None, texts))
        for role, texts in background.items()
        if any(texts)
    ]
    turns += filter(None, dialogue)
    if not turns:
        raise ValueError(f"A context needs at least one turn that holds text; got {context!r}.")
    if re.search("[\ud800-\udfff]", "".join(turns)):
        raise ValueError(
            f"A context has half of a character (a surrogate without its other half): {context!r}."
        )
    return turns


def _text(part: str | Mapping[str, str]) -> str:
    if not isinstance(part, Mapping):
        return part
    content = part["content"]
    if not isinstance(content, str):  # parts, as OpenAI has them
        content = " ".join(each["text"] for each in content)
    return content


def count_background(turns: Sequence[str]) -> int:
    """Count the turns at the front that stand before the dialogue."""
    count = 0
    while count < len(turns) - 1 and turns[count].startswith(tuple(BACKGROUND.values())):
        count += 1
    return count


def encode_texts(texts: Sequence[str], tokenizer) -> list[list[int]]:
    """Encode texts without special tokens around them or in them: turns, and replies to learn.

    A space parts what is spelled like a special token. The tokenizer's `split_special_tokens` is
    not enough: the unigram model of a T5 finds `</s>` among its pieces all the same.
    """
    spelled = _special_tokens(tokenizer)
    ids = _encode(texts, tokenizer)
    for place, text in enumerate(texts):
        if spelled.keys().isdisjoint(ids[place]):
            continue
        parted = text
        for token in spelled.values():
            parted = parted.replace(token, f"{token[0]} {token[1:]}")
        if parted != text:
            (ids[place],) = _encode([parted], tokenizer)
        # A normalizer can make one of other characters, such as full-width letters: left out.
        control = spelled.keys() - {tokenizer.unk_token_id}
        ids[place] = [token_id for token_id in ids[place] if token_id not in control]
    return ids


def _special_tokens(tokenizer) -> dict[int, str]:
    """Return the special tokens by id, in an order that does not depend on the library."""
    added = tokenizer.added_tokens_decoder
    return {number: added[number].content for number in sorted(added) if added[number].special}


def _encode(texts: Sequence[str], tokenizer) -> list[list[int]]:
    if not tokenizer.is_fast:
        return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    backend = tokenizer.backend_tokenizer  # a call makes masks and offsets, in twice the time
    backend.no_padding()  # an earlier call may have set both
    backend.no_truncation()
    return [encoding.ids for encoding in backend.encode_batch_fast(texts, add_special_tokens=False)]


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
    background: int = 0,
) -> tuple[list[int], int]:
    """Join tokenised turns, at least one, to one input, cut at whole turns, the oldest first.

    If the last turn alone is too long, it is cut itself, from the left. `around` are the ids before
    and after the text, of `special_ids`. The first `background` turns are cut after all but the
    last, from the right. Also returns how many turns did not fit whole.
    """
    before, after = around
    room = max_length - len(before) - len(after)
    if room < 1:
        raise ValueError(
            f"max_length is {max_length}, but {len(before) + len(after) + 1} is the least."
        )
    ids, front = list(turn_ids[-1][-room:]), []
    kept = int(len(ids) == len(turn_ids[-1]))
    room -= len(ids)
    for turn in turn_ids[:background]:
        if room < 2:
            break
        part = turn[: room - 1]
        front += [*part, separator_id]
        kept += len(part) == len(turn)
        room -= len(part) + 1
    for turn in reversed(turn_ids[background:-1]):
        if len(turn) + 1 > room:
            break
        ids = [*turn, separator_id, *ids]
        kept += 1
        room -= len(turn) + 1
    return [*before, *front, *ids, *after], len(turn_ids) - kept


def encode_context(context, tokenizer) -> list[int]:
    """Encode a context (see `as_turns`) to at most `tokenizer.model_max_length` input ids."""
    turns = as_turns(context)
    return join_turns(
        encode_texts(turns, tokenizer),
        tokenizer.convert_tokens_to_ids(TURN_SEPARATOR),
        special_ids(tokenizer),
        tokenizer.model_max_length,
        count_background(turns),
    )[0]


def pad(
    rows: Sequence[Sequence[int]], fill: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Fill rows of ids up to the longest; return them and their mask, (rows, length) each."""
    tensors = [torch.tensor(row) for row in rows]
    masks = [torch.ones_like(row) for row in tensors]
    padded = pad_sequence(tensors, batch_first=True, padding_value=fill)
    mask = pad_sequence(masks, batch_first=True)
    return padded.to(device), mask.to(device)


def decode_texts(ids, tokenizer) -> list[str]:
    """Write ids (texts, length), a tensor or lists, as texts without special tokens."""
    return [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def chat_template(tokenizer) -> str:
    """Write the Jinja chat template that gives the ids of `encode_context`, uncut.

    It parts what is spelled like a special token, but cannot see what a normalizer makes one.
    """
    before, after = map(tokenizer.convert_ids_to_tokens, special_ids(tokenizer))
    spelled = json.dumps(list(_special_tokens(tokenizer).values()))
    turns = (
        "{% macro words(message) %}"
        "{% set said = message['content'] %}"
        "{% set said = said if said is string else said | map(attribute='text') | join(' ') %}"
        "{% set turn = namespace(text=said.split() | join(' ')) %}"
        "{% for token in " + spelled + " %}"
        "{% set turn.text = turn.text.replace(token, token[0] + ' ' + token[1:]) %}"
        "{% endfor %}"
        "{{ turn.text }}"
        "{% endmacro %}"
        "{% set background = " + json.dumps(BACKGROUND) + " %}"
        "{% set all = namespace(turns=[]) %}"
        "{% for role, before in background.items() %}"
        "{% set texts = namespace(of_role=[]) %}"
        "{% for message in messages if message['role'] == role %}"
        "{% set texts.of_role = texts.of_role + [words(message)] %}"
        "{% endfor %}"
        "{% set text = texts.of_role | select | join(' ') %}"
        "{% set all.turns = all.turns + ([before + text] if text else []) %}"
        "{% endfor %}"
        "{% for message in messages if message['role'] not in background %}"
        "{% set all.turns = all.turns + [words(message)] %}"
        "{% endfor %}"
        "{{ all.turns | select | join('" + TURN_SEPARATOR + "') }}"
    )
    return "".join([*before, turns, *after])
