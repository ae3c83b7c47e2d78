"""Transcripts to dialogues: pauses, turns, whose replies are learnt."""

from __future__ import annotations

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
from .anonymizing import anonymous_dialogue, anonymous_transcript
from .roles import ASSISTANTS, ROLES, SYSTEM, TOOLS, USERS, plain_name
from .transcripts import ASSISTANT, Message, Transcript

EVERYBODY = "everybody"
WINDOW = 100  # turns of a context: chats have no end, and no model reads more


class Talk(NamedTuple):
    """A dialogue of turns: a transcript, or its part between two pauses."""

    dialogue_id: str
    turns: list[Message]
    transcript: Transcript
    learnt: set[str] | None  # whose replies, by `plain_name`; None: everybody's

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
        return self.learnt is None or plain_name(speaker) in self.learnt

    def role(self, speaker: str | None) -> str | None:
        """The name that a message keeps: assistant, user, where a format says whose reply it is."""
        if self.transcript.learnt is None or speaker is None:
            return speaker
        return "assistant" if plain_name(speaker) == plain_name(self.transcript.learnt) else "user"


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
            transcript, learnt = anonymous_transcript(transcript, learnt)
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
    names = [plain_name(message.speaker) for message in transcript.messages]
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
    if transcript.learnt is None or plain_name(speaker) == plain_name(transcript.learnt):
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
    if speakers and wanted is not None and wanted.isdisjoint(map(plain_name, speakers)):
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
    """Whose replies are learnt, by `plain_name`; None: everybody's."""
    if respond_as is not None:
        return _named(respond_as)
    if transcript.learnt is not None:
        return {plain_name(transcript.learnt)}
    speakers = {plain_name(message.speaker) for message in transcript.messages}
    has_roles = speakers <= ASSISTANTS | USERS and bool(speakers & USERS)
    return set(ASSISTANTS) if has_roles else None


def _named(respond_as: str) -> set[str] | None:
    name = plain_name(respond_as)
    if name == EVERYBODY:
        return None
    return set(ASSISTANTS) if name == "assistant" else {name}
