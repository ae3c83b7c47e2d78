"""The report of a run: what stands in it, and what cannot break it."""

import ast
import json
import math
import re
import shlex

import pytest
from helpers.pages import HOSTILE, SYSTEMS, Checker, evaluation

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.evaluation.catalogue import METRICS
from seq2seq_dialog.report import page
from seq2seq_dialog.report.console import plain_console, print_run, print_samples
from seq2seq_dialog.report.model_card import model_card
from seq2seq_dialog.report.page import choose_samples, describe, write
from seq2seq_dialog.report.tables import markdown, number, table
from seq2seq_dialog.run_folder import read_jsonl, write_json, write_jsonl, write_yaml
from seq2seq_dialog.serve.votes import make_vote

TIE = {"vote": "tie", "chosen": None, "chosen_model": None, "rejected": ["yes", "no"]}
TIE |= {"rejected_model": ["runs/<a>", "runs/b"]}


def adversarial_log():
    log = [{"step": step, "human_loss": 4 + step / 100, "reward": 0.3} for step in (10, 20, 30)]
    for step, success in ((0, 12.5), (30, 31.25)):
        log.append(
            {
                "step": step,
                "eval_loss": 4.5,
                "eval_perplexity": math.exp(4.5),
                "eval_discriminator_accuracy": 81.5,
                "eval_adversarial_success": success,
                "eval_reward": 0.25,
                "eval_sampled_distinct_2": 40.5,
            }
        )
    return log


def page_of(folder):
    return write(folder).read_text(encoding="utf-8")


def test_the_file_is_written_and_named(run_folder, capsys):
    page.report(str(run_folder))
    assert capsys.readouterr().out.split() == [str(run_folder / "report.html")]
    assert not list(run_folder.glob("*.part"))
    before = page_of(run_folder)
    assert before == page_of(run_folder)  # nothing of the clock, nothing of chance


def test_every_figure_of_the_results_stands_there(run_folder):
    html = page_of(run_folder)
    shown = re.split(r"[\s|()–]+", Checker(html).said)
    for row in evaluation()["results"]:
        for value in row["metrics"].values():
            text = f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"
            assert text in shown, (row, value)
        assert row["signature"] in html
    for text in (
        "2.51–4.49",
        "1,000–1,000,000,000",
        "greedy, max",
        "1,902",
        "4,820,224",
        "61.20",
        "0.77",
    ):
        assert text in html, text
    assert "The model does not beat &lt;the rest&gt;." in html
    for text in ("9 (30.0 %) after the same last turn of context", "7 (23.3 %)", "20 pairs are"):
        assert text in html, text


def test_systems_stand_in_lines_and_subsets_side_by_side():
    rows = [row | {"name": row["system"]} for row in evaluation()["results"][:6]]
    layout = table("Scores", "system", rows, ["bleu", "perplexity", "absent"])
    assert [name for name, _ in layout["rows"]] == list(SYSTEMS)
    assert layout["subsets"] == ["full", "clean"]
    assert [column[0] for column in layout["columns"]] == ["sacreBLEU", "perplexity"]
    assert layout["rows"][0][1] == [
        [("3.03", "2.51–4.49"), ("4.04", "2.51–4.49")],
        [("1,264", "1,000–1,000,000,000"), ("1,254", "1,000–1,000,000,000")],
    ]
    assert layout["rows"][1][1][1] == [("–", ""), ("–", "")]
    assert table("Nothing", "system", [{"name": "model", "metrics": {"signature": "x"}}]) is None


