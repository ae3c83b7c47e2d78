"""Utterances that name what they reply to: a tree of them to dialogues."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from ...dataset_script.sources import Note
from ..transcripts import Message

DELETED = {"[deleted]", "[removed]"}  # of Reddit


class Utterance(NamedTuple):
    """A message, and what it answers."""

    id: str
    line: int
    reply_to: str | None
    message: Message


def read_tree(conversation: list[Utterance], note: Note) -> Iterator[list[Utterance]]:
    """Cut the tree of replies into dialogues: the first reply to an utterance goes on with its own.

    Each other reply begins a dialogue with the utterance that it answers. Where an utterance is
    deleted or empty, a dialogue ends, and what answers it begins another.
    """
    met: set[int] = set()  # lines: an id may come again
    for branch in _branches(conversation):
        dialogues: list[list[Utterance]] = [[]]
        for utterance in branch:
            text = utterance.message.text.strip()
            if text and text not in DELETED:
                dialogues[-1].append(utterance)
                continue
            dialogues.append([])
            if utterance.line not in met:
                note("deleted_message" if text else "empty_utterance", utterance.line)
        for said in dialogues:
            if any(utterance.line not in met for utterance in said):
                yield said
        met.update(utterance.line for utterance in branch)


def _branches(conversation: list[Utterance]) -> Iterator[list[Utterance]]:
    """Cut the tree into branches, in which each utterance but the first is new."""
    by_id = {utterance.id: utterance for utterance in conversation}
    replies: dict[str | None, list[Utterance]] = {}
    for utterance in conversation:
        is_root = utterance.reply_to not in by_id or utterance.reply_to == utterance.id
        replies.setdefault(None if is_root else utterance.reply_to, []).append(utterance)
    begun = deque([root] for root in replies.pop(None, ()))
    while begun or replies:
        if not begun:  # those that are left reply to each other in a circle
            root = by_id[next(iter(replies))]
            replies[root.reply_to].remove(root)
            begun.append([root])
        branch = begun.popleft()
        while answers := replies.pop(branch[-1].id, []):
            parent = branch[-1]
            first, *others = answers
            begun += [[parent, other] for other in others]
            branch.append(first)
        yield branch
