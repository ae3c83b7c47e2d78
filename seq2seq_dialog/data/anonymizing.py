"""Placeholders for the names of who speaks, e-mail addresses and phone numbers."""

from __future__ import annotations

import re
from functools import lru_cache

from ..dataset_script.dialogues import Dialogue, Pair
from .roles import ASSISTANTS, USERS, plain_name
from .transcripts import Transcript

_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_PHONE = re.compile(r"(?<![\w.])(?:\+|00)?\(?\d(?:[ ()/.-]{0,2}\d){6,14}(?![\w])")
_DATE = re.compile(r"\d{1,4}([./-])\d{1,2}\1\d{1,4}|\d{1,3}(?:[., ]\d{3})+")


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


def anonymous_transcript(
    transcript: Transcript, learnt: set[str] | None
) -> tuple[Transcript, set[str] | None]:
    """Put placeholders for the names of who speaks, too; speakers become person 1, person 2, ..."""
    speakers = dict.fromkeys(plain_name(m.speaker) for m in transcript.messages if m.speaker)
    speakers = [name for name in speakers if name and name not in ASSISTANTS | USERS]
    persons = {name: f"person {number}" for number, name in enumerate(speakers, 1)}
    names = {word for name in speakers for word in [name, *name.split()] if len(word) > 1}
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)@?(?:{'|'.join(longest_first)})(?!\w)", re.IGNORECASE)

    def replace(text: str) -> str:
        text = _without_contacts(text)
        return pattern.sub("[name]", text) if names else text

    def person(speaker: str | None) -> str | None:
        return persons.get(plain_name(speaker), speaker)

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
