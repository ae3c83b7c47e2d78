"""Transcripts to dialogues: pauses, turns, whose replies are learnt, placeholders for names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import lru_cache
from typing import NamedTuple

from ..dataset_script.dialogues import (
    CONTROL,
    END,
    Dialogue,
    Note,
    Pair,
    without_control_characters,
)
from ..errors import UsageError
from ..portable.context import BACKGROUND
from ..settings import DataArguments
from .transcripts import ASSISTANT, Message, Transcript

EVERYBODY = "everybody"
WINDOW = 100  # turns of a context: chats have no end, and no model reads more
# Speakers whose replies are learnt where messages have roles, and those they answer.
ASSISTANTS = frozenset(
    [
        "assistant",
        "ai",
        "bot",
        "chatbot",
        "chatgpt",
        "gpt",
        "model",
        "agent",
        "support",
        "advisor",
        "operator",
        "representative",
        "helpdesk",
        "admin",
        "staff",
        "team",
        "teammate",
    ]
)
USERS = frozenset(
    [
        "user",
        "human",
        "prompter",
        "customer",
        "client",
        "caller",
        "visitor",
        "guest",
        "end-user",
        "enduser",
        "requester",
        "lead",
        "contact",
    ]
)
SYSTEM = frozenset({"system", "developer"})
TOOLS = frozenset({"tool", "function", "ipython", "observation", "function_call", "tool_call"})
ROLES = ASSISTANTS | USERS | SYSTEM | TOOLS

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PHONE = re.compile(r"(?<![\w.])(?:\+|00)?\(?\d(?:[ ()/.-]{0,2}\d){6,14}(?![\w])")
_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}|\d{1,3}(?:[., ]\d{3})+")


class Talk(NamedTuple):
    """A dialogue of turns: a transcript, or its part between two pauses."""

    dialogue_id: str
    turns: list[Message]
    transcript: Transcript
    learnt: set[str] | None  # whose replies, by `_plain` names; None: everybody's

    def pairs(self) -> Iterator[Pair]:
        """Pair each turn that is learnt with what was said before it, at most `WINDOW` turns."""
        texts = [turn.text for turn in self.turns]
        for place in range(1, len(texts)):
            speaker = self.turns[place].speaker
            if self.is_learnt(speaker):
                context = texts[max(0, place - WINDOW) : place]
                yield Pair([*_background(self.transcript, speaker), *context], texts[place], {})

    def is_learnt(self, speaker: str | None) -> bool:
        """Tell whether the replies of a speaker are learnt."""
        return self.learnt is None or _plain(speaker) in self.learnt

    def role(self, speaker: str) -> str:
        """The name that a message keeps: assistant, user, where a format says whose reply it is."""
        if self.transcript.learnt is None:
            return speaker
        return "assistant" if _plain(speaker) == _plain(self.transcript.learnt) else "user"


def as_dialogue(talk: Talk | Dialogue) -> Dialogue:
    """The dialogue with its pairs; what a reader yields as a dialogue stays."""
    if isinstance(talk, Dialogue):
        return talk
    return Dialogue(talk.dialogue_id, [turn.text for turn in talk.turns], list(talk.pairs()))


def as_talk(dialogue: Dialogue) -> Talk:
    """The turns of a dialogue of which nobody knows who speaks."""
    turns = [Message(None, text) for text in dialogue.utterances]
    return Talk(dialogue.dialogue_id, turns, Transcript(dialogue.dialogue_id, turns), None)


def turns_since(reply: str, context: list[str], place: int) -> list[str]:
    """What a context holds after the reply before it; all, where it does not hold that reply.

    Args:
        place: where that reply stands; in a context that was cut, it is the last that equals it.
    """
    if context[place : place + 1] == [reply]:
        return context[place + 1 :]
    return context[len(context) - context[::-1].index(reply) :] if reply in context else context


def read_talks(
    transcripts: Iterable[Transcript | Dialogue],
    pause: timedelta,
    args: DataArguments,
    note: Note,
    speakers: Counter,
) -> Iterator[Talk | Dialogue]:
    """Cut transcripts at pauses, and join the messages of one speaker in a row to a turn.

    What a system says joins the instruction, and what tools say is dropped.

    Args:
        pause: how much time ends a dialogue, unless `max_gap` says so.
        note: called with a kind of problem and the number of the transcript.
        speakers: counts the messages by who writes them.
    """
    if args.max_gap is not None:
        pause = timedelta(hours=args.max_gap)
    for number, transcript in enumerate(transcripts, 1):
        if isinstance(transcript, Dialogue):
            yield anonymous_dialogue(transcript) if args.anonymize else transcript
            continue
        transcript = _without_system(transcript, number, note)
        speakers.update(m.speaker for m in transcript.messages if m.speaker is not None)
        learnt = _learnt_speakers(transcript, args.respond_as)
        if args.anonymize:
            transcript, learnt = _anonymous(transcript, learnt)
        messages = list(_clean(transcript.messages, number, note))
        is_whole = transcript.is_whole and args.max_gap is None
        pieces = [messages] if is_whole else list(_cut(messages, pause))
        for part, piece in enumerate(pieces, 1):
            turns = list(_merge(piece))
            if len(turns) < 2:
                note("under_two_utterances", number)
            name = transcript.id if len(pieces) == 1 else f"{transcript.id}:{part}"
            yield Talk(name, turns, transcript, learnt)


def _without_system(transcript: Transcript, number: int, note: Note) -> Transcript:
    """Put what a system says into the instruction, and drop what tools say.

    In a chat a person may have such a name: there it counts only if all speakers are roles.
    """
    names = [_plain(message.speaker) for message in transcript.messages]
    are_roles = ROLES.issuperset(names) and not USERS.isdisjoint(names)
    answers = are_roles and _system_answers(names)
    messages, instruction = [], transcript.instruction
    for name, message in zip(names, transcript.messages, strict=True):
        opens = not messages and message.time is None  # messages of a chat have times
        if name in SYSTEM and answers:
            messages.append(message._replace(speaker=ASSISTANT))
        elif name in SYSTEM and (are_roles or opens):
            note("system_message", number)
            instruction = f"{instruction} {message.text}".strip()
        elif name in TOOLS and are_roles:
            note("tool_message", number)
        else:
            messages.append(message)
    return transcript._replace(messages=messages, instruction=instruction)


def _system_answers(names: list[str]) -> bool:
    """Whether a system answers users, as some corpora call who others call the assistant."""
    first_user = next(place for place, name in enumerate(names) if name in USERS)
    return ASSISTANTS.isdisjoint(names) and not SYSTEM.isdisjoint(names[first_user:])


def _background(transcript: Transcript, speaker: str | None) -> list[str]:
    """What stands before the dialogue for who replies: of `learnt`, who that is and knows, too."""
    if transcript.learnt is None or _plain(speaker) == _plain(transcript.learnt):
        return background_turns(transcript.instruction, transcript.persona, transcript.knowledge)
    return background_turns(transcript.instruction)


def background_turns(instruction: str = "", persona: str = "", knowledge: str = "") -> list[str]:
    """The turns that stand before a dialogue, of those texts that say something."""
    texts = {"system": instruction, "persona": persona, "knowledge": knowledge}
    return [BACKGROUND[role] + clean_text(text) for role, text in texts.items() if text]


def check_speakers(speakers: Counter, args: DataArguments) -> None:
    """Refuse to learn the replies of who never speaks.

    Args:
        speakers: the number of messages by name, as it stands in the source.
    """
    wanted = None if args.respond_as is None else _named(args.respond_as)
    if speakers and wanted is not None and wanted.isdisjoint(map(_plain, speakers)):
        most = ", ".join(f"{name} ({count:,})" for name, count in speakers.most_common(10))
        raise UsageError(
            f"respond_as is {args.respond_as!r}, but the messages are by {most}. Give one of these "
            f"names, or {EVERYBODY}."
        )


@lru_cache(1 << 12)
def clean_text(text: str | None) -> str:
    """The text of an utterance, without control characters and marks of turns."""
    return without_control_characters((text or "").replace(END, " ")).strip()


def note_odd(texts: Iterable[str | None], number: int, note: Note) -> None:
    """Note what is odd in the utterances of a row, each kind once; line ends are not."""
    text = " ".join(filter(None, texts))
    if CONTROL.search(text.replace("\n", "").replace("\r", "")):
        note("control_character", number)
    if END in text:
        note("eou_inside", number)
    if "\ufffd" in text:
        note("replacement_character", number)


def _clean(messages: list[Message], number: int, note: Note) -> Iterator[Message]:
    note_odd((message.text for message in messages), number, note)
    for message in messages:
        text = clean_text(message.text)
        if text:
            yield message._replace(text=text)
        else:
            note("empty_utterance", number)


def _cut(messages: list[Message], pause: timedelta) -> Iterator[list[Message]]:
    """Cut where more time than `pause` lies between two messages."""
    start = 0
    for place in range(1, len(messages)):
        earlier, later = messages[place - 1].time, messages[place].time
        if earlier is not None and later is not None and later - earlier > pause:
            yield messages[start:place]
            start = place
    yield messages[start:]


def _merge(messages: list[Message]) -> Iterator[Message]:
    """Join the messages that one speaker writes in a row."""
    turn: list[Message] = []
    for message in messages:
        if turn and (message.speaker is None or message.speaker != turn[0].speaker):
            yield turn[0]._replace(text=" ".join(each.text for each in turn))
            turn = []
        turn.append(message)
    if turn:
        yield turn[0]._replace(text=" ".join(each.text for each in turn))


def _learnt_speakers(transcript: Transcript, respond_as: str | None) -> set[str] | None:
    """Whose replies are learnt, by `_plain` names; None: everybody's."""
    if respond_as is not None:
        return _named(respond_as)
    if transcript.learnt is not None:
        return {_plain(transcript.learnt)}
    speakers = {_plain(message.speaker) for message in transcript.messages}
    has_roles = speakers <= ASSISTANTS | USERS and bool(speakers & USERS)
    return set(ASSISTANTS) if has_roles else None


