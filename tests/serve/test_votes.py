"""Votes are kept as preferences; the tally and the ranking are those of the literature."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.serve.votes import (
    append_votes,
    bradley_terry,
    check_votes,
    make_vote,
    ranking,
    read_votes,
    tally,
    wilson,
)

CONTEXT, REPLIES, MODELS = ["Hi!", "Hello.", "Is it far?"], ["Yes, quite.", "No."], ["a", "b"]


def votes(*results):
    """Votes from results such as "a>b", "a=b" (a tie) and "a!b" (both bad)."""
    kinds = {">": 0, "=": "tie", "!": "both bad"}
    return [make_vote(CONTEXT, REPLIES, [r[0], r[2]], kinds[r[1]]) for r in results]


@pytest.mark.parametrize(
    ("better", "expected"),
    [
        (0, ("Yes, quite.", "No.", "a", "b", "better")),
        (1, ("No.", "Yes, quite.", "b", "a", "better")),
        ("tie", (None, REPLIES, None, MODELS, "tie")),
        ("both bad", (None, REPLIES, None, MODELS, "both bad")),
    ],
)
def test_a_vote_is_a_preference(better, expected):
    vote = make_vote(CONTEXT, REPLIES, MODELS, better)
    names = ("chosen", "rejected", "chosen_model", "rejected_model", "vote")
    assert vote.pop("time").endswith("+00:00")
    assert vote == {"context": CONTEXT, **dict(zip(names, expected, strict=True))}


def test_the_same_reply_twice_is_a_tie():
    assert make_vote(CONTEXT, ["No.", "No."], MODELS, 1)["vote"] == "tie"


def test_no_vote_is_lost(tmp_path):
    path = tmp_path / "votes.jsonl"
    assert read_votes(path) == []
    by_hand = json.dumps(votes("a>b")[0])  # without an end of the line
    path.write_text(by_hand)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: append_votes(path, votes("b>a", "a=b")), range(16)))
    read = read_votes(path)
    assert len(read) == 33 and read[0]["chosen_model"] == "a"
    assert path.read_text().startswith(by_hand + "\n")


def test_votes_that_cannot_be_added_to_can_be_read(tmp_path, monkeypatch):
    append_votes(tmp_path / "votes.jsonl", votes("a>b"))

    def read_only(**_):
        raise PermissionError("read-only")

    monkeypatch.setattr("tempfile.TemporaryFile", read_only)
    assert len(read_votes(tmp_path / "votes.jsonl")) == 1
    with pytest.raises(UsageError, match="Cannot write to"):
        check_votes(tmp_path / "votes.jsonl")


@pytest.mark.parametrize(
    "line", ["{", "[]", "{}", "1", json.dumps(votes("a>b")[0] | {"vote": "x"})]
)
def test_a_line_that_is_no_vote_is_named(tmp_path, line):
    append_votes(tmp_path / "votes.jsonl", votes("a>b"))
    with open(tmp_path / "votes.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(UsageError, match=r"Line 2 of .*votes.jsonl' is no vote: .* --votes"):
        read_votes(tmp_path / "votes.jsonl")


def test_the_tally_counts_votes_among_the_models():
    best, worst = tally(votes("a>b", "a>b", "b>a", "a=b", "a!b", "a>c"), MODELS)
    assert (best.model, best.wins, best.losses, best.ties, best.both_bad) == ("a", 2, 1, 1, 1)
    assert (worst.model, worst.wins, worst.losses, worst.share) == ("b", 1, 2, 1 / 3)
    assert tally([], MODELS)[0].interval == (0, 1)


@pytest.mark.parametrize(  # of scipy.stats.binomtest(wins, count).proportion_ci(method="wilson")
    ("wins", "count", "low", "high"),
    [(8, 10, 0.490162, 0.943318), (0, 5, 0.0, 0.434482), (5, 5, 0.565518, 1.0)],
)
def test_intervals_are_those_of_wilson(wins, count, low, high):
    assert wilson(wins, count) == pytest.approx((low, high), abs=1e-6)


def test_two_models_have_the_odds_of_their_votes():
    ratings = bradley_terry(np.array([[0, 8.5], [2.5, 0]]))  # and a tie: 9 to 3
    assert ratings[0] - ratings[1] == pytest.approx(400 * math.log10(3))
    assert ratings.mean() == pytest.approx(1000)


def test_the_estimate_is_where_the_likelihood_is_greatest():
    wins = np.array([[0, 7, 4], [3, 0, 6], [1, 2, 0]], float)
    strength = 10 ** (bradley_terry(wins) / 400)
    chance = strength[:, None] / (strength[:, None] + strength)  # (models, models)
    with_tie = wins + 0.5 * (1 - np.eye(3))
    expected = (chance * (with_tie + with_tie.T) * (1 - np.eye(3))).sum(1)
    assert expected == pytest.approx(with_tie.sum(1), abs=1e-6)  # the gradient is zero


def test_a_ranking_needs_ten_votes_and_has_intervals():
    nine = votes(*["a>b"] * 4, *["b>c"] * 4, "a=c")
    assert ranking(nine, ["c", "b", "a"]) is None
    ratings = ranking(nine + votes("a!b"), ["c", "b", "a"])
    assert list(ratings) == ["a", "b", "c"]
    assert all(low <= rating <= high for rating, low, high in ratings.values())