def test_the_html_is_well_formed_and_accessible(run_folder):
    checker = Checker(page_of(run_folder))
    assert checker.open == []
    assert checker.all("html") == [{"lang": "en"}] and len(checker.all("h1")) == 1
    pictures = [svg for svg in checker.all("svg") if "aria-hidden" not in svg]
    assert len(pictures) > 5 and all(svg["role"] == "img" for svg in pictures)
    assert all(len(svg["aria-label"]) > 20 for svg in pictures)
    assert checker.all("th") and all("scope" in th for th in checker.all("th"))
    ids = [attrs["id"] for _, attrs in checker.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {a["href"] for a in checker.all("a")}
    assert targets == {"#scores", "#training", "#diversity", "#samples", "#settings"}
    assert {target[1:] for target in targets} <= set(ids)


def test_nothing_is_wider_than_a_phone(run_folder):
    html = page_of(run_folder)
    # A table scrolls by itself; what is hidden in it lies within what scrolls, not on the page.
    rule = re.search(r"^\.scroll {(.*?)}", html, re.MULTILINE)[1]
    assert "position: relative" in rule and "overflow-x: auto" in rule
    assert html.count("<table") == len(re.findall(r'<div class="scroll"[^>]*>\s*<table', html)) > 3
    assert re.search(r"^pre {[^}]*overflow-x: auto", html, re.MULTILINE)


def test_samples_come_before_figures(run_folder):
    html = page_of(run_folder)
    places = [html.index(f'id="{name}"') for name in ("samples", "scores", "training", "settings")]
    assert places == sorted(places) and places[0] < html.index("<table")


def test_every_term_is_said_in_plain_words(run_folder):
    said = Checker(page_of(run_folder)).said
    shown = {key for row in evaluation()["results"] for key in row["metrics"] if key in METRICS}
    assert shown and all(METRICS[key].plain in said for key in shown)
    assert all(metric.plain.endswith(".") for metric in METRICS.values())


def test_the_html_needs_nothing_from_outside(run_folder):
    html = page_of(run_folder)
    checker = Checker(html)
    for tag, attrs in checker.tags:
        assert tag not in {"script", "img", "iframe", "object"}
        assert "src" not in attrs
        assert attrs.get("href", "#").startswith(("#", "data:,")), attrs
    assert "url(" not in html and "@import" not in html


def test_no_text_of_the_data_becomes_markup(run_folder):
    html = page_of(run_folder)
    assert HOSTILE in Checker(html).said
    assert "<script" not in html


def test_self_chats_and_votes_are_shown_where_there_are_any(run_folder):
    assert 'id="talk"' not in page_of(run_folder)
    texts = ["Hi!", HOSTILE, "hi", "Bye"]
    row = {"messages": [{"role": "AB"[i % 2], "content": text} for i, text in enumerate(texts)]}
    write_jsonl(run_folder / "selfchat.jsonl", [row] * 5)
    votes = [make_vote(["Hi!"], ["yes", "no"], ["runs/<a>", "runs/b"], 0)] * 3
    write_jsonl(run_folder / "votes.jsonl", [*votes, votes[0] | TIE])
    html = page_of(run_folder)
    checker = Checker(html)
    assert checker.open == [] and "<script" not in html and HOSTILE in checker.said
    assert html.count('class="dialogue"') == 3 and html.count('class="again"') == 3
    cells = " ".join(checker.said.split())
    assert "runs/<a> 3 0 1 0 100.00 43.85–100.00" in cells and "runs/b 0 3 1 0 0.00" in cells
    assert "4 votes, without names" in cells and "#talk" in {a["href"] for a in checker.all("a")}
    (run_folder / "selfchat.jsonl").write_text("[1]")
    with pytest.raises(UsageError, match="holds no dialogues of selfchat"):
        write(run_folder)


def test_markdown_is_escaped():
    escaped = str(markdown(HOSTILE))
    assert "\\| or \\*this\\* in a line \\`of\\` \\[its\\](http" in escaped
    assert escaped.count("&lt;") == 2 and "\n" not in escaped and "&amp; more" in escaped


@pytest.mark.parametrize("system", [HOSTILE, "$x$ & <b>"])
def test_no_name_becomes_markup_in_a_picture(run_folder, system):
    found = evaluation()
    for row in found["results"]:
        row["system"] = row["system"].replace("nearest training context", system)
    write_json(run_folder / "evaluation.json", found)
    html = page_of(run_folder)
    assert "<script" not in html and "<b>" not in html and Checker(html).open == []
    assert " ".join(system.split()) in " ".join(Checker(html).said.split())


def test_without_an_evaluation_the_rest_is_there(run_folder):
    for name in ("evaluation.json", "predictions.jsonl", "config.yaml", "environment.json"):
        (run_folder / name).unlink()
    html = page_of(run_folder)
    assert Checker(html).open == []
    assert "has left no evaluation.json" in html and "Verdict" not in html
    assert "81.45" in html and "83.10" in html
    assert "Samples" not in html
    (run_folder / "trainer_state.json").unlink()
    write_json(run_folder / "metrics.json", {"data": {}, "parameters": 5})
    html = page_of(run_folder)
    assert "<svg" not in html and "Training" not in html


def test_characters_that_the_tokenizer_does_not_know_are_told_where_they_are_many(run_folder):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    few, many = {"contexts": 0.0004, "replies": 0.0009}, {"contexts": 0.0123, "replies": 0.0004}
    for shares, told in (({"train": few}, None), ({"train": few, "test": many}, "1.2 % of")):
        metrics["data"]["unknown"] = shares
        write_json(run_folder / "metrics.json", metrics)
        said = " ".join(Checker(page_of(run_folder)).said.split())
        card = model_card(run_folder, "ann/model")
        assert ("tokenizer does not know" in said) == bool(told)
        assert ("know every character" in card) == bool(told)
    words = "1.2 % of the tokens of contexts and 0.0 % of replies in test."
    assert f"neither read nor write: {words}" in said and f"neither read nor write: {words}" in card


def test_the_curves_of_an_adversarial_run(run_folder):
    metrics = json.loads((run_folder / "metrics.json").read_text())
    metrics["train"]["collapse"] = "step 30: Distinct-2 fell"
    write_json(run_folder / "metrics.json", metrics)
    assert "Sampled replies to held-out contexts" not in page_of(run_folder)
    write_json(run_folder / "trainer_state.json", {"log_history": adversarial_log()})
    html = page_of(run_folder)
    labels = [svg.get("aria-label", "") for svg in Checker(html).all("svg")]
    losses = next(label for label in labels if label.startswith("Loss"))
    assert "training: from 4.10 at step 10 to 4.30 at step 30." in losses
    assert "validation: from 4.50 at step 0 to 4.50 at step 30." in losses
    samples = next(label for label in labels if label.startswith("Sampled"))
    assert "adversarial success: from 12.50 at step 0 to 31.25 at step 30." in samples
    assert "mean reward × 100: from 25.00" in samples and "Distinct-2: from 40.50" in samples
    assert "nan" not in html.replace("finance", "")
    assert "step 30: Distinct-2 fell" in html
    assert "31.25" in html


def test_the_model_kept_is_marked_where_it_is_the_best(run_folder):
    assert "model kept" in page_of(run_folder)
    write_yaml(run_folder / "config.yaml", {"load_best_model_at_end": False})
    assert "model kept" not in page_of(run_folder)


def test_samples_are_chosen_by_rule(run_folder, monkeypatch):
    rows = read_jsonl(run_folder / "predictions.jsonl")
    chosen = choose_samples(rows)
    assert choose_samples(rows) == chosen
    (_, best), (_, worst), (_, drawn) = chosen
    assert [len(best), len(worst), len(drawn)] == [6, 6, 8]
    assert best[0]["reply"] == HOSTILE and best[0]["chrf"] == pytest.approx(100)
    assert worst[0]["chrf"] <= worst[-1]["chrf"] <= min(row["chrf"] for row in drawn)
    assert max(row["chrf"] for row in drawn) <= best[-1]["chrf"]
    assert len({json.dumps(row) for group in (best, worst, drawn) for row in group}) == 20
    monkeypatch.setattr(page, "SEED", 1)
    assert choose_samples(rows)[2][1] != drawn
    assert [len(rows) for _, rows in choose_samples(rows[:9])] == [6, 3]
    assert choose_samples([]) == []


def test_whether_a_pair_is_clean_is_said_where_it_is_known(run_folder):
    html = page_of(run_folder)
    assert ", clean pair" in html and "overlaps with it" in html
    rows = read_jsonl(run_folder / "predictions.jsonl")
    for row in rows:
        del row["clean"]
    write_jsonl(run_folder / "predictions.jsonl", rows)
    html = page_of(run_folder)
    assert ", clean pair" not in html and "overlaps with it" not in html


@pytest.mark.parametrize(
    ("name", "changes", "told", "not_told"),
    [
        ("environment", {}, ["Some of the test set", "in the training data"], ["train split"]),
        (
            "environment",
            {"learnt_from_train": False},
            ["train split of these data, which this run did not learn from"],
            ["in the training data", "no news to the model"],
        ),
        (
            "evaluation",
            {"overlap": {}, "first_training_pairs": 50_000},
            ["from the first 50,000 alone"],
            ["Some of the"],
        ),
        (
            "evaluation",
            {"split": "validation"},
            ["Some of the validation set", "chosen on these pairs"],
            ["the test set"],
        ),
    ],
    ids=["trained", "other data", "stream", "validation"],
)
def test_what_train_is_to_the_model_is_told(run_folder, name, changes, told, not_told, capsys):
    path = run_folder / f"{name}.json"
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | changes)
    for text in (page_of(run_folder), model_card(run_folder, "user/tiny")):
        assert [words for words in (*told, *not_told) if words in text] == told
        assert ("chosen on these pairs" in text) == ("split" in changes)
    print_run(run_folder, plain_console(width=200))
    assert f"Samples from the {changes.get('split', 'test')} set" in capsys.readouterr().out


