"""The page of several models: side by side, and blind with votes."""

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import gradio as gr

from .space.app import (
    BLOCKS,
    CANNOT,
    OPENINGS,
    as_options,
    decoding_controls,
    description,
    make_chatbot,
    make_message,
    queued,
)
from .space.conversation import Speaker, as_messages, connect, replier
from .votes import NEEDED_TO_RANK, append_votes, make_vote, ranking, read_votes, tally, votes_among

VOTES = {"Left is better": 0, "Right is better": 1, "Tie": "tie", "Both bad": "both bad"}
HEIGHT = 420  # pixels of a dialogue
OWN_SETTINGS = "Each model decodes as it has been saved. What you change below holds for all."
HIDDEN = f"The names can be told after {NEEDED_TO_RANK} votes."


def arena(speakers: Sequence[Speaker], votes: Path) -> gr.Blocks:
    """Make the page on which several models answer the same turn; `votes` is the file of votes."""
    names = [speaker.name for speaker in speakers]
    with gr.Blocks(title=f"Compare {', '.join(names)}", **BLOCKS) as demo:
        models = "\n".join(f"- {description(speaker)}" for speaker in speakers)
        gr.Markdown(
            f"# {len(speakers)} models answer\n{models}\n\n{CANNOT}",
            elem_classes="heading",
        )
        settings = gr.Column(render=False)
        with settings:
            gr.Markdown(OWN_SETTINGS)
            controls, show = decoding_controls(
                speakers[0].model.generation_config, extras(speakers)
            )
        with gr.Tab("Side by side"):
            side_by_side(speakers, [*controls, show])
        with gr.Tab("Blind"):
            blind(speakers, votes, controls)
        settings.render()
    return queued(demo)


def moved(controls: Sequence) -> Callable[..., dict]:
    """Return a function as `as_options`, for options that are no longer as the controls began.

    The controls begin as the first model has them saved, and others have settings of their own.
    """
    first = as_options(*(control.value for control in controls))

    def changed(*values) -> dict:
        options = as_options(*values)
        return {name: value for name, value in options.items() if value != first.get(name)}

    return changed


def extras(speakers: Sequence[Speaker]) -> list[str]:
    """List what can be shown under the replies of all models."""
    return [title for title in speakers[0].extras if all(title in s.extras for s in speakers)]


def side_by_side(speakers: Sequence[Speaker], controls: Sequence) -> None:
    """Make the part where each model has a dialogue of its own, in which the same is said."""
    options = moved(controls[:-1])
    replies = [replier(speaker) for speaker in speakers]
    chatbots = dialogues([speaker.name for speaker in speakers])

    def answer(histories: Sequence, values: Sequence) -> Iterator[list]:
        *settings, shown = values
        grown = list(histories)
        for place, reply in enumerate(replies):
            for messages in reply(histories[place], options(*settings), shown):
                grown[place] = [*histories[place], *messages]
                yield grown

    connect(chatbots, make_message(), controls, answer)


def dialogues(labels: Sequence[str]) -> list[gr.Chatbot]:
    """Make dialogues beside each other, as far as there is room; openings stand in the first."""
    with gr.Row(elem_classes="several"):
        return [
            make_chatbot(() if number else OPENINGS, label, height=HEIGHT, min_width=320)
            for number, label in enumerate(labels)
        ]


def blind(speakers: Sequence[Speaker], path: Path, controls: Sequence) -> None:
    """Make the part where two models, drawn at random for each turn, answer without their names.

    Both answer the same dialogue. It goes on with the better reply; without one, with the left.
    """
    names, options = [speaker.name for speaker in speakers], moved(controls)
    replies = [replier(speaker) for speaker in speakers]
    chatbots = dialogues(["Left", "Right"])
    with gr.Row():
        buttons = {better: gr.Button(label, min_width=140) for label, better in VOTES.items()}
    message = make_message()
    standings = gr.Markdown(elem_classes="standings")
    named = gr.State(False)
    tell = gr.Button("Tell the names", interactive=False)

    def answer(histories: Sequence, values: Sequence) -> Iterator[list]:
        said, grown = histories[0], [histories[0], histories[0]]
        for side, number in enumerate(random.sample(range(len(speakers)), 2)):
            for messages in replies[number](said, options(*values)):
                grown[side] = [*said, messages[0]]
                yield grown
            grown[side] = [*said, messages[0] | {"metadata": {"id": number}}]
        yield grown

    def vote(better: int | str, left: list, right: list, named: bool):
        numbers = [number_of(history) for history in (left, right)]
        if None in numbers:
            gr.Warning("There are no two replies yet: say something.")
        elif numbers[0] == numbers[1]:
            gr.Warning("This turn has your vote: say something more.")
        else:
            *context, first = (turn["content"] for turn in as_messages(left))
            second = as_messages(right)[-1]["content"]
            voted = [names[number] for number in numbers]
            append_votes(path, [make_vote(context, [first, second], voted, better)])
            gr.Info("Your vote is saved. The dialogue goes on with the same reply on both sides.")
            left = right = right if better == 1 else left
        return left, right, *standing(named)

    def standing(named: bool):
        votes = votes_among(read_votes(path), names)
        enough = len(votes) >= NEEDED_TO_RANK
        return describe(votes, names, named and enough), gr.update(interactive=enough and not named)

    shared = {"api_visibility": "private", "show_progress": "hidden", "queue": False}
    for better, button in buttons.items():

        def by_button(left: list, right: list, named: bool, better=better):
            return vote(better, left, right, named)

        button.click(by_button, [*chatbots, named], [*chatbots, standings, tell], **shared)
    tell.click(lambda: (True, *standing(True)), None, [named, standings, tell], **shared)
    gr.on(None, standing, named, [standings, tell], **shared)  # when the page is loaded
    connect(chatbots, message, controls, answer)


def number_of(history: Sequence[dict]) -> int | None:
    """Return which model has given the last reply of a blind dialogue, once it is whole."""
    return ((history[-1].get("metadata") or {}) if history else {}).get("id")


def describe(votes: Sequence[dict], names: Sequence[str], named: bool) -> str:
    """Write what the votes say, with the names of the models or without."""
    ratings = ranking(votes, names) if len(names) > 2 else None
    heads = ["model", "better", "worse", "tie", "both bad", "preferred, with 95 % interval"]
    if ratings:
        heads.append("Bradley-Terry rating, with 95 % interval")
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for number, s in enumerate(tally(votes, names), start=1):
        low, high = s.interval
        share = f"{s.share:.0%}, {low:.0%} to {high:.0%}" if s.wins + s.losses else "–"
        cells = [f"`{s.model}`" if named else f"no. {number}", s.wins, s.losses, s.ties, s.both_bad]
        cells.append(share)
        if ratings:
            cells.append("{:.0f}, {:.0f} to {:.0f}".format(*ratings[s.model]))
        lines.append(f"| {' | '.join(map(str, cells))} |")
    count = "1 vote" if len(votes) == 1 else f"{len(votes)} votes"
    more = "" if named or len(votes) >= NEEDED_TO_RANK else f" {HIDDEN}"
    return f"**{count}**{more}\n\n" + "\n".join(lines)
