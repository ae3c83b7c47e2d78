"""Self-chat: a model talks with itself, or two models with each other.

All dialogues go on by one turn at a time, so that a turn of all of them is answered in batches.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from ..data.files import File, messages_of_a_setting
from ..data.formats import reader_of, readers
from ..data.readers.table_files import columns_of
from ..data.turns import as_dialogue, clean_text
from ..dataset_script.dialogues import END
from ..errors import UsageError
from ..portable.context import count_background
from ..run_folder import evenly_spaced
from ..settings import DataArguments
from .inference import TOKENS_PER_BATCH, generate_responses

OPENINGS = (
    "Hi! How are you today?",
    "Hello, is this seat taken?",
    "Good morning. I'd like to open an account.",
    "What are you doing this weekend?",
    "I'd like to book a table for two.",
    "I have lost my keys. What shall I do?",
    "Have you seen any good films lately?",
    "My train is late again.",
    "Do you play any sports?",
    "I am looking for a birthday present for my sister.",
    "What would you like for dinner?",
    "I have a job interview tomorrow.",
    "Which music do you listen to?",
    "It has been raining for a week now.",
    "Excuse me, how do I get to the station?",
    "I'm thinking of moving to another city.",
    "You look tired. Is everything all right?",
    "How much is this jacket?",
    "Where did you go on holiday?",
    "My computer does not start any more.",
    "I don't feel well today.",
    "Do you have any pets?",
    "Congratulations on your new flat!",
    "Could you help me with my homework?",
)
# Saved settings are mostly greedy or of beams, by which a model soon says the same again and again.
SAMPLING = {"do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 0.9, "top_k": 0}
ROLES = "AB"  # who speaks
MOST_PARAMETERS = 100_000_000  # of a model on a CPU, where more would take more than seconds


class Participant(NamedTuple):
    """A model that talks."""

    name: str
    model: object
    tokenizer: object
    options: dict  # of `generate()`


def decoding(model, given: dict) -> dict:
    """Return options of `generate()`: those `given`, and `SAMPLING` where a model does not sample.

    With `do_sample` False, the rest is as the model has it.
    """
    samples = model.generation_config.do_sample or given.get("do_sample") is False
    return given if samples else SAMPLING | given


def talk(
    speakers: Sequence[Participant],
    openings: Sequence[str],
    turns: int,
    seed: int = 42,
    progress: Callable[[int], object] | None = None,
    tokens_per_batch: int = TOKENS_PER_BATCH,
) -> list[list[str]]:
    """Let one speaker talk with itself, or two with each other, from each opening on.

    Of two speakers, the first opens the first dialogue, the second the next one, and so on. A
    dialogue ends early where a reply is empty: there is nothing to answer. The random state of the
    caller is left alone.

    Args:
        openings: the first turn of each dialogue.
        turns: of a dialogue, the opening among them.
        progress: called with the number of turns that a batch has added.

    Returns:
        The turns of each dialogue.
    """
    dialogues, going = [[opening] for opening in openings], list(range(len(openings)))
    cuda = {speaker.model.device for speaker in speakers if speaker.model.device.type == "cuda"}
    with torch.random.fork_rng(list(cuda)):
        torch.manual_seed(seed)
        for turn in range(1, turns):
            for place, (_, model, tokenizer, options) in enumerate(speakers):
                options = options | {"num_return_sequences": 1}  # saved settings may have more
                answered = [i for i in going if role(i, turn, speakers) % len(speakers) == place]
                contexts = [dialogues[i] for i in answered]
                replies = generate_responses(
                    contexts, model, tokenizer, None, tokens_per_batch, progress, **options
                )
                for i, reply in zip(answered, replies, strict=True):
                    dialogues[i].append(reply)
            going = [i for i in going if dialogues[i][-1]]
    return [[text for text in dialogue if text] for dialogue in dialogues]


def role(dialogue: int, turn: int, speakers: Sequence) -> int:
    """Tell who has a turn of a dialogue, 0 or 1; of a lone speaker, both are the same."""
    return (dialogue % len(speakers) + turn) % 2


def sample_talks(
    name: str, model, tokenizer, predictions: Sequence[dict], count: int = 3, turns: int = 6
) -> list[dict]:
    """Let a model talk with itself from first turns of its test pairs, evenly spaced.

    Returns:
        Rows as of `as_rows`; none where it would take long, or where no context is a first turn.
    """
    if model.device.type == "cpu" and model.num_parameters() > MOST_PARAMETERS:
        return []
    contexts = (row["context"] for row in predictions)
    first = (context for context in contexts if len(context) - count_background(context) == 1)
    openings = list(dict.fromkeys(context[-1] for context in first))
    speaker = Participant(name, model, tokenizer, decoding(model, {}))
    return as_rows(talk([speaker], evenly_spaced(openings, count), turns), [name])


def as_rows(dialogues: Sequence[Sequence[str]], names: Sequence[str]) -> list[dict]:
    """Write dialogues as `data` reads them, as messages; `names` are those of the speakers."""
    models = dict(zip(ROLES, [*names, *names], strict=False))
    return [
        {
            "conversation_id": str(i + 1),
            "models": models,
            "messages": [
                {"role": ROLES[role(i, turn, names)], "content": text}
                for turn, text in enumerate(dialogue)
            ],
        }
        for i, dialogue in enumerate(dialogues)
    ]


def replies_of(rows: Sequence[dict], letters: str) -> Iterator[tuple[list[str], str]]:
    """Yield what A, B or both (AB) reply, each after the turns before it; no openings."""
    for row in rows:
        texts = [message["content"] for message in row["messages"]]
        for turn in range(1, len(texts)):
            if row["messages"][turn]["role"] in letters:
                yield texts[:turn], texts[turn]


def read_openings(path: str) -> list[str]:
    """Read the first turns of dialogues, each once; of a text that holds none, the lines.

    The dialogues are of any form that `data` recognises.
    """
    if not Path(path).exists():
        raise UsageError(
            f"There is no {path!r}. Give a file of openings, or dialogues of any form."
        )
    args, file = DataArguments(data=path, detokenize=False), File(path, (path,))
    with messages_of_a_setting("--openings"):
        if Path(path).is_file() and _is_plain(file):
            texts = [clean_text(line) for _, line in file.lines()]
        else:
            by_split = readers(path, args).values()
            talks = (talk for read, _ in by_split for talk in read(lambda kind, line: None))
            said = (as_dialogue(talk).utterances for talk in talks)
            texts = [turn for turns in said for turn in turns[count_background(turns) :][:1]]
    openings = list(dict.fromkeys(filter(None, texts)))
    if not openings:
        raise UsageError(f"{path!r} holds no opening. Give a file with one a line.")
    return openings


def _is_plain(file: File) -> bool:
    """Tell whether a text holds no dialogues of a known form."""
    is_known = reader_of(file) is not None or columns_of(file)
    return END not in file.head and "\0" not in file.head and not is_known