def test_pictures_are_left_out_where_a_figure_is_missing(run_folder):
    labels = [svg.get("aria-label", "") for svg in Checker(page_of(run_folder)).all("svg")]
    assert "BLEU-2 of the model by turns of context: 1: 1.50, 9+: 1.50." in labels
    assert "perplexity of the model by words of reference: 3-4: 33.25." in labels
    assert not any(label.startswith("perplexity of the model by turns") for label in labels)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.06139, "0.06"),
        (71.546, "71.55"),
        (999.5, "999.50"),
        (1234.5, "1,234"),
        (6740, "6,740"),
        (0, "0"),
        (math.nan, "–"),
        (None, "–"),
    ],
)
def test_figures(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("config", "title"),
    [
        (
            {"new_model": {"model_type": "t5"}, "data": "/d/dailydialog"},
            "T5 trained on dailydialog",
        ),
        (
            {"new_model": {"model_type": "rnn_seq2seq", "attention": "none"}, "data": "talk.txt"},
            "GRU without attention, trained on talk.txt",
        ),
        (
            {"model_name_or_path": "google-t5/t5-small"},
            "google-t5/t5-small fine-tuned on DailyDialog",
        ),
        (
            {"model_name_or_path": "/runs/gru", "adversarial": True},
            "gru trained adversarially on DailyDialog",
        ),
        (
            {"model_name_or_path": "/runs/t5", "dpo": True, "data": "votes.jsonl"},
            "t5 trained by preferences on votes.jsonl",
        ),
        ({"model_name_or_path": "/runs/t5", "do_train": False}, "t5 evaluated on DailyDialog"),
    ],
)
def test_titles(config, title):
    assert describe(config) == title


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"'.*' has no metrics\.json: it is no finished run"):
        page.report(str(tmp_path))
    with pytest.raises(UsageError, match=r"Give the output_dir of run_seq2seq_dialog\.py"):
        page.report(str(tmp_path / "nowhere"))
    (tmp_path / "metrics.json").write_text('{"data"')
    with pytest.raises(UsageError, match=r"Cannot read '.*metrics\.json': Expecting"):
        page.report(str(tmp_path))


