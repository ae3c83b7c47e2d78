"""The verb `selfchat`: transcripts, figures, and a page to read them and to vote on them blindly.

The votes ask the questions of ACUTE-Eval (Li et al., 2019, arXiv:1909.03087). There two dialogues
stand side by side, and a person says which of two speakers is better. Here both have the same
opening: in one of them A answers it, and B in the other.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich.table import Table
from tqdm import tqdm
from transformers.utils.logging import disable_progress_bar

from ..dataset_script.dialogues import normalised
from ..errors import UsageError
from ..evaluation.catalogue import METRICS
from ..evaluation.diversity import self_chat
from ..evaluation.scoring import describe_decoding
from ..evaluation.text import segmented
from ..hub_errors import short_reason
from ..run_folder import (
    check_writable,
    free_path,
    read_jsonl,
    read_language,
    write_json,
    write_jsonl,
    write_text,
)
from ..serve.inference import TOKENS_PER_BATCH, load
from ..serve.reply import decoding_options
from ..serve.selfchat import (
    OPENINGS,
    ROLES,
    Participant,
    as_rows,
    decoding,
    read_openings,
    replies_of,
    talk,
)
from .console import plain_console
from .pictures import PALETTE
from .tables import render, table

SCRIPT = Path(__file__).with_name("selfchat.js")


def selfchat(
    folder: str,
    other: str | None = None,
    openings: str | None = None,
    dialogues: int = 100,
    turns: int = 8,
    output: str = "selfchat.jsonl",
    seed: int = 42,
    tokens_per_batch: int = TOKENS_PER_BATCH,
    device: str | None = None,
    trust_remote_code: bool = False,
    **options,
) -> None:
    """Let a model talk with itself or with `other`; write transcripts, figures and a page.

    Args:
        folder, other: models, as `load` takes them.
        openings: a file as `read_openings` takes it; by default the `OPENINGS` of this project.
        dialogues: how many; each model opens half of them.
        turns: of a dialogue, the opening among them.
        output: a .jsonl file. Figures and page get its name with .json and .html. Where there is a
            file, the name gets a number.
        options: of `generate()`; None is the model's own setting, see `decoding`.
    """
    disable_progress_bar()
    _check(dialogues, turns, output)
    given = decoding_options(options)
    choice = OPENINGS if openings is None else read_openings(openings)
    speakers = []
    for name in filter(None, (folder, other)):
        model, tokenizer, _ = load(name, device, trust_remote_code)
        speakers.append(Participant(name, model, tokenizer, decoding(model, given)))
    chosen = _choose_openings(choice, dialogues, speakers)
    with tqdm(total=len(chosen) * (turns - 1), unit=" turns") as bar:
        try:
            texts = talk(speakers, chosen, turns, seed, bar.update, tokens_per_batch)
        except (TypeError, ValueError) as error:
            raise UsageError(f"The models do not talk so: {short_reason(error)}") from error
        bar.total = bar.n  # of dialogues that ended early, the rest will not come
    rows = as_rows(texts, [speaker.name for speaker in speakers])
    about = {
        "dialogues": len(rows),
        "turns": turns,
        "ended early": sum(len(dialogue) < turns for dialogue in texts),
        "openings": openings or "those of this project",
        "seed": seed,
        "speakers": [
            describe(rows, letters, speaker)
            for letters, speaker in zip(ROLES if other else [ROLES], speakers, strict=True)
        ],
    }
    _print(about)
    print(f"Written: {', '.join(map(str, write(rows, about, Path(output))))}")


def _check(dialogues: int, turns: int, output: str) -> None:
    for name, value, least in (("dialogues", dialogues, 1), ("turns", turns, 2)):
        if value < least:
            raise UsageError(f"{name} is {value}; it must be at least {least}.")
    check_writable(Path(output), [".jsonl"])


def _choose_openings(
    openings: Sequence[str], dialogues: int, speakers: Sequence[Participant]
) -> list[str]:
    """Give each dialogue its opening; two speakers get the same ones."""
    samples = [
        speaker.options.get("do_sample", speaker.model.generation_config.do_sample)
        for speaker in speakers
    ]
    most = len(openings) * len(speakers)
    if dialogues > most and not any(samples):
        print(
            f"Without sampling, the same opening makes the same dialogue: {most} dialogues of "
            f"{len(openings)} openings instead of {dialogues}."
        )
        dialogues = most
    return [openings[i // len(speakers) % len(openings)] for i in range(dialogues)]


def describe(rows: Sequence[dict], letters: str, speaker: Participant) -> dict:
    """Say who speaks as A or B, how, and with which figures; a lone speaker speaks as both."""
    pairs = list(replies_of(rows, letters))
    language = read_language(speaker.name)
    contexts = [segmented(context, language) for context, _ in pairs]
    replies = segmented([reply for _, reply in pairs], language)
    saved = speaker.model.generation_config.to_diff_dict()
    settings = {"do_sample": False, "num_beams": 1} | saved | speaker.options
    return {
        "speaker": " and ".join(letters),
        "model": speaker.name,
        "decoding": describe_decoding(settings),
        "replies": len(pairs),
        "figures": self_chat(contexts, replies),
    }


def _print(about: dict) -> None:
    """Print the figures, a column a speaker, and how they decode."""
    speakers = about["speakers"]
    heads = [speaker["model"] for speaker in speakers]
    layout = Table("figure", *heads, title="Self-chat", title_justify="left")
    layout.add_row("replies", *(f"{speaker['replies']:,}" for speaker in speakers))
    for key in speakers[0]["figures"]:
        figures = (f"{speaker['figures'][key]:.2f}" for speaker in speakers)
        layout.add_row(METRICS[key].label_and_unit, *figures)
    plain_console().print(layout)
    for speaker in speakers:
        print(f"{speaker['model']}: {speaker['decoding']}, seed {about['seed']}")
    if about["ended early"]:
        print(f"Ended early, by an empty reply: {about['ended early']} of {about['dialogues']:,}")


def write(rows: Sequence[dict], about: dict, output: Path) -> list[Path]:
    """Write transcripts, figures and page where nothing is; return their paths."""
    output = free_path(output)
    figures, page = (free_path(output.with_suffix(ending)) for ending in (".json", ".html"))
    write_jsonl(output, rows)
    write_json(figures, about)
    write_text(page, _page(rows, about, output.stem))
    return [output, figures, page]


def _page(rows: Sequence[dict], about: dict, name: str) -> str:
    """Fill the page: who reads it without scripts can read, but not vote."""
    speakers = about["speakers"]
    named = [
        {"name": f"{each['speaker']}: {each['model']}", "metrics": each["figures"]}
        for each in speakers
    ]
    notes = [f"{each['model']}: {each['decoding']}" for each in speakers]
    script = SCRIPT.read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    content = {
        "name": name,
        "palette": PALETTE,
        "about": about,
        "table": table("Figures", "speaker", named, list(speakers[0]["figures"]), notes),
        "dialogues": [marked_turns(row) for row in rows],
        "data": _json_of(vote_data(rows, name)) if len(speakers) > 1 else "",
        "script": Markup(script),
        "script_hash": base64.b64encode(digest).decode(),
    }
    return render("selfchat.html.jinja", content) + "\n"


def marked_turns(row: dict) -> list[dict]:
    """List the turns of a dialogue, each with what says that it repeats an earlier one."""
    known: set[str] = set()
    turns = []
    for message in row["messages"]:
        normal = normalised(message["content"])
        turns.append(message | {"repeats": normal in known})
        known.add(normal)
    return turns


def read_transcripts(path: Path, most: int) -> list[list[dict]]:
    """Read the turns of the first dialogues of a file; none where there is no file."""
    try:
        rows = read_jsonl(path)[:most] if path.is_file() else []
        return [marked_turns(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{str(path)!r} holds no dialogues of selfchat ({error}). Move it away."
        ) from error


def vote_data(rows: Sequence[dict], name: str) -> dict:
    """Return what the script shows: pairs of dialogues with one opening, and who is judged.

    It is who answers the opening, A in one of both dialogues and B in the other.
    """
    pairs = [list(pair) for pair in zip(rows[1::2], rows[::2], strict=False)]
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]
    return {"id": digest, "name": name, "models": rows[0]["models"], "pairs": pairs}


def _json_of(content: dict) -> Markup:
    """Write JSON that stands in a script element: nothing in it ends that element."""
    return Markup(json.dumps(content, ensure_ascii=False).replace("<", "\\u003c"))
