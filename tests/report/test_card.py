"""The model card: true, valid, unbreakable, silent about the machine, with code that runs."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap

import pytest
import yaml
from helpers import pages, warm
from helpers.corpus import sample_dialogues
from helpers.hub_cards import LICENSES, check_card, code_blocks
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from seq2seq_dialog import run_folder as run_files
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.evaluation.catalogue import METRICS, keys_with
from seq2seq_dialog.models import artifact
from seq2seq_dialog.report import model_card as cards
from seq2seq_dialog.report import page
from seq2seq_dialog.report.licences import DAILYDIALOG, SAMPLES, check_terms, inherited_terms
from seq2seq_dialog.report.model_card import model_card
from seq2seq_dialog.report.tables import markdown, number
from seq2seq_dialog.run_folder import read_jsonl, write_json, write_jsonl, write_yaml
from seq2seq_dialog.serve.inference import generate_response, load
from seq2seq_dialog.shipped import STARTER

HOSTILE = [
    pages.HOSTILE,
    "--- {{ 7 * 7 }} {% raw %} {# #} ``` ~~~ </details></table> $$x$$ \\(y\\) 🙂 'one' \"two\"",
    "- key: [a, &b *c] # ! %\u2028--- | > 1. # **not bold** ![x](y) <!-- \\ ünï",
]

SAID = ['Say "hi" \\ {{ x }} ```', "It's <b>| 'one' | 🙂", "--- *b* $$x$$ # no"]
TASKLESS = """
from transformers import pipeline
try:
    pipeline(model="user/tiny", trust_remote_code=True)
except Exception as error:
    print(error)
"""

# Runs each block as a file of its own would be, and tells what they print.
RUNNER = textwrap.dedent(
    """
    import contextlib, io, json, sys

    printed = []
    for code in json.loads(sys.stdin.read()):
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, "block", "exec"), {"__name__": "__main__"})
        printed.append(output.getvalue().split("\\n")[:-1])
    print("RESULT" + json.dumps(printed))
    """
)


def evaluation():
    found = pages.evaluation()
    for own in found["diversity"].values():
        own["full"]["copied"] = 12.6
    return found


@pytest.fixture
def folder(run_folder):
    """A finished run of 30 pairs, one of them hostile."""
    write_json(run_folder / "evaluation.json", evaluation())
    return run_folder


def metadata(text: str) -> dict:
    return yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))


def section(text: str, title: str) -> str:
    return re.split(r"^## ", text.split(f"\n## {title}\n")[1], flags=re.MULTILINE)[0]


def change(folder, name, **more):
    """Set keys of a JSON or YAML file of a run; None takes one out."""
    path = folder / name
    settings = yaml.safe_load(path.read_text(encoding="utf-8")) | more
    settings = {key: value for key, value in settings.items() if value is not None}
    (write_json if path.suffix == ".json" else write_yaml)(path, settings)


def check(text: str) -> dict:
    """What holds of every card; returns its metadata."""
    errors, warnings = check_card(text, "model")
    assert (errors, warnings) == ([], [])
    assert str(ModelCard(text)) == text  # the Hub's library reads and writes it unchanged
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = block.rstrip("\n").split("\n")
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1, block
        assert set(rows[1]) <= set("|-:")
    for _, code in code_blocks(text):
        compile(code, "block", "exec")
    assert not re.search(r"\n{4,}|\bNone\b|\bUndefined\b", text)
    return metadata(text)


def outline(text: str) -> list[str]:
    """The tags and titles that a card becomes, without the text between them."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(text.split("\n---\n", 1)[1])
    found = []
    for token in tokens:
        for each in [token, *(token.children or ())]:
            if each.type.startswith("html") or each.type in ("link_open", "image", "hr"):
                found.append((each.type, each.content.strip(), str(each.attrs)))
            elif each.type in ("heading_open", "fence", "blockquote_open", "bullet_list_open"):
                found.append((each.type, each.tag, each.info))
    return found


def rows_of(texts, count=60):
    """Predictions whose dialogues say nothing but `texts`."""
    return [
        {
            "dialogue_id": str(i),
            "turn": 1 + i % 5,
            "context": [texts[(i + j) % len(texts)] for j in range(1 + i % 5)],
            "reference": texts[i % len(texts)],
            "reply": texts[(i + 1) % len(texts)],
            "clean": i % 4 > 0,
        }
        for i in range(count)
    ]