def test_what_is_printed_can_be_pasted_where_paths_have_blanks(run_folder, tmp_path, capsys):
    folder = tmp_path / "my 'own' [runs]"
    run_folder.rename(folder)
    print_run(folder, plain_console(width=200))
    lines = capsys.readouterr().out.splitlines()
    commands = [shlex.split(line) for line in lines[-3:]]
    assert commands[0][-2:] == ["chat", str(folder)]
    model = re.search(r"model=(.*?), trust", commands[1][-1])[1]
    assert ast.literal_eval(model) == str(folder)
    assert commands[2] == ["open", f"{folder}/report.html"]
    (folder / "adapter_config.json").touch()  # of which transformers makes no pipeline
    print_run(folder, plain_console(width=200))
    assert "pipeline" not in capsys.readouterr().out


def test_samples_are_evenly_spaced_and_printed_as_they_stand(capsys):
    rows = [{"context": ["[/b]"], "reference": ":tea:", "reply": f"{n}."} for n in range(15)]
    print_samples(rows, "test", plain_console(width=200))
    printed = capsys.readouterr().out
    assert re.findall(r"(\d+)\.", printed) == ["0", "1", "3", "5", "7", "9", "11", "13"]
    assert "[/b]" in printed and ":tea:" in printed


def test_a_run_without_figures_prints_no_empty_table(tmp_path, capsys):
    write_json(tmp_path / "metrics.json", {"train": {"steps": 3}})
    print_run(tmp_path, plain_console(width=200))
    printed = capsys.readouterr().out
    assert "Nothing is evaluated" in printed and "┃ metric ┃" not in printed
