"""The verb `selfchat`: its files, its page, and blind votes in a browser."""

import base64
import hashlib
import json
import re
import shutil
import subprocess

import pytest
from helpers.pages import HOSTILE, Checker

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.report.selfchat import marked_turns, selfchat, vote_data, write
from seq2seq_dialog.run_folder import read_json, read_jsonl
from seq2seq_dialog.serve.selfchat import as_rows

FIGURES = {"repeated_replies": 1.5, "distinct_2": 20.25, "reply_words": 4.0}


def about(*names):
    speakers = [
        {"speaker": letter, "model": name, "decoding": "greedy", "replies": 2, "figures": FIGURES}
        for letter, name in zip("AB", names, strict=False)
    ]
    facts = {"dialogues": 4, "turns": 3, "ended early": 0, "openings": "those of this project"}
    return facts | {"seed": 42, "speakers": speakers}


@pytest.fixture
def page(tmp_path):
    """The page of two models, one with a hostile name, and what they say."""
    names = ["one", f"two {HOSTILE}"]
    dialogues = [["Hi!", f"{who} {i} {HOSTILE}", "Hi!"] for i in range(2) for who in ("b", "a")]
    *_, path = write(as_rows(dialogues, names), about(*names), tmp_path / "selfchat.jsonl")
    return path


def test_two_models_leave_dialogues_figures_and_a_page(saved, tmp_path, capsys):
    output = tmp_path / "out" / "talk.jsonl"
    options = {
        "dialogues": 3,
        "turns": 3,
        "output": str(output),
        "device": "cpu",
        "num_beams": None,
    }
    selfchat(str(saved), str(saved), **options)
    rows, figures = read_jsonl(output), read_json(output.with_suffix(".json"))
    assert [row["messages"][0]["content"] for row in rows[:2]] == ["Hi! How are you today?"] * 2
    assert [row["messages"][0]["role"] for row in rows] == ["A", "B", "A"]
    assert [each["replies"] for each in figures["speakers"]] == [3, 3]
    assert figures["speakers"][0]["figures"]["reply_words"] > 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "sampling" in printed and "distinct replies" in printed and "talk.html" in printed

    selfchat(str(saved), **options)  # nothing is overwritten
    assert {path.name for path in output.parent.iterdir()} == {
        f"talk{number}.{ending}" for number in ("", "-2") for ending in ("jsonl", "json", "html")
    }
    assert read_json(output.parent / "talk-2.json")["speakers"][0]["replies"] == 6
    assert "<script" not in (output.parent / "talk-2.html").read_text(encoding="utf-8")


def test_without_sampling_no_dialogue_is_made_twice(saved, tmp_path, capsys):
    (tmp_path / "openings.txt").write_text("Hello.\nIs it far?\n")
    output = tmp_path / "talk.jsonl"
    options = {"openings": str(tmp_path / "openings.txt"), "output": str(output), "turns": 2}
    selfchat(str(saved), device="cpu", do_sample=False, **options)
    assert "2 dialogues of 2 openings instead of 100" in capsys.readouterr().out
    assert len(read_jsonl(output)) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"turns": 1}, "turns is 1; it must be at least 2"),
        ({"dialogues": 0}, "dialogues is 0; it must be at least 1"),
        ({"output": "talk.txt"}, "output is 'talk.txt'; it must end in .jsonl"),
        ({"top_p": 2.0}, "top_p is 2.0; it must be from 0.001 to 1"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(options, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        selfchat(str(tmp_path / "none"), **{"output": str(tmp_path / "a.jsonl")} | options)


def test_a_turn_that_says_the_same_again_is_marked():
    row = {"messages": [{"role": "A", "content": text} for text in ("Hi!", "Oh?", "hi", "Oh no")]}
    assert [turn["repeats"] for turn in marked_turns(row)] == [False, False, True, False]


def test_who_answers_the_opening_is_judged_on_both_sides():
    rows = as_rows([["x", f"answer {i}"] for i in range(5)], ["one", "two"])
    data = vote_data(rows, "talk")
    assert [[row["conversation_id"] for row in pair] for pair in data["pairs"]] == [
        ["2", "1"],
        ["4", "3"],
    ]
    answering = [[row["messages"][1]["role"] for row in pair] for pair in data["pairs"]]
    assert answering == [["A", "B"]] * 2


def test_the_page_is_well_formed_and_nothing_said_becomes_markup(page):
    html = page.read_text(encoding="utf-8")
    checker = Checker(html)
    assert checker.open == [] and HOSTILE in checker.said
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", html, re.DOTALL)
    assert [attributes for attributes, _ in scripts] == [' type="application/json" id="data"', ""]
    data = json.loads(scripts[0][1])
    assert data["pairs"][0][0]["messages"][1]["content"] == f"a 0 {HOSTILE}"
    allowed = base64.b64encode(hashlib.sha256(scripts[1][1].encode()).digest()).decode()
    (policy,) = (tag["content"] for tag in checker.all("meta") if "http-equiv" in tag)
    assert f"script-src 'sha256-{allowed}';" in policy and "default-src 'none'" in policy
    assert "innerHTML" not in html and "fetch(" not in html
    assert not [attrs for _, attrs in checker.tags if "src" in attrs]


STEPS = """
const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key }));
state.swapped.splice(0, 2, false, true);  // A stands first, then second
press("1"); press("0");  // A, no difference
press("1"); press("Backspace"); press("2"); press("1");  // A, B
const kept = localStorage.getItem(PLACE);
document.body.replaceChildren(element("pre", { id: "out" }, JSON.stringify({
  kept: JSON.parse(kept), rows: state.votes.map(asRow),
  tally: Object.keys(QUESTIONS).map((q) => tallyLine(q).textContent),
  again: load().votes.length, end: task(4),
})));
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="Chromium is not installed")
def test_votes_in_a_browser(page, tmp_path):
    html = page.read_text(encoding="utf-8")
    html = re.sub(r"<meta http-equiv[^>]*>", "", html)  # so that the steps below may run
    page.write_text(html.replace("</body>", f"<script>{STEPS}</script></body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    done = subprocess.run(["chromium", *options], capture_output=True, text=True, timeout=120)
    out = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.DOTALL)[1]
    result = json.loads(out.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    assert [vote["choice"] for vote in result["kept"]["votes"]] == [
        "first",
        "tie",
        "second",
        "first",
    ]
    two, rows = f"two {HOSTILE}", result["rows"]
    assert [(row["question"], row["vote"], row["chosen_model"]) for row in rows] == [
        ("engaging", "better", "one"),
        ("human", "tie", None),
        ("engaging", "better", "one"),
        ("human", "better", two),
    ]
    assert [row["rejected_model"] for row in rows] == [two, ["one", two], two, "one"]
    assert all(row["context"] == ["Hi!"] for row in rows)
    assert {row["chosen"][0][0] for row in rows if row["chosen"]} == {"a", "b"}
    assert result["again"] == 4 and result["end"] is None
    # Wilson's interval of 2 among 2, and of 0 among 1
    assert "100 % of the choices, 95 % interval 34 to 100 %. That" in result["tally"][0]
    assert "No difference: 1. A has 0 % of the choices, 95 % interval 0 to 79" in result["tally"][1]