def _named(respond_as: str) -> set[str] | None:
    name = _plain(respond_as)
    if name == EVERYBODY:
        return None
    return set(ASSISTANTS) if name == "assistant" else {name}


def _plain(name: str | None) -> str:
    return (name or "").strip().casefold()


def anonymous_dialogue(dialogue: Dialogue) -> Dialogue:
    """Put placeholders for e-mail addresses and phone numbers; who speaks is not known."""
    pairs = []
    for context, response, labels in dialogue.pairs:
        if "rejected" in labels:
            labels = labels | {"rejected": _without_contacts(labels["rejected"])}
        context = list(map(_without_contacts, context))
        pairs.append(Pair(context, _without_contacts(response), labels))
    return dialogue._replace(
        utterances=list(map(_without_contacts, dialogue.utterances)), pairs=pairs
    )


def _anonymous(
    transcript: Transcript, learnt: set[str] | None
) -> tuple[Transcript, set[str] | None]:
    """Put placeholders for the names of who speaks, too; speakers become person 1, person 2, ..."""
    speakers = dict.fromkeys(_plain(m.speaker) for m in transcript.messages if m.speaker)
    speakers = [name for name in speakers if name and name not in ASSISTANTS | USERS]
    persons = {name: f"person {number}" for number, name in enumerate(speakers, 1)}
    names = {word for name in speakers for word in [name, *name.split()] if len(word) > 1}
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)@?(?:{'|'.join(longest_first)})(?!\w)", re.IGNORECASE)

    def replace(text: str) -> str:
        text = _without_contacts(text)
        return pattern.sub("[name]", text) if names else text

    def person(speaker: str | None) -> str | None:
        return persons.get(_plain(speaker), speaker)

    messages = [
        m._replace(speaker=person(m.speaker), text=replace(m.text)) for m in transcript.messages
    ]
    return transcript._replace(
        messages=messages,
        learnt=person(transcript.learnt),
        instruction=replace(transcript.instruction),
        persona=replace(transcript.persona),
        knowledge=replace(transcript.knowledge),
    ), learnt and {persons.get(name, name) for name in learnt}


@lru_cache(1 << 14)  # an utterance comes again in every context after it
def _without_contacts(text: str) -> str:
    text = _EMAIL.sub("[email]", text)
    return _PHONE.sub(lambda match: match[0] if _DATE.fullmatch(match[0]) else "[phone]", text)
