"""Rows of tables to dialogues, by the names of their columns.

A row is a whole dialogue (a column with a list of utterances or of messages), a pair of context and
reply, or one utterance.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from typing import Any

from ...dataset_script.dialogues import END, LABELS, Dialogue, Note, Pair
from ..files import parse_json
from ..roles import ROLES, SYSTEM
from ..transcripts import Message, Transcript
from ..turns import background_turns, clean_text, note_odd, turns_since
from .message_texts import (
    are_html,
    is_by_program,
    kind_of_notice,
    speaker_of,
    text_of,
    text_of_html,
    words_of,
)
from .named_turns import take_turns
from .times import in_order, is_day_first, parse_time, time_cell
from .utterance_rows import Rows, read_utterances

# What a column is for, and its names, without case and marks: Conversation ID is conversationid.
COLUMNS = {
    "dialogue": "dialog dialogue dialogues utterances turns messages conversation conversations "
    "chat chatmessages log messagelist contents",
    "context": "context contexts prompt question query instruction input history source post user "
    "human",
    "question": "question query instruction prompt input",
    "history": "history",
    "response": "response reply answer output completion target chosen assistant bot "
    "preferredoutput",
    "text": "text utterance message content body msg value comment line messagebody messagetext "
    "messagecontent utterancetext commentbody parts",
    "speaker": "speaker author sender from user username role authortype sendertype name agent "
    "speakerid speakeridx authorid userid authorname sendername fromuser participant who creator "
    "senderid direction issender isfromme",
    "conversation": "conversationid dialogueid dialogid conversation convid ticketid ticket "
    "threadid thread chatid sessionid session caseid episodeid roomid room channel",
    "id": "id messageid tweetid commentid utteranceid postid",
    "parent": "parentid parent parentmessageid replyto replytoid replytomessageid inreplyto "
    "inreplytoid inresponsetotweetid inreplytotweetid inreplytostatusid",
    "instruction": "system systemprompt systemmessage systeminstruction",
    "persona": "persona personas personality profile",
    "knowledge": "knowledge document passage background facts",
    "time": "time timestamp date datetime createdat sentat created senttime createdutc ts "
    "timestampms createddate createddatetime originserverts originalarrivaltime messagedate "
    "messagecreatedat messagecreatedatutc messagetime",
    "date": "date day sentdate createddate messagedate",
}
FORMS = (
    "whole dialogues (a column named dialog, utterances or messages: lists of texts, or of "
    "messages with role and content), pairs (context and response), or an utterance a row (text, "
    "with speaker, conversation_id or id and parent_id, and time if there is one)"
)
# A text or the end of a list or an object, as Python writes it, and that the next one follows.
VALUE = re.compile(r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[\]}])(?:\s+(?=['"[{]))?""", re.DOTALL)
SAMPLE = 50  # rows by which a form is recognised
Form = Callable[[Rows, Note], Iterator[Transcript | Dialogue]]


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", str(name)).lower()


def may_hold_dialogues(name: str) -> bool:
    """Whether a column or a field with a list is called as whole dialogues are."""
    return _plain(name) in COLUMNS["dialogue"].split()


def find_columns(names: Iterable[str], columns: dict[str, str]) -> dict[str, str]:
    """Find which column has what, by the names given in `columns` or else by the usual ones."""
    by_name = {}
    for name in names:
        by_name.setdefault(_plain(name), name)
    column_of = dict(columns)
    for kind, usual in COLUMNS.items():
        for name in usual.split():
            if kind not in column_of and name in by_name and by_name[name] not in columns.values():
                column_of[kind] = by_name[name]
    context = column_of.get("context")
    if "context" in columns or _plain(context) not in ("context", "contexts"):
        column_of.pop("question", None)  # a context alone is what is answered
    if "context" in columns or column_of.get("history") == context:
        column_of.pop("history", None)
    return column_of


def choose_form(sample: list[dict], columns: dict[str, str]) -> Form | None:
    """Choose how rows become dialogues, by their columns; None where that cannot be told."""
    names = list(dict.fromkeys(name for row in sample for name in row))
    for kind, name in columns.items():
        if name not in names and kind != "rejected":
            return None
    column_of = find_columns(names, columns)
    for name in [columns["dialogue"]] if "dialogue" in columns else names:
        if name == columns.get("dialogue") or may_hold_dialogues(name):
            values = [_as_list(row.get(name)) for row in sample]
            if any(values):
                has_speakers = have_speakers([each for value in values for each in value or []])
                return partial(_read_dialogues, name, column_of, has_speakers)
    if "response" in column_of and "context" in column_of:
        return partial(_read_pairs, column_of)
    has_replies = {"id", "parent"} <= set(column_of)
    if "text" in column_of and (has_replies or {"speaker", "conversation"} & set(column_of)):
        return partial(read_utterances, column_of)
    return None