def test_the_metadata_are_valid_and_name_the_model_as_the_hub_does(folder):
    found = check(model_card(folder, "user/tiny"))
    assert found["library_name"] == "transformers" and found["pipeline_tag"] == "text-generation"
    assert found["tags"] == ["text2text-generation", "dialogue", "custom_code"]
    assert found["language"] == "en" and "base_model" not in found and "datasets" not in found
    assert found["metrics"] == ["perplexity", "sacrebleu", "bleu", "chrf", "rouge"]
    assert found["model-index"][0]["name"] == "tiny"


def test_the_model_index_holds_the_models_figures_on_both_subsets(folder):
    (result,) = metadata(model_card(folder, "user/tiny"))["model-index"][0]["results"]
    assert result["task"]["type"] == "text-generation"
    assert result["dataset"] == {"name": "dailydialog", "type": "custom", "split": "test"}
    figures = {}
    for metric in result["metrics"]:
        args = metric["args"]
        assert args["pairs"] == {"full": 30, "clean": 20}[args["subset"]]
        assert args["decoding"] == "greedy, max_new_tokens=40"
        assert args["signature"] == f"nrefs:1|protocol:{args['protocol']}"
        figures[args["protocol"], args["subset"], metric["name"]] = metric
    expected = [row for row in evaluation()["results"] if row["system"] == "model"]
    indexed = cards.INDEXED | {"default": keys_with("main")}
    for row in expected:
        for key in indexed.get(row["protocol"], ()):
            if key in row["metrics"]:
                kind = (row["protocol"], row["subset"])
                name = METRICS[key].label
                (metric,) = [
                    m for k, m in figures.items() if k[:2] == kind and k[2].split(" (")[0] == name
                ]
                assert metric["value"] == round(row["metrics"][key], 2)
    assert {key[:2] for key in figures} >= {("default", "clean"), ("plato", "full")}
    bleu = figures["default", "full", "sacreBLEU (all pairs)"]
    assert bleu["type"] == "sacrebleu" and bleu["args"]["confidence_interval_95"] == [2.51, 4.49]
    perplexity = figures["default", "full", "perplexity (all pairs)"]  # its interval is endless
    assert perplexity["args"]["confidence_interval_95"] == [1000.2, 1e9]


def test_several_references_are_named_in_the_model_index(folder):
    found = evaluation()
    row = found["results"][0] | {"protocol": "multiref", "metrics": {"bleu_2": 9.876}}
    write_json(folder / "evaluation.json", found | {"results": [*found["results"], row]})
    text = model_card(folder, "user/tiny")
    check(text)
    metrics = metadata(text)["model-index"][0]["results"][0]["metrics"]
    names = {metric["name"]: metric["value"] for metric in metrics}
    assert names["BLEU-2 (all pairs, best of several references)"] == 9.88


def test_the_results_stand_there_beside_the_baselines_and_the_verdict(folder):
    results = section(model_card(folder, "user/tiny"), "Results")
    assert "The model does not beat &lt;the rest&gt;." in results
    assert "9 (30.0 %) after the same last turn of context" in results
    assert "\n\nBeside the model" in results
    assert "2.51–\u20604.49" in results and "1,000–\u20601,000,000,000" in results
    shown = re.split(r"[\s|<>()–]+", results)
    for row in evaluation()["results"]:
        for value in row["metrics"].values():
            assert number(value) in shown, (row["system"], row["protocol"], value)
        assert row["signature"].replace("|", "\\|") in results
    head, fold = results.split("<details>")
    assert not re.search(r"</sub>\n<sub>", fold)  # each note a paragraph
    assert head.index("**Clean pairs**: 20") < head.index("**All pairs**: 30")
    assert "Decoding: greedy" not in head  # the settings of this run do not say


def test_where_all_pairs_are_clean_nothing_stands_there_twice(folder):
    found = evaluation()
    for row in found["results"]:
        row["pairs"] = 30
    found["overlap"] = {"pairs": 30, "clean_pairs": 30, "pairs_in_train": {"1": 0}}
    write_json(folder / "evaluation.json", found)
    text = model_card(folder, "user/tiny")
    results = section(text, "Results")
    assert "**All pairs**: 30; none appears in the training data" in results
    assert "lean pairs" not in results and "appears in the training data.**" not in results
    assert "(clean pairs)" not in text  # in the metadata neither


