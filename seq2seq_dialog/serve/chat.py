"""Chat in the terminal, or in a pipe: each line read gives a line printed."""

import sys
from contextlib import suppress

import yaml
from transformers.utils.logging import disable_progress_bar

from ..hub_errors import short_reason
from ..portable.reranking import split_options
from ..settings import DecodingArguments
from .inference import Conversation, engine, generate_response, load
from .safety import safety_of

MOST = {
    "max_new_tokens": 1000,
    "num_beams": 100,
    "candidates": 100,
}  # more would take minutes for each reply
HELP = """\
/reset             forget the dialogue
/undo              forget the last thing you said and its reply
/set               show the decoding settings
/set NAME=VALUE    change one, for example /set num_beams=4 or /set do_sample=true
/quit              leave (or end of input); in a terminal, exit, quit or :q alone on a line, too"""
GOODBYES = ("exit", "quit", ":q")  # in a pipe they are something said


def command(line: str, conversation: Conversation) -> str | None:
    """Carry out a line that begins with a slash; return what to print, None to leave."""
    name, _, rest = line.partition(" ")
    if name in ("/quit", "/exit", "/q"):
        return None
    if name == "/reset":
        conversation.reset()
        return "The dialogue is forgotten."
    if name == "/undo":
        return "Forgotten." if conversation.undo() else "There is nothing to undo."
    if name == "/set":
        return change_setting(rest.strip(), conversation)
    return HELP if name == "/help" else f"There is no command {name}.\n{HELP}"


def change_setting(assignment: str, conversation: Conversation) -> str:
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
    if name == "rerank" and split_options(conversation.model, settings)[0]["candidates"] == 1:
        return f"{name}={value} (has an effect after /set candidates=10)"
    sampling = settings.get("do_sample", config.do_sample)
    if name in ("temperature", "top_p", "top_k") and not sampling:
        return f"{name}={value} (has an effect after /set do_sample=true)"
    return f"{name}={value}"


def chat(folder: str, **options) -> None:
    """Talk with the model in `folder` until the input ends.

    `options` are those of `load`, and of the filter (`safety_of`).
    """
    disable_progress_bar()
    safety = safety_of(options)
    model, tokenizer, device = load(folder, **options)
    conversation = Conversation(model, tokenizer, safety)
    in_terminal = sys.stdin.isatty()
    if in_terminal:
        with suppress(ImportError):
            import readline  # noqa: F401 (gives input() editing and history)
        print(f"{folder} by {engine(model)}, on {device}.")
        print("/help lists the commands; exit, quit or :q alone on a line leaves.")
    while True:
        try:
            line = input("you: " if in_terminal else "").strip()
        except (EOFError, KeyboardInterrupt):
            break
        if in_terminal and line in GOODBYES:
            break
        if line.startswith("/"):
            answer = command(line, conversation)
            if answer is None:
                break
            print(answer, file=sys.stdout if in_terminal else sys.stderr)
        elif line:
            try:
                reply = conversation.say(line)
            except Exception as error:  # a line that fails is told, and the next one is read
                print(short_reason(error), file=sys.stderr)
                continue
            print(f"bot: {reply}" if in_terminal else reply, flush=True)
            if getattr(sys.stdout, "reader_is_gone", False):
                break
    if in_terminal:
        print()