def choose_contexts(sample: list[dict]) -> dict[str, str] | None:
    """Find the columns of a table with a context in each row; None where it has dialogues."""
    form = choose_form(sample, {})
    if form is not None and form.func is not _read_pairs:
        return None
    column_of = find_columns(dict.fromkeys(name for row in sample for name in row), {})
    context = column_of.get("context", column_of.get("text"))
    if context is None or context != context.strip():  # ` human`, behind a comma, is no name
        return None
    return column_of | {"context": context}


def context_of(row: dict, column_of: dict[str, str]) -> list[str]:
    """The turns of a row's context, behind what stands before the dialogue."""
    before, turns = _context(row, column_of)
    return [*before, *(text for text in map(clean_text, turns) if text)]


def _as_list(value) -> list | None:
    """A list, also where it is written as text: as JSON or, by pandas and numpy, as Python."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = parse_json(value)
        except ValueError:
            value = _python_list(value.strip())
    return value if isinstance(value, list) else None


def _python_list(text: str):
    """What Python writes for a list; numpy leaves the commas out, which would join texts."""
    with_commas = VALUE.sub(lambda m: m[1] if m[0] == m[1] else f"{m[1]}, ", text)
    try:
        return ast.literal_eval(with_commas)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def have_speakers(entries: list) -> bool:
    """Whether lists of two cells say first who speaks: a role, a letter, or names in turns."""
    names = [each[0] for each in entries if isinstance(each, list) and len(each) == 2]
    if not names or not all(isinstance(name, str | int) for name in names):
        return False
    names = list(map(str, names))
    return all(len(name) == 1 or name.casefold() in ROLES for name in names) or take_turns(names)


def _read_dialogues(
    column: str, column_of: dict[str, str], has_speakers: bool, rows: Rows, note: Note
) -> Iterator[Transcript]:
    """Read a column of whole dialogues: lists of utterances or of messages."""
    for number, row in rows:
        conversation = column_of.get("conversation")
        given = None if conversation == column else row.get(conversation)
        entries = _as_list(row.get(column))
        if entries is None and row.get(column):
            note("unreadable", number)
            continue
        said = []
        for entry in entries or []:
            parts = _parts_of(entry, has_speakers)
            if parts is None:
                note("unreadable", number)
            for part in parts or []:
                if kind := _kind_of_notice(part, _is_of_messenger(row)):
                    note(kind, number)
                else:
                    said.append(_message(part))
        day_first = is_day_first(time for *_, time in said)
        repaired = _repaired if _is_of_messenger(row) else lambda text: text
        read_text = text_of_html if are_html(text for _, text, _ in said) else repaired
        messages = []
        for speaker, text, time in said:
            if text is None:
                note("media", number)
            else:
                time = parse_time(time, day_first)
                messages.append(Message(repaired(speaker), read_text(text), time))
        messages = in_order(messages)
        has_roles = all((m.speaker or "").casefold() in ROLES for m in messages)
        yield Transcript(
            str(number if given is None else given),
            messages,
            is_whole=has_roles or given is not None,
            **_background(row, column_of),
        )


def _parts_of(entry, has_speakers: bool) -> list | None:
    """The messages of an entry: one, those of an exchange, or None where it is another list."""
    if not isinstance(entry, list):
        return [entry]
    if has_speakers and len(entry) == 2:
        return [{"speaker": entry[0], "text": entry[1]}]
    return entry if all(isinstance(each, dict) for each in entry) else None


def _is_of_messenger(row: dict) -> bool:
    """Whether it is a chat of Messenger or Instagram, whose texts are escaped byte by byte."""
    messages = row.get("messages")
    return (
        "participants" in row
        and isinstance(messages, list)
        and any(isinstance(each, dict) and "sender_name" in each for each in messages)
    )


def _kind_of_notice(part, is_of_messenger: bool) -> str | None:
    """As what a part of a dialogue is noted that no person has written; None where one has."""
    if not isinstance(part, dict):
        return None
    if is_by_program(part):
        return "system_line"
    if not is_of_messenger:
        return None
    if part.get("is_unsent"):
        return "deleted_message"
    text, name = (_repaired(str(part.get(key) or "")) for key in ("content", "sender_name"))
    return kind_of_notice(text.strip(), name)


def _repaired(text: str | None) -> str | None:
    """The text of which each byte of UTF-8 was taken for a character."""
    try:
        return text and text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text


def _background(row: dict, column_of: dict[str, str]) -> dict[str, str]:
    """What stands before the dialogue of a row: lists of sentences are joined."""
    texts = {}
    for kind in ("instruction", "persona", "knowledge"):
        value = row.get(column_of.get(kind))
        text = " ".join(map(str, value)) if isinstance(value, list) else words_of(value or "")
        texts[kind] = text or ""
    return texts


def _message(entry) -> tuple[str | None, str | None, Any]:
    """The speaker, the text and the time of a message; no text where it has files alone."""
    if isinstance(entry, list):
        return None, None, None
    if not isinstance(entry, dict):
        return None, "" if entry is None else str(entry), None
    column_of = _columns_of_a_message(tuple(entry))
    speaker = speaker_of(entry.get(column_of.get("speaker")))
    if speaker is None and str(entry.get("type")).casefold() in ROLES:  # of LangChain
        speaker = entry["type"]
    return speaker, text_of(entry, column_of.get("text")), time_cell(entry, column_of)


@lru_cache
def _columns_of_a_message(names: tuple[str, ...]) -> dict[str, str]:
    return find_columns(names, {})


def _read_pairs(column_of: dict[str, str], rows: Rows, note: Note) -> Iterator[Dialogue]:
    """Read rows of context and response, and put those of a dialogue together.

    Where `columns` names one of rejected replies, these are kept, beside the labels.
    """
    dialogue, said = None, 0  # what the context before held
    for number, row in rows:
        labels = {
            name: row[name]
            for name, (classes, _) in LABELS.items()
            if isinstance(row.get(name), int) and 0 <= row[name] < len(classes)
        }
        before, texts = _context(row, column_of)
        reply = _reply(row.get(column_of["response"]))
        note_odd([*texts, reply], number, note)
        context = [text for text in map(clean_text, texts) if text]
        response = clean_text(reply)
        if len(context) < len(texts):
            note("empty_utterance", number)
        if not context or not response:
            note("empty_response" if context else "empty_context", number)
            continue
        if "rejected" in column_of:
            labels["rejected"] = clean_text(_reply(row.get(column_of["rejected"])))
            if labels["rejected"] in ("", response):
                note("equal_replies" if labels["rejected"] else "empty_rejected", number)
                continue
        elif "rejected" in row:
            note("rejected_not_read", number)
        given = row.get(column_of.get("conversation"))
        if dialogue is None:
            continues = False
        elif given is not None:
            continues = dialogue.dialogue_id == str(given)
        elif "rejected" in labels:  # votes on one talk, each with its context anew
            continues = dialogue.utterances[0] == context[0]
        else:
            continues = dialogue.utterances[-len(context) :] == context
        if not continues:
            if dialogue is not None:
                yield dialogue
            dialogue = Dialogue(str(number if given is None else given), list(context), [])
        elif "rejected" not in labels:
            dialogue.utterances.extend(turns_since(dialogue.utterances[-1], context, said))
        said = len(context)
        dialogue.utterances.append(response)
        dialogue.pairs.append(Pair([*before, *context], response, labels))
    if dialogue is not None:
        yield dialogue


def _context(row: dict, column_of: dict[str, str]) -> tuple[list[str], list[str | None]]:
    """What stands before a dialogue, and its turns, the last of which is to be answered.

    Beside a question, a list of contexts has the turns before it, and a text is knowledge.
    """
    background = _background(row, column_of)
    context = row.get(column_of["context"])
    question = _with_input(row, column_of.get("question"))
    history = row.get(column_of.get("history"))
    entries = [] if history in (None, "") else _entries(history)
    if question in (None, "", []):
        entries += _entries(_with_input(row, column_of["context"]))
    elif isinstance(context, str) and _as_list(context) is None and END not in context:
        background["knowledge"] = f"{background['knowledge']} {context}".strip()
        entries += _entries(question)
    else:
        entries += [*_entries(context), *_entries(question)]
    said = [_message(entry) for entry in entries]
    turns = [text for speaker, text, _ in said if speaker not in SYSTEM]
    system = [text for speaker, text, _ in said if speaker in SYSTEM and text]
    background["instruction"] = " ".join([background["instruction"], *system]).strip()
    return background_turns(**background), turns


def _with_input(row: dict, column: str | None):
    """The value of a column; an instruction is followed by its input, as Alpaca has it."""
    value = row.get(column)
    if column == "instruction" and row.get("input") and _as_list(value) is None:
        return f"{value} {row['input']}"
    return value


def _entries(value) -> list:
    """The turns of a context: a text with marks between them, a message, or a list of turns.

    The list may be within an object, and pairs of turns within the list.
    """
    if isinstance(value, dict):
        lists = (each for name, each in value.items() if may_hold_dialogues(name))
        value = next((each for each in lists if isinstance(each, list)), [value])
    entries = _as_list(value)
    if entries is None:
        return [] if value is None else str(value).split(END)
    pairs = [entry if isinstance(entry, list) else [entry] for entry in entries]
    return [turn for pair in pairs for turn in pair]


def _reply(value) -> str | None:
    """A reply: a text, a message, or the last of a list of either."""
    entries = _as_list(value)
    if entries is not None:
        value = entries[-1] if entries else None
    return _message(value)[1]