def test_the_examples_are_real_replies_to_clean_contexts(folder):
    rows = rows_of([text for turns in sample_dialogues(9) for text in turns])
    write_jsonl(folder / "predictions.jsonl", rows)
    text = model_card(folder, "user/tiny")
    widgets = check(text)["widget"]
    clean = {
        (" __eou__ ".join(row["context"]), row["reply"]): len(row["context"])
        for row in rows
        if row["clean"]
    }
    turns = [clean[widget["text"], widget["output"]["text"]] for widget in widgets]
    assert turns == [1, 2, 3]
    lengths = [len(text) for text, reply in clean if clean[text, reply] == 2]
    assert len(widgets[1]["text"]) <= sorted(lengths)[len(lengths) // 4]
    head = text.split("\n## ")[0]
    for speaker, turn in zip("ABA", widgets[2]["text"].split(" __eou__ "), strict=True):
        assert f"> **{speaker}:** {markdown(turn)}<br>\n" in head
    assert f"> **Model:** {markdown(widgets[2]['output']['text'])}\n" in head
    assert text == model_card(folder, "user/tiny")  # nothing of chance
    for row in rows:
        row["clean"] = False
    write_jsonl(folder / "predictions.jsonl", rows)
    assert len(check(model_card(folder, "user/tiny"))["widget"]) == 3


def test_what_stands_before_a_dialogue_is_nothing_said_in_it(folder):
    rows = rows_of([text for turns in sample_dialogues(9) for text in turns])
    write_jsonl(folder / "predictions.jsonl", rows)
    before = code_blocks(model_card(folder, "user/tiny"))
    bees = [row | {"context": ["persona: I keep bees.", *row["context"]]} for row in rows]
    write_jsonl(folder / "predictions.jsonl", bees)
    text = model_card(folder, "user/tiny")
    assert code_blocks(text) == before
    assert "> persona: I keep bees.<br>\n> **A:**" in text
    widgets = check(text)["widget"]
    assert [widget["text"].count(" __eou__ ") for widget in widgets] == [1, 2, 3]


def test_one_reply_for_all_contexts_is_said(folder):
    rows = read_jsonl(folder / "predictions.jsonl")
    assert "one and the same reply" not in model_card(folder, "user/tiny")
    write_jsonl(folder / "predictions.jsonl", [row | {"reply": "*I* don't know."} for row in rows])
    text = model_card(folder, "user/tiny")
    check(text)
    assert "to every context of the test set**: \\*I\\* don't know.\n" in text


def test_the_samples_are_those_of_the_rule(folder):
    samples = section(model_card(folder, "user/tiny"), "Samples")
    chosen = page.choose_samples(read_jsonl(folder / "predictions.jsonl"))
    drawn, fold = samples.split("<details>")
    for part, rules in ((drawn, chosen[2:]), (fold, chosen[:2])):
        assert part.count("\n| ") == sum(len(rows) for _, rows in rules) + len(rules)
        for _, rows in rules:
            for row in rows:
                assert f"| {markdown(row['reply'])} | {markdown(row['reference'])}" in part


def test_no_text_of_the_data_breaks_the_card(folder):
    shapes = []
    for texts in (["One.", "Two and a half.", "Three!"], HOSTILE):
        write_jsonl(folder / "predictions.jsonl", rows_of(texts))
        text = model_card(folder, "user/tiny")
        found = check(text)
        shapes.append(outline(text))
    assert shapes[0] == shapes[1]  # no tag, title, link or fence more or less
    widget = found["widget"][2]
    assert widget["text"].count(" __eou__ ") == 2 and widget["output"]["text"] in HOSTILE
    assert {tuple(widget["text"].split(" __eou__ "))} <= {
        tuple(HOSTILE[(i + j) % 3] for j in range(3)) for i in range(3)
    }
    assert "{{ 7 \\* 7 }}" in text
    assert json.dumps(widget["text"].split(" __eou__ ")[2], ensure_ascii=False) in text
    change(folder, "config.yaml", run_note="```\n</details>\n````\n---\n", data="a `b` *c* | d")
    assert outline(model_card(folder, "user/tiny")) == shapes[0]
    check(model_card(folder, "user/tiny"))


def test_no_path_of_the_machine_and_no_token_is_told(folder):
    change(
        folder,
        "config.yaml",
        data="/home/person/secret/my dialogues.txt",
        new_model={"model_type": "t5", "d_model": 8, "extra": ["/home/person/x.json"]},
        model_name_or_path="../person/secret/before",
        tokenizer_name_or_path="C:\\person\\secret\\pieces",
        multireference="~/secret/multireftest.json",
        deepspeed="/home/person/secret/zero.json",
        output_dir="/home/person/secret/out",
        data_cache="person-cache",
        logging_dir="person-logs",
        run_name="person",
        hub_token="hf_person",
        hub_model_id="person/tiny",
    )
    change(folder, "environment.json", platform="Linux-person")
    text = model_card(folder, "user/tiny")
    check(text)
    assert "person" not in text.replace("a person", "").replace("persons", "")
    assert "secret" not in text and "/home" not in text
    assert "--data 'path/to/my dialogues.txt' --model_name_or_path path/to/before" in text
    assert "path/to/pieces --multireference path/to/multireftest.json" in text
    assert "deepspeed: zero.json" in text and "my dialogues.txt" in section(
        text, "Data and licence"
    )


@pytest.mark.parametrize(
    "config",
    [{"data": None}, {"data": "some/folder"}, {"dataset_name": "user/dd", "data": None}],
    ids=["no data", "recognised", "hub"],
)
def test_the_licence_of_dailydialog_cannot_be_laxer(folder, config):
    change(folder, "config.yaml", **config)
    corpus = DAILYDIALOG if any(config.values()) else None
    from_hub = dict.fromkeys(config.keys() & {"dataset_name"})
    change(folder, "environment.json", corpus=corpus, from_hub=from_hub)
    text = model_card(folder, "user/tiny")
    found = check(text)
    assert found["license"] == "cc-by-nc-sa-4.0"
    assert found["datasets"] == [config.get("dataset_name", "li2017dailydialog/daily_dialog")]
    assert "commercial use" in text.split("\n## ")[0]
    assert "no commercial use" in section(text, "Data and licence")
    assert "li-etal-2017-dailydialog" in section(text, "Citation")
    assert "trained on DailyDialog" in text
    with pytest.raises(UsageError, match=r"'mit'.*no commercial use.*give cc-by-nc-sa-4.0"):
        model_card(folder, "user/tiny", "MIT")
    change(folder, "config.yaml", license="apache-2.0")
    with pytest.raises(UsageError, match=r"'apache-2\.0'"):
        model_card(folder, "user/tiny")
    assert model_card(folder, "user/tiny", "cc-by-nc-sa-4.0")
    change(folder, "config.yaml", do_train=False)  # its data are another matter
    assert metadata(model_card(folder, "user/tiny"))["license"] == "apache-2.0"
    change(folder, "config.yaml", license=None)
    text = model_card(folder, "user/tiny")
    assert not {"license", "datasets"} & set(check(text))
    assert "No licence is stated" in section(text, "Data and licence")
    assert "cc-by-nc-sa" not in text and "commercial" not in text


def test_the_stricter_licence_of_a_run_it_was_begun_from_binds(folder):
    dialogues = {"name": "DailyDialog", "license": "cc-by-nc-sa-4.0"}
    change(folder, "environment.json", inherited=dialogues)
    change(folder, "config.yaml", license="mit")
    text = model_card(folder, "user/tiny")
    assert check(text)["license"] == "cc-by-nc-sa-4.0"
    assert "Not for [commercial use]" in text.split("\n## ")[0]
    said = section(text, "Data and licence")
    assert (
        "gives the licence as mit" in said and "trained on DailyDialog, licensed cc-by-nc" in said
    )
    assert "li-etal-2017-dailydialog" in section(text, "Citation")
    assert inherited_terms(folder) == dialogues  # and so on, from run to run
    change(folder, "config.yaml", license=None)  # of data that are not known
    assert check(model_card(folder, "user/tiny"))["license"] == "cc-by-nc-sa-4.0"
    change(folder, "config.yaml", do_train=False)
    assert check(model_card(folder, "user/tiny"))["license"] == "cc-by-nc-sa-4.0"
    change(folder, "environment.json", inherited={"name": "talk", "license": "mit"})
    change(folder, "config.yaml", do_train=True, license="cc-by-nc-4.0")
    text = model_card(folder, "user/tiny")
    assert check(text)["license"] == "cc-by-nc-4.0"
    assert "trained on talk, licensed mit; keep to both" in section(text, "Data and licence")
    change(folder, "environment.json", inherited=inherited_terms(STARTER))
    said = section(model_card(folder, "user/tiny"), "Data and licence")
    assert "begun from the model starter, licensed apache-2.0" in said
    assert "samples/starter/README.md, credits the corpora" in said


def test_what_a_run_hands_on_is_the_licence_of_its_data(folder, tmp_path):
    unknown = {"name": tmp_path.name, "license": None, "is_model": True}
    assert inherited_terms(tmp_path) == unknown
    assert inherited_terms(folder) == {"name": "dailydialog", "license": None}
    change(folder, "config.yaml", license="cc-by-4.0")
    assert inherited_terms(folder) == {"name": "dailydialog", "license": "cc-by-4.0"}
    change(folder, "config.yaml", data=None, license=None)
    assert inherited_terms(folder) == {"name": "DailyDialog", "license": "cc-by-nc-sa-4.0"}
    change(folder, "config.yaml", do_train=False)
    assert inherited_terms(folder) == {"name": "tiny", "license": None, "is_model": True}
    (folder / "environment.json").write_text("[]")
    with pytest.raises(UsageError, match=r"environment\.json"):
        inherited_terms(folder)


def test_the_licence_on_the_card_of_the_data_set_is_taken_over(folder):
    change(folder, "config.yaml", data=None, dataset_name="user/talk")
    change(
        folder, "environment.json", from_hub={"dataset_name": None}, dataset_license="cc-by-sa-4.0"
    )
    text = model_card(folder, "user/tiny")
    assert check(text)["license"] == "cc-by-sa-4.0"
    assert "card of these data gives their licence as cc-by-sa" in section(text, "Data and licence")
    assert metadata(model_card(folder, "user/tiny", "mit"))["license"] == "mit"
    change(folder, "environment.json", dataset_license="as you like")
    assert "license" not in check(model_card(folder, "user/tiny"))


def test_a_licence_or_language_that_is_none_is_refused(folder):
    for license in ("my own", "mit!", ""):
        with pytest.raises(UsageError, match=r"license is .*Give other"):
            check_terms(license, "en")
    for language in ("English", "e", "en_US", False):
        with pytest.raises(UsageError, match=r"language is .*ISO 639"):
            check_terms(None, language)
    for license in (*LICENSES, "CC-BY-4.0"):
        check_terms(license, "pt-BR")
    with pytest.raises(UsageError, match="'my own'"):
        model_card(folder, "user/tiny", "my own")
    with pytest.raises(UsageError, match="'English'"):
        model_card(folder, "user/tiny", language="English")
    change(folder, "config.yaml", license="my own")
    with pytest.raises(UsageError, match="'my own'"):
        model_card(folder, "user/tiny")


def test_the_language_that_is_given_comes_first(folder):
    change(folder, "config.yaml", language="de")
    assert check(model_card(folder, "user/tiny", language="fr"))["language"] == "fr"


def test_the_code_loads_the_branch(folder):
    text = model_card(folder, "user/tiny", revision="v1.0")
    check(text)
    loads = [line for _, code in code_blocks(text) for line in code.split("\n") if "user/" in line]
    assert len(loads) == 5 and all('"user/tiny", revision="v1.0"' in line for line in loads)
    assert "revision=" not in model_card(folder, "user/tiny")


def test_samples_of_the_test_set_can_be_left_out(folder):
    said = [text for row in read_jsonl(folder / "predictions.jsonl") for text in row["context"]]
    text = model_card(folder, "user/tiny", samples=False)
    assert "widget" not in check(text) and "## Samples" not in text and len(code_blocks(text)) == 4
    assert not any(markdown(each) in text for each in said)
    assert any(markdown(each) in model_card(folder, "user/tiny") for each in said)


def test_who_speaks_in_anonymous_dialogues_is_not_told(folder):
    chat = {"data": "/home/me/Chat with Anna Schmidt.txt", "respond_as": "Anna Schmidt"}
    change(folder, "config.yaml", **chat)
    assert "Anna Schmidt" in model_card(folder, "user/tiny")
    change(folder, "config.yaml", anonymize=True, **chat)
    assert "Anna" not in model_card(folder, "user/tiny")


def test_the_tokenizer_is_as_large_as_it_became(folder, tokenizer):
    change(folder, "config.yaml", vocab_size=8000)
    assert "pieces" not in section(model_card(folder, "user/tiny"), "Training")
    tokenizer.save_pretrained(folder)
    pieces = f"{len(json.loads((folder / 'tokenizer.json').read_text())['model']['vocab']):,}"
    assert f"sentencepiece, {pieces} pieces" in model_card(folder, "user/tiny")


def test_a_model_worse_than_a_unigram_model_is_said_to_be(folder):
    for unigram, worse in ((90.5, False), (70.5, True)):
        figures = {"perplexity": 81.45, "unigram_perplexity": unigram}
        change(folder, "metrics.json", test=figures)
        text = model_card(folder, "user/tiny")
        check(text)
        results = section(text, "Results")
        assert "of the model is 81.45" in results and f"replies, {unigram:.2f}." in results
        assert ("worse than that" in results) is worse
    (folder / "evaluation.json").unlink()
    assert "worse than that" in section(model_card(folder, "user/tiny"), "Results")


def test_only_paths_are_cut(folder):
    kept = {"optim_args": '{"x": "1/2"}', "note": "either/or", "eval_mode": "a\\b"}
    cut = {"deepspeed": '{"x": "/home/person/x.json"}', "fsdp": "./person/y", "z": "C:/person/z"}
    cut |= {"jit": ["~/person/j", "~person/k"], "data": "person/dialogues"}
    change(folder, "config.yaml", **kept, **cut, project="person", trackio_space_id="person/s")
    text = model_card(folder, "user/tiny")
    check(text)
    settings = yaml.safe_load(re.search(r"^`+yaml\n([\s\S]*?)^```", text, re.MULTILINE)[1])
    assert kept.items() <= settings.items()
    assert settings["deepspeed"] == '{"x": "x.json"}' and settings["jit"] == ["j", "k"]
    assert "person" not in text.replace("a person", "")


def test_it_is_trained_again_from_the_same_commits(folder):
    names = {"dataset_name": "user/talk", "model_name_or_path": "user/base"}
    change(folder, "config.yaml", data=None, new_model=None, model_revision="main", **names)
    change(
        folder, "environment.json", from_hub={"dataset_name": "da7a", "model_name_or_path": "ba5e"}
    )
    training = section(model_card(folder, "user/tiny"), "Training")
    assert "dataset_revision: da7a\n" in training and "model_revision: ba5e\n" in training
    change(folder, "environment.json", from_hub=dict.fromkeys(names))
    training = section(model_card(folder, "user/tiny"), "Training")
    assert "dataset_revision" not in training and "model_revision: main\n" in training


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("metrics.json", "[]"),
        ("environment.json", "3"),
        ("evaluation.json", "[]"),
        ("config.yaml", "a: ["),
        ("config.yaml", "- a"),
        ("predictions.jsonl", '{"context": ["Hi."], "reference": "Oh."}\n'),
        ("predictions.jsonl", "{\n"),
        ("tokenizer.json", "[]"),
    ],
)
def test_a_broken_file_of_the_run_is_named(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(UsageError, match=re.escape(name)):
        model_card(folder, "user/tiny")


def test_the_revision_is_that_of_the_repository_this_code_is_tracked_in(tmp_path, monkeypatch):
    file = tmp_path / "venv" / "run_folder.py"
    file.parent.mkdir()
    shutil.copy(run_files.__file__, file)
    monkeypatch.setattr(run_files, "__file__", str(file))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    assert run_files._git_revision() is None
    subprocess.run([*git, "add", "venv/run_folder.py"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "ours"], check=True)
    assert re.fullmatch("[0-9a-f]{40}", run_files._git_revision())


def test_the_sample_corpus_has_the_licence_of_this_project(folder):
    change(folder, "environment.json", corpus=SAMPLES)
    text = model_card(folder, "user/tiny")
    assert check(text)["license"] == "apache-2.0"
    assert "trained on the sample dialogues of seq2seq-dialog" in text
    assert "DailyDialog" not in text and "commercial" not in text


def test_other_data_have_the_licence_that_is_given_or_none(folder):
    text = model_card(folder, "user/tiny")
    assert "license" not in check(text)
    assert "not known here" in section(text, "Data and licence")
    assert "ask its publisher" in section(text, "Data and licence")
    change(folder, "config.yaml", license="CC-BY-4.0", language="de")
    text = model_card(folder, "user/tiny")
    assert check(text)["license"] == "cc-by-4.0" and metadata(text)["language"] == "de"
    assert "licence as cc-by-4.0" in section(text, "Data and licence")
    assert metadata(model_card(folder, "user/tiny", "mit"))["license"] == "mit"
    change(folder, "config.yaml", data=None, dataset_name="my/talk")
    text = model_card(folder, "user/tiny")  # a folder
    assert "datasets" not in check(text) and "--dataset_name path/to/talk" in text
    change(folder, "config.yaml", dataset_name="user/talk")
    change(folder, "environment.json", from_hub={"dataset_name": None})
    text = model_card(folder, "user/tiny")
    assert check(text)["datasets"] == ["user/talk"]
    assert "(https://huggingface.co/datasets/user/talk)" in text
    assert "--data" not in section(text, "Training") and "dataset\\_name" not in text


def test_a_checkpoint_of_the_hub_is_named_as_base_model(folder):
    name = "google-t5/t5-small"
    change(folder, "config.yaml", new_model=None, model_name_or_path=name)
    assert "base_model" not in check(model_card(folder, "user/tiny"))  # an older folder
    change(folder, "environment.json", from_hub={"model_name_or_path": "df1b051c49625cf5"})
    text = model_card(folder, "user/tiny")
    assert check(text)["base_model"] == name
    assert f"[{name}](https://huggingface.co/{name}) at df1b051c49625cf5" in text
    assert f"{name} fine-tuned on dailydialog" in text and f"model_name_or_path: {name}" in text
    assert "--model_name_or_path" not in text


def test_a_run_that_leaves_little_has_a_card_as_well(folder):
    (folder / "evaluation.json").unlink()
    text = model_card(folder, "user/tiny")
    (result,) = check(text)["model-index"][0]["results"]
    assert {metric["name"]: metric["value"] for metric in result["metrics"]} == {
        "perplexity (all pairs)": 81.45,
        "sacreBLEU (all pairs)": 0.31,
    }
    assert "81.45" in section(text, "Results")
    for name in ("predictions.jsonl", "environment.json", "trainer_state.json"):
        (folder / name).unlink()
    write_json(folder / "metrics.json", {"parameters": 5, "data": {}})
    text = model_card(folder, "user/tiny")
    assert not {"widget", "model-index", "metrics"} & set(check(text))
    assert "not evaluated" in section(text, "Results") and "## Samples" not in text
    assert "curves.png" not in text and len(code_blocks(text)) == 4
    write_json(folder / "metrics.json", {"test": {}, "parameters": 2_500_000})
    text = model_card(folder, "user/tiny")
    assert "model-index" not in check(text) and "2.5 million parameters" in text


def test_curves_collapse_and_spaced_data_are_told(folder):
    assert "curves.png" not in model_card(folder, "user/tiny")
    (folder / "curves.png").write_bytes(b"")
    game = {"reward": "prefixes", "teacher_forcing_weight": 1.0, "discriminator_warmup_steps": 9}
    game |= {"adversarial": True, "new_model": None, "model_name_or_path": "runs/before"}
    change(folder, "config.yaml", data=None, detokenize=False, **game)
    change(folder, "metrics.json", train={"steps": 9, "collapse": "Distinct-2 fell to *3*."})
    text = model_card(folder, "user/tiny")
    check(text)
    training = section(text, "Training")
    assert "](curves.png)" in training
    assert "collapsed and was stopped" in training and "fell to \\*3\\*." in training
    assert "before trained adversarially on DailyDialog" in text and "runs/before" not in text
    assert "words and marks apart" in section(text, "Use")


@pytest.mark.parametrize(
    ("decoding", "told"),
    [
        ({"guidance_weight": 0.5}, "replies are guided towards their context by the pipeline"),
        ({"candidates": 4, "guidance_weight": 0.5}, "replies are chosen among candidates by the"),
        ({"candidates": 1, "guidance_weight": 0.0}, None),
    ],
    ids=str,
)
def test_who_decodes_as_the_model_is_saved_is_told(folder, decoding, told):
    change(folder, "config.yaml", **decoding)
    use = section(model_card(folder, "user/tiny"), "Use")
    assert (told in use) if told else ("reply otherwise" not in use)


def test_what_was_only_evaluated_is_not_said_to_be_trained(folder):
    change(folder, "config.yaml", do_train=False)
    text = model_card(folder, "user/tiny")
    check(text)
    assert "evaluated on dailydialog" in text and "training pairs" not in text.split("\n## ")[0]
    assert "did not train the model" in section(text, "Data and licence")


def test_a_folder_that_is_no_finished_run_is_refused(tmp_path, folder):
    with pytest.raises(UsageError, match="no finished run"):
        model_card(tmp_path, "user/tiny")
    (folder / "config.yaml").unlink()
    with pytest.raises(UsageError, match=r"config\.yaml"):
        model_card(folder, "user/tiny")


@pytest.fixture
def published(folder, model, make_rnn, tokenizer, tmp_path):
    """`published(recurrent)`: a folder `user/tiny` as a run leaves it, and its card's folder."""

    def make(recurrent):
        made = make_rnn(attention="multiplicative") if recurrent else model
        if not recurrent:
            for parameter in made.parameters():
                parameter.data.normal_(0, 0.5)  # replies depend on the context
        made.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        artifact.finish(folder)
        write_jsonl(folder / "predictions.jsonl", rows_of(SAID))
        (tmp_path / "user").mkdir()
        folder.rename(tmp_path / "user" / "tiny")
        return tmp_path / "user" / "tiny"

    return make


def run_blocks(python, codes, home):
    """What each block prints, run as printed in a process that knows nothing of this project.

    The folder `user/tiny` stands where it is started, so that the name of the card is found.
    """
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    options = {"python": python, "modules": warm.TRANSFORMERS, "cwd": home, "env": env}
    done = warm.run("-c", RUNNER, input=json.dumps(codes), **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.load(io.StringIO(done.stdout.split("RESULT")[1]))


def check_blocks(python, line, folder):
    """Every block for `line` runs and prints the replies that the model gives here."""
    text = model_card(folder, "user/tiny")
    check(text)
    codes = [code for each, code in code_blocks(text) if each in (line, "both")]
    assert len(codes) == 3
    model, tokenizer, _ = load(folder, "cpu", trust_remote_code=True)
    widgets = metadata(text)["widget"]
    opening, turns = (widgets[i]["text"].split(" __eou__ ") for i in (0, 2))
    replies = [generate_response(turns, model, tokenizer) for turns in (opening, turns)]
    assert len(set(replies)) == 2
    first, several, alone, taskless = run_blocks(python, [*codes, TASKLESS], folder.parents[1])
    assert first == alone == [replies[0]]
    assert several[0] == replies[1] and len(several) == 4
    assert "Name the task." in text
    if line == "5":
        assert "multiple tasks" in taskless[0]


@pytest.mark.parametrize("recurrent", [False, True], ids=["t5", "rnn"])
def test_the_code_works_as_printed(published, recurrent):
    check_blocks(sys.executable, "5", published(recurrent))


@pytest.mark.legacy
@pytest.mark.parametrize("recurrent", [False, True], ids=["t5", "rnn"])
def test_the_code_works_as_printed_on_the_older_line(published, legacy_python, recurrent):
    check_blocks(legacy_python, "4.57", published(recurrent))


def test_the_card_says_which_code_is_trusted(published):
    folder = published(True)
    text = model_card(folder, "user/tiny")
    *others, last = sorted([*artifact.PIPELINE_CODE, "modeling_rnn.py"])
    files = f"{', '.join(f'`{name}`' for name in others)} and `{last}`"
    assert files in section(text, "Use")
    (folder / "guidance.py").unlink()  # of a run from before there was this file: it goes up, too
    assert files in section(model_card(folder, "user/tiny"), "Use")
    assert {line for line, _ in code_blocks(text)} == {"both"}


def test_several_sources_are_named_and_their_paths_kept_private(folder):
    data = [{"path": "/home/me/one.txt.gz", "weight": 2.0}, {"path": "$MINE/two.txt", "name": "b"}]
    change(folder, "config.yaml", data=data)
    change(folder, "environment.json", corpus=None)
    text = model_card(folder, "user/tiny")
    check(text)
    assert "trained on one.txt.gz, b" in text
    assert "/home/me" not in text and "$MINE" not in text
    settings = yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1])
    assert settings["data"] == [data[0] | {"path": "one.txt.gz"}, data[1] | {"path": "two.txt"}]
    assert "--data" not in text
