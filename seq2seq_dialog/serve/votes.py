"""Votes on pairs of replies: the file that keeps them, the tally, and a ranking of the models.

A row of the file is a preference, of which DPO can learn as it is:

    {"context": [turns], "chosen": text, "rejected": text, "chosen_model": name,
     "rejected_model": name, "vote": "better", "time": "2026-01-31T12:00:00+00:00"}

Of a tie, or where both are bad, nothing is chosen: `rejected` and `rejected_model` are lists of
both.
"""

import datetime
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from ..errors import UsageError
from ..run_folder import check_writable

KINDS = ("better", "tie", "both bad")
NEEDED_TO_RANK = 10  # votes
Z = 1.959964  # of a 95 % interval
RESAMPLES, STEPS = 200, 100  # of the bootstrap, of each estimate
KEYS = ("context", "chosen", "rejected", "chosen_model", "rejected_model", "vote")


def check_different(models: Sequence[str]) -> None:
    """Refuse a model that is given twice."""
    twice = [model for model in models if list(models).count(model) > 1]
    if twice:
        raise UsageError(f"The model {twice[0]!r} is given twice: give different models.")


def make_vote(
    context: Sequence[str], replies: Sequence[str], models: Sequence[str], better: int | str
) -> dict:
    """Make the row of a vote on two replies; `better` is the place of one, "tie" or "both bad".

    Of two replies that are the same, none is better: it is a tie.
    """
    if better in (0, 1) and replies[0] == replies[1]:
        better = "tie"
    decided = better in (0, 1)
    worse = 1 - better if decided else None
    return {
        "context": list(context),
        "chosen": replies[better] if decided else None,
        "rejected": replies[worse] if decided else list(replies),
        "chosen_model": models[better] if decided else None,
        "rejected_model": models[worse] if decided else list(models),
        "vote": "better" if decided else better,
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def append_votes(path: str | Path, votes: Sequence[dict]) -> None:
    """Append votes to a file, by one write that is on the disk when this returns."""
    path = Path(path)
    lines = "".join(json.dumps(vote, ensure_ascii=False) + "\n" for vote in votes)
    with FileLock(f"{path}.lock"), open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a line that was written by hand
                lines = "\n" + lines
        file.write(lines.encode())
        file.flush()
        os.fsync(file.fileno())


def check_votes(path: str | Path) -> None:
    """Refuse a file to which no vote can be added, before the models are loaded."""
    check_writable(Path(path))
    read_votes(path)


def read_votes(path: str | Path) -> list[dict]:
    """Read the votes of a file; none where there is no such file."""
    path = Path(path)
    if not path.exists():
        return []
    votes = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"Cannot read the votes in {str(path)!r}: {error}.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            vote = json.loads(line)
            if not vote.keys() >= set(KEYS) or vote["vote"] not in KINDS:
                raise ValueError
            is_pair = isinstance(vote["rejected_model"], list)
            if is_pair == (vote["vote"] == "better"):
                raise ValueError
        except (AttributeError, TypeError, ValueError) as error:
            raise UsageError(
                f"Line {number} of {str(path)!r} is no vote: mend the line, or name another file "
                "by --votes."
            ) from error
        votes.append(vote)
    return votes


@dataclass(frozen=True)
class Standing:
    """What the votes say of a model; `share` is that of the decided votes which it has won."""

    model: str
    wins: int
    losses: int
    ties: int
    both_bad: int
    share: float
    interval: tuple[float, float]


def tally(votes: Sequence[dict], models: Sequence[str]) -> list[Standing]:
    """Count the votes on models of `models` among themselves, the best first."""
    votes = votes_among(votes, models)
    standings = []
    for model in models:
        wins = sum(vote["chosen_model"] == model for vote in votes)
        losses = sum(vote["rejected_model"] == model for vote in votes)
        undecided = [vote["vote"] for vote in votes if model in pair(vote) and not decided(vote)]
        ties = undecided.count("tie")
        share = wins / (wins + losses) if wins + losses else 0.5
        interval = wilson(wins, wins + losses)
        bad = len(undecided) - ties
        standings.append(Standing(model, wins, losses, ties, bad, share, interval))
    return sorted(standings, key=lambda standing: -standing.share)


def decided(vote: dict) -> bool:
    """Tell whether a vote prefers one reply."""
    return vote["vote"] == "better"


def pair(vote: dict) -> list[str]:
    """Return the two models of a vote, the better one first where there is one."""
    rejected = vote["rejected_model"]
    return [vote["chosen_model"], rejected] if decided(vote) else list(rejected)


def votes_among(votes: Sequence[dict], models: Sequence[str]) -> list[dict]:
    """Return the votes on two different models of `models`."""
    return [vote for vote in votes if len(set(pair(vote)) & set(models)) == 2]


def wilson(wins: int, count: int) -> tuple[float, float]:
    """Compute the 95 % interval of a share: Wilson (1927), the score interval."""
    if count == 0:
        return 0.0, 1.0
    share, z = wins / count, Z * Z / count
    middle = (share + z / 2) / (1 + z)
    half = math.sqrt(z * share * (1 - share) + z * z / 4) / (1 + z)
    return max(0.0, middle - half), min(1.0, middle + half)


def bradley_terry(wins: np.ndarray) -> np.ndarray:
    """Estimate ratings of models from how often row i has beaten column j, (models, models).

    Bradley and Terry (1952): i beats j with probability p_i / (p_i + p_j). The likelihood is
    maximised by the MM algorithm of Hunter (2004), equation 3. Each pair gets one tie on top of its
    votes: without it, a model that has won all votes would have no finite strength.

    Returns:
        Ratings on the scale of Elo, mean 1000: 400 more are ten times the odds to win.
    """
    count = len(wins)
    wins = wins + 0.5 * (1 - np.eye(count))
    games, won = wins + wins.T, wins.sum(axis=1)
    strength = np.ones(count)
    for _ in range(STEPS):
        strength = won / (games / (strength[:, None] + strength)).sum(axis=1)
        strength /= np.exp(np.log(strength).mean())
    return 1000 + 400 * np.log10(strength)


def ranking(
    votes: Sequence[dict], models: Sequence[str], seed: int = 42
) -> dict[str, tuple[float, float, float]] | None:
    """Rank models by Bradley and Terry, with 95 % intervals of the bootstrap over votes.

    A tie is half a vote for each; where both are bad as well.

    Returns:
        Each model's rating and its interval, the best first; None below `NEEDED_TO_RANK` votes.
    """
    votes = votes_among(votes, models)
    if len(votes) < NEEDED_TO_RANK:
        return None
    place = {model: i for i, model in enumerate(models)}
    tables = np.zeros((len(votes), len(models), len(models)))  # what each vote adds to the wins
    for table, vote in zip(tables, votes, strict=True):
        first, second = (place[model] for model in pair(vote))
        table[first, second] = 1 if decided(vote) else 0.5
        table[second, first] = 0 if decided(vote) else 0.5
    draws = np.random.default_rng(seed).integers(len(votes), size=(RESAMPLES, len(votes)))
    resampled = np.array([bradley_terry(tables[drawn].sum(axis=0)) for drawn in draws])
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    ratings = bradley_terry(tables.sum(axis=0))
    order = np.argsort(-ratings)
    return {models[i]: (float(ratings[i]), float(low[i]), float(high[i])) for i in order}
