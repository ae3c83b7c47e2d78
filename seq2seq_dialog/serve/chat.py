"""Chat in the terminal, or in a pipe: each line read gives a line printed, of each model.

In a pipe, a line that is no reply is empty, and what begins with no known command is said.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import yaml
from transformers import TextStreamer
from transformers.utils.logging import disable_progress_bar

from ..errors import UsageError
from ..hub_errors import short_reason
from ..portable.context import TURN_SEPARATOR
from ..portable.options import extra_options
from ..run_folder import VOTES, check_writable, write_text
from ..settings import DecodingArguments
from .inference import Conversation, candidates, engine, generate_response, load
from .safety import Safety, safety_of
from .votes import append_votes, check_different, check_votes, make_vote

# More would take minutes for each reply.
MOST = {"max_new_tokens": 1000, "num_beams": 100, "candidates": 100}
SHOWN_CANDIDATES = 5  # where the settings ask for no candidates
HELP = """\
/reset             forget the dialogue
/undo              forget the last thing you said and its reply
/retry             reply anew; where nothing is sampled, after /set
/candidates        show other replies and their scores
/vote N            of several models: reply N is better; or /vote tie, /vote bad
/save FILE         write the dialogue to FILE, which ends in .jsonl or .txt
/set               show the decoding settings
/set NAME=VALUE    change one, for example /set num_beams=4 or /set do_sample=true
/quit              leave (or end of input); in a terminal, exit, quit or :q alone on a line, too"""
COMMANDS = {"/help", "/exit", "/q", *(line.split()[0] for line in HELP.splitlines())}
GOODBYES = ("exit", "quit", ":q")  # in a pipe they are something said
CYAN = "\x1b[36m{}\x1b[0m"


class TerminalChat(Conversation):
    """A dialogue that is printed, with a model or several, from a name to model and tokenizer.

    With several, it goes on with the reply of the first, unless another is voted better.
    """

    def __init__(
        self,
        models: Mapping[str, tuple],
        in_terminal: bool,
        votes: str = VOTES,
        safety: Safety | None = None,
    ):
        self.models, self.in_terminal, self.votes = models, in_terminal, votes
        self.printed = 0  # replies to the line that was read last
        super().__init__(*next(iter(models.values())), safety)

    def reply_to(self, context) -> str:
        """Print the reply of each model; return the first."""
        self.replies = [self._reply(name, context) for name in self.models]
        return self.replies[0]

    def _reply(self, name: str, context) -> str:
        model, tokenizer = self.models[name]
        settings = dict(self.generate_kwargs)
        label = name if len(self.models) > 1 else "bot" if self.in_terminal else ""
        start = f"{painted(label)}: " if label else ""
        if self.in_terminal and self.safety is None and streams(model, settings):
            print(start, end="", flush=True)
            settings["streamer"] = Words(tokenizer, skip_prompt=True, skip_special_tokens=True)
        reply = generate_response(context, model, tokenizer, safety=self.safety, **settings)
        if "streamer" not in settings:
            line = reply if self.in_terminal else " ".join(reply.split())
            print(f"{start}{line}", flush=True)
        self.printed += 1
        return reply

    def undo(self) -> bool:
        """Forget the last thing said and its replies; False where there is none."""
        self.replies = []
        return super().undo()

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.replies: list[str] = []  # to what was said last, one of each model

    def retry(self) -> bool:
        """Reply anew to what was said last; False where nothing was."""
        if not self.turns:
            return False
        self.turns[-1] = self.reply_to(self.turns[:-1])
        return True

    def vote(self, choice: str) -> str:
        """Keep a vote on the replies to the last turn, one of each pair; tell what it does."""
        count = len(self.models)
        if count == 1 or not self.replies:
            return "A vote needs two replies, once: give several models, and say something."
        numbers = {str(number): number - 1 for number in range(1, count + 1)}
        if choice not in (*numbers, "tie", "bad"):
            return f"/vote takes tie, bad, or the number of a reply, 1 to {count}."
        best, names = numbers.get(choice, 0), list(self.models)
        better = 0 if choice in numbers else {"tie": "tie", "bad": "both bad"}[choice]
        pairs = list(combinations(range(count), 2))
        if choice in numbers:
            pairs = [(best, other) for other in range(count) if other != best]
        append_votes(
            self.votes,
            [
                make_vote(
                    self.turns[:-1],
                    [self.replies[one], self.replies[other]],
                    [names[one], names[other]],
                    better,
                )
                for one, other in pairs
            ],
        )
        self.turns[-1] = self.replies[best]
        self.replies = []  # a turn has one vote
        return f"Saved to {self.votes}. The dialogue goes on with the reply of {names[best]}."


class Words(TextStreamer):
    """Print the words of a reply as they are made, without blanks before the first."""

    begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        text = text if self.begun else text.lstrip()
        self.begun |= bool(text)
        super().on_finalized_text(text, stream_end)


def painted(text: str) -> str:
    """Colour a text, where the output is a terminal and nobody has asked for none."""
    return CYAN.format(text) if sys.stdout.isatty() and "NO_COLOR" not in os.environ else text


def streams(model, settings: Mapping) -> bool:
    """Tell whether a reply is made token by token: not by beams, nor chosen among candidates."""
    beams = settings.get("num_beams", model.generation_config.num_beams) or 1
    return beams == 1 and extra_options(model, settings)["candidates"] == 1


def describe_candidates(context, model, tokenizer, settings: Mapping) -> str:
    """List candidates for a reply, the best first: score, text, and what the score is made of.

    Without `candidates` in the settings, they are what beams or sampling find.
    """
    if extra_options(model, settings)["candidates"] == 1:
        saved = model.generation_config
        settings = {**settings, "candidates": SHOWN_CANDIDATES}
        if not settings.get("do_sample", saved.do_sample):
            beams = settings.get("num_beams", saved.num_beams) or 1
            settings["num_beams"] = max(beams, SHOWN_CANDIDATES)
    lines = []
    for candidate in candidates(context, model, tokenizer, **settings):
        parts = ", ".join(f"{name} {part:.2f}" for name, part in candidate.parts.items())
        lines.append(f"{candidate.score:.2f}  {candidate.text}  ({parts})")
    return "\n".join(lines)


def save(turns: Sequence[str], name: str) -> str:
    """Write a dialogue to a file that `data` of a run reads; tell what was done."""
    path = Path(name).expanduser()
    try:
        if not turns:
            raise UsageError("There is no dialogue to save: say something first.")
        check_writable(path, (".jsonl", ".txt"))
        if path.exists():
            raise UsageError(f"{name!r} is there already: choose another name.")
        if path.suffix == ".jsonl":
            text = json.dumps({"dialog": list(turns)}, ensure_ascii=False)
        elif any(TURN_SEPARATOR in turn for turn in turns):
            raise UsageError(
                f"A turn has {TURN_SEPARATOR}, which .txt cannot hold: save as .jsonl."
            )
        else:
            text = " ".join(f"{turn} {TURN_SEPARATOR}" for turn in turns)
        write_text(path, f"{text}\n")
    except (UsageError, OSError) as error:
        return f"Not saved: {error}"
    return f"Saved: {name}"


def command(line: str, conversation: TerminalChat) -> str | None:
    """Carry out a line that begins with a slash; return what to print, None to leave."""
    name = line.split()[0]
    rest = line.removeprefix(name).strip()
    if name in ("/quit", "/exit", "/q"):
        return None
    if name == "/reset":
        conversation.reset()
        return "The dialogue is forgotten."
    if name == "/undo":
        return "Forgotten." if conversation.undo() else "There is nothing to undo."
    if name == "/retry":
        return "" if conversation.retry() else "There is nothing to reply to."
    if name == "/candidates":
        return all_candidates(conversation)
    if name == "/vote":
        return conversation.vote(rest)
    if name == "/save":
        return save(conversation.turns, rest)
    if name == "/set":
        return change_setting(rest, conversation)
    return HELP if name == "/help" else f"There is no command {name}.\n{HELP}"


def all_candidates(conversation: TerminalChat) -> str:
    """List the candidates of each model for the last reply."""
    if not conversation.turns:
        return "There is nothing to reply to."
    if conversation.safety is not None:
        return "The filter does not read candidates, so they are not shown."
    context, settings = conversation.turns[:-1], conversation.generate_kwargs
    lists = [
        f"{name}:\n{describe_candidates(context, *model, settings)}"
        for name, model in conversation.models.items()
    ]
    return "\n".join(lists)


def change_setting(assignment: str, conversation: TerminalChat) -> str:
    """Change a decoding setting if `generate()` accepts it; without `assignment`, show all."""
    config = conversation.model.generation_config
    if not assignment:
        saved = {k: v for k, v in config.to_diff_dict().items() if not k.endswith("version")}
        settings = saved | conversation.generate_kwargs
        return "\n".join(f"{name}={value}" for name, value in settings.items())
    name, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals or name not in DecodingArguments.__dataclass_fields__:
        known = ", ".join(DecodingArguments.__dataclass_fields__)
        return f"There is no decoding setting {name!r}, but {known}: for example /set num_beams=4."
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        value = text
    if name not in ("rerank", "reverse_model") and not isinstance(value, (bool, int, float)):
        return f"{name}={text} does not work: it takes a number, true or false."
    if name in MOST and value > MOST[name]:
        return f"{name}={text} does not work: it is at most {MOST[name]} here."
    settings = conversation.generate_kwargs | {name: value}
    try:
        generate_response("Hello", conversation.model, conversation.tokenizer, **settings)
    except Exception as error:  # whatever a library makes of such a value
        return f"{name}={text} does not work: {short_reason(error)}"
    conversation.generate_kwargs = settings
    if name == "rerank" and extra_options(conversation.model, settings)["candidates"] == 1:
        return f"{name}={value} (has an effect after /set candidates=10)"
    sampling = settings.get("do_sample", config.do_sample)
    if name in ("temperature", "top_p", "top_k") and not sampling:
        return f"{name}={value} (has an effect after /set do_sample=true)"
    return f"{name}={value}"


def chat(folders: Sequence[str], votes: str = VOTES, **options) -> None:
    """Talk with the models in `folders` until the input ends.

    `options` are those of `load`, and of the filter (`safety_of`).
    """
    disable_progress_bar()
    safety = safety_of(options)
    check_different(folders)
    if len(folders) > 1:
        check_votes(votes)
    loaded = {str(folder): load(folder, **options) for folder in folders}
    in_terminal = sys.stdin.isatty()
    models = {name: (model, tokenizer) for name, (model, tokenizer, _) in loaded.items()}
    talk = TerminalChat(models, in_terminal, votes, safety)
    if in_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401 (gives input() editing and history)
        for name, (model, _, device) in loaded.items():
            print(f"{name} by {engine(model)}, on {device}.")
        print("/help lists the commands; exit, quit or :q alone on a line leaves.")
    converse(talk)
    if in_terminal:
        print()


def converse(talk: TerminalChat) -> None:
    """Answer line by line until the input ends, or a line says so."""
    while True:
        try:
            line = input("you: " if talk.in_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if talk.in_terminal and line in GOODBYES:
            break
        talk.printed = 0
        try:
            if line.startswith("/") and (talk.in_terminal or line.split()[0] in COMMANDS):
                answer = command(line, talk)
                if answer is None:
                    break
                if answer:
                    print(answer, file=sys.stdout if talk.in_terminal else sys.stderr)
            elif line:
                talk.say(line)
        except KeyboardInterrupt:  # ends the reply, not the chat
            if talk.in_terminal:
                print(flush=True)
        except Exception as error:  # a line that fails is told, and the next one is read
            print(short_reason(error), file=sys.stderr)
        if not talk.in_terminal:  # the next reply stands in the line of what it answers
            print("\n" * (len(talk.models) - talk.printed), end="", flush=True)
        if getattr(sys.stdout, "reader_is_gone", False):
            break
