"""Conversations of ChatGPT: `conversations.json` of its data export, or one conversation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import count
from pathlib import PurePosixPath

from ...dataset_script.sources import Note
from ...errors import UsageError
from ..files import File
from ..transcripts import ASSISTANT, USER, Message, Reader, Transcript
from .json_export import read_document
from .times import parse_iso_time

CONVERSATIONS = "conversations.json"
# The first conversation of an export begins so, one that is damaged further on, too.
NODES = re.compile(
    r'\s*(?:\[\s*)?\{\s*"(?=.*"mapping":\s*\{\s*"[^"]*":\s*\{\s*"(?:id|message|parent|children)":)',
    re.DOTALL,
)
# What an export has beside them: some of it would pass for a table.
OTHERS = {
    *("message_feedback.json", "model_comparisons.json", "shared_conversations.json"),
    *("user.json", "user_settings.json"),
}
THOUGHTS = {"thoughts", "reasoning_recap"}  # which are no part of the reply


def _recognises(file: File) -> bool:
    return bool(NODES.match(file.head)) or _is_beside(file)


def _is_beside(file: File) -> bool:
    """Whether an export has the file beside its conversations."""
    conversations = PurePosixPath(file.name).name in OTHERS and file.beside(CONVERSATIONS)
    return bool(conversations and NODES.match(conversations.head))


def _read(file: File, note: Note) -> Iterator[Transcript]:
    if _is_beside(file):
        return
    numbers = count(1)  # of messages in the whole file
    content = read_document(file)
    for place, conversation in enumerate(content if isinstance(content, list) else [content], 1):
        where = f"{file}: conversation {place}"
        if not isinstance(conversation, dict) or not isinstance(conversation.get("mapping"), dict):
            raise UsageError(f"{where} has no mapping, but each has to. Export it again.")
        messages, instructions = [], []
        for raw, number in zip(_branch(conversation, where), numbers, strict=False):
            kinds, message = _classify(raw)
            for kind in kinds:
                note(kind, number)
            if "system_message" in kinds:
                instructions.append(message.text)
            elif message:
                messages.append(message)
        name = str(conversation.get("conversation_id") or conversation.get("id") or place)
        instruction = "\n".join(instructions)
        yield Transcript(name, messages, instruction=instruction, is_whole=True)


def _branch(conversation: dict, where: str) -> list:
    """The messages down to the current node; other branches hold what was edited or asked anew."""
    nodes, name, branch = conversation["mapping"], conversation.get("current_node"), {}
    while isinstance(name, str) and name not in branch and isinstance(nodes.get(name), dict):
        branch[name] = nodes[name].get("message")
        name = nodes[name].get("parent")
    if (nodes and not branch) or name in [*branch]:
        raise UsageError(
            f"{where} has no way from the node {name!r} to its first one, but the current node "
            "and those above it have to be in its mapping, each once. Export it again."
        )
    return [message for message in reversed(branch.values()) if message is not None]


def _classify(raw) -> tuple[list[str], Message | None]:
    """Return what a message is to be counted as, and what it says if it says something."""
    try:
        role, content = raw["author"]["role"], raw["content"]
        is_hidden = (raw.get("metadata") or {}).get("is_visually_hidden_from_conversation")
        parts = content["parts"] if "parts" in content else [content.get("text", "")]
        texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    except (AttributeError, KeyError, TypeError):
        return ["unreadable"], None
    text = "\n".join(text for text in texts if isinstance(text, str)).strip()
    if role == "tool" or raw.get("recipient") not in (None, "all"):  # else it is sent to a tool
        return ["tool_message"], None
    if role not in ("system", USER, ASSISTANT):
        return ["unreadable"], None
    if is_hidden or content.get("content_type") in THOUGHTS:
        return ["system_line"] if text else [], None
    media = [] if all(isinstance(text, str) for text in texts) else ["media"]
    if role == "system":
        return (["system_message"], Message(role, text)) if text else ([], None)
    if not text:
        return media or ["empty_utterance"], None
    return media, Message(role, text, parse_iso_time(raw.get("create_time")))


READER = Reader("ChatGPT conversations", _recognises, _read)
