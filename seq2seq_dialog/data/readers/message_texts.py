"""What a message says, where an export nests it in objects or HTML, and what no person wrote."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from html.parser import HTMLParser

from ...dataset_script.sources import Note
from ..transcripts import Message

PERSONS = ("name", "displayname", "role", "email", "id")  # the fields of who speaks
TEXTS = ("text", "body", "content", "parts", "data")  # and of what is said
SAID_IN_MATRIX = (None, "m.text", "m.notice", "m.emote")
LINE_ENDS = {"br", "p", "div", "li", "tr", "blockquote", "h1", "h2", "h3"}
NOT_SAID = {"script", "style", "quote", "legacyquote"}  # elements; Skype quotes what is answered
HTML = re.compile(r"\s*<(p|div|html|body|ul|ol|blockquote)\b[^<>]*>.*</\1>\s*", re.S | re.I)
# Types of messages that no person writes, by the field: of Skype, Teams, Matrix.
BY_PROGRAM = {
    "messagetype": re.compile(r"(Event|ThreadActivity|Notice|PopCard)\b.*"),
    "messageType": re.compile(r"(system|chat)Event.*"),
    "type": re.compile(r"m\.(?!room\.message$).*"),
}
# What Messenger and Instagram write in place of a message, by its kind.
OF_MESSENGER = {
    "media": re.compile(
        r".+ (sent|shared) (an attachment|(a|\d+) (photo|video|link|sticker|voice message|GIF|story"
        r"|post|reel|live location|file|location)s?)\.?"
    ),
    "deleted_message": re.compile(r".+ unsent a message\.?"),
    "system_line": re.compile(
        r"Liked a message|Reacted .{1,30} to your message|"
        r"You (are now connected on Messenger|can now (message and )?call each other.*)\.?|"
        r".+ (missed (a|your) (audio |video |voice )?(call|chat)|"
        r"started (a|an|the) (audio |video )?(call|chat)|called you|joined the (call|video chat)|"
        r"left the group|created (the|this) group|"
        r"(changed|set) the (group photo|(chat )?theme|quick reaction|emoji).*|"
        r"named the group .+|set (the|your|his|her|their|own) nickname .+|"
        r"(added|removed) .+ (to|from) the group)\.?"
    ),
}


class _Words(HTMLParser):
    """Collects the words of HTML, a line for each block."""

    def __init__(self):
        super().__init__()
        self.words, self.left_out = [], 0

    def handle_starttag(self, tag: str, attrs) -> None:
        self.left_out += tag in NOT_SAID
        if tag in LINE_ENDS:
            self.words.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self.left_out = max(0, self.left_out - (tag in NOT_SAID))
        if tag in LINE_ENDS:
            self.words.append("\n")

    def handle_data(self, data: str) -> None:
        if not self.left_out:
            self.words.append(data)


def add_line(said: list[tuple[int, Message]], line: str, number: int, note: Note) -> None:
    """Add a line that begins no message to the last of `said`, its line first; before all, none."""
    if said:
        begun, message = said[-1]
        said[-1] = begun, message._replace(text=f"{message.text}\n{line}".rstrip())
    elif line.strip():
        note("system_line", number)


def written_by_people(
    said: Iterable[tuple[int, Message]], kind_of: Callable[[str], str | None], note: Note
) -> list[Message]:
    """The messages with a text of which `kind_of` tells no kind; the others are noted by theirs."""
    messages = []
    for number, message in said:
        text = message.text.strip()
        if kind := kind_of(text) if text else "empty_utterance":
            note(kind, number)
        else:
            messages.append(message._replace(text=text))
    return messages


def text_of_html(html: str) -> str:
    """The words of HTML, without its tags."""
    parser = _Words()
    parser.feed(re.sub(r"<!\[[^>]*>?", "", html))  # sections, on most of which the parser fails
    parser.close()
    lines = ("".join(parser.words)).split("\n")
    return "\n".join(filter(None, (" ".join(line.split()) for line in lines)))


def are_html(texts: Iterable[str | None]) -> bool:
    """Whether several texts that say something are all HTML: a person may write of HTML, too."""
    said = [text for text in texts if text and text.strip()]
    return len(said) > 1 and all(HTML.fullmatch(text) for text in said)


def words_of(value) -> str | None:
    """The text of a cell, also of parts or of an object; None where that is a file without words.

    Parts without a text, such as calls of tools, say nothing.
    """
    if isinstance(value, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in value]
        return " ".join(text for text in texts if isinstance(text, str)) or None
    if not isinstance(value, dict):
        return None if value is None else str(value)
    if value.get("msgtype") not in SAID_IN_MATRIX:
        return None
    inner = next((value[name] for name in TEXTS if isinstance(value.get(name), str | list)), None)
    text = words_of(inner)
    return text_of_html(text) if text and value.get("contentType") == "html" else text


def text_of(message: Mapping, column: str | None) -> str | None:
    """What a message says in its column of texts or, where that is blank, in another usual one."""
    text = words_of(message.get(column))
    if not (text or "").strip():
        others = (words_of(message.get(name)) for name in TEXTS if name != column)
        text = next((other for other in others if other and other.strip()), text)
    kind = message.get("messagetype")  # of Skype: words are XML, files have a kind below it
    if isinstance(kind, str) and kind.startswith("RichText"):
        return text_of_html(text) if text and kind == "RichText" else None
    return text


def is_by_program(message: Mapping) -> bool:
    """Whether a message tells by its type that no person wrote it."""
    kinds = ((message.get(name), form) for name, form in BY_PROGRAM.items())
    return any(isinstance(kind, str) and form.fullmatch(kind) for kind, form in kinds)


def kind_of_notice(text: str, name: str) -> str | None:
    """The kind of what Messenger has written in the name of a person; None of what was typed."""
    own = ("You ", "Liked a message", "Reacted ", *name.split()[:1])
    if not text.startswith(own):
        return None
    return next((kind for kind, form in OF_MESSENGER.items() if form.fullmatch(text)), None)


def speaker_of(value) -> str | None:
    """Who speaks: a name or, where it is an object, the name, the role or the id in it."""
    if not isinstance(value, dict):
        return None if value is None else str(value)
    fields = {re.sub(r"[\W_]+", "", name).lower(): each for name, each in value.items()}
    for name in PERSONS:
        if fields.get(name) and not isinstance(fields[name], dict | list):
            return str(fields[name])
    within = (speaker_of(each) for each in value.values() if isinstance(each, dict))
    return next(filter(None, within), None)
