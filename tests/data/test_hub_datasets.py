"""Data sets on the Hub to rows: the forms they may have, splits, the cache, what goes wrong."""

from pathlib import Path

import datasets
import pytest
from datasets import Dataset, DatasetDict
from helpers.corpus import sample_dialogues
from helpers.runs import finish, start
from seq2seq_dialog.dataset_script.dialogues import split_of

from seq2seq_dialog.data import splits
from seq2seq_dialog.data.overlap import audit
from seq2seq_dialog.data.rows import load_rows, utterances
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.train_arguments import parse

SPLITS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def messages(turns: list[str]) -> list[dict]:
    """A dialogue as chat messages."""
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(turns)]


FORMS = {
    "dialog": lambda dialogues: {"id": [*range(len(dialogues))], "dialog": dialogues},
    "messages": lambda dialogues: {"messages": [messages(turns) for turns in dialogues]},
    "rows": lambda dialogues: {
        "response": [turns[t] for turns in dialogues for t in range(1, len(turns))],
        "context": [turns[:t] for turns in dialogues for t in range(1, len(turns))],
    },
    "windows": lambda dialogues: {
        "context": [turns[max(0, t - 3) : t] for turns in dialogues for t in range(1, len(turns))],
        "response": [turns[t] for turns in dialogues for t in range(1, len(turns))],
    },
    "named rows": lambda dialogues: {
        "dialogue_id": [d for d, turns in enumerate(dialogues) for _ in turns[1:]],
        "context": [turns[:t] for turns in dialogues for t in range(1, len(turns))],
        "response": [turns[t] for turns in dialogues for t in range(1, len(turns))],
    },
}


def stored(folder: Path, **splits) -> str:
    """A folder of Parquet files, a split each."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, columns in splits.items():
        rows = columns if isinstance(columns, Dataset) else Dataset.from_dict(columns)
        rows.to_parquet(folder / f"{split}.parquet")
    return str(folder)


def load(name: str, **options) -> tuple[DatasetDict, dict]:
    return load_rows(DataArguments(dataset_name=name, **{"respond_as": "everybody"} | options))


def text_file(path: Path, dialogues: list[list[str]]) -> str:
    lines = (" ".join(f"{text} __eou__" for text in turns) + "\n" for turns in dialogues)
    path.write_text("".join(lines), encoding="utf-8")
    return str(path)


def said(rows: Dataset) -> list[tuple]:
    return [(row["turn"], row["context"], row["response"]) for row in rows]


@pytest.mark.parametrize("form", ["dialog", "messages", "rows", "named rows"])
def test_every_form_gives_the_rows_that_the_text_gives(form, tmp_path):
    dialogues = sample_dialogues(120)
    expected, _ = load_rows(DataArguments(data=text_file(tmp_path / "talk.txt", dialogues)))
    rows, problems = load(stored(tmp_path / "data", train=FORMS[form](dialogues)))
    assert list(rows) == list(expected) == [*SPLITS]
    for split, part in expected.items():
        assert said(rows[split]) == said(part)
        assert rows[split].features == part.features
        assert len(set(rows[split]["dialogue_id"])) == len(set(part["dialogue_id"]))
    total = {"dialogues": 120, "utterances": sum(map(len, dialogues))}
    total["pairs"] = total["utterances"] - 120
    assert problems["train"] == total


def test_rows_with_a_window_of_context_belong_to_one_dialogue(tmp_path):
    dialogues = sample_dialogues(120)
    rows, problems = load(stored(tmp_path / "data", train=FORMS["windows"](dialogues)))
    assert problems["train"]["dialogues"] == 120
    ids = [set(part["dialogue_id"]) for part in rows.values()]
    assert sum(map(len, ids)) == len(set.union(*ids)) == 120
    assert max(len(row["context"]) for row in rows["train"]) == 3
    by_split = {split: list(utterances(part)) for split, part in rows.items()}
    for split in SPLITS:
        assert by_split[split] == [
            text for turns in dialogues if split_of(turns) == split for text in turns
        ]
    audit(rows)


def test_a_context_that_goes_on_from_nothing_begins_a_dialogue(tmp_path):
    columns = {
        "context": [["a", "b"], ["a", "b", "c"], ["x"], ["z", "y"]],
        "response": ["c", "d", "y", "v"],
    }
    rows, problems = load(stored(tmp_path, train=columns, test=columns))
    assert said(rows["train"]) == [
        (1, ["a", "b"], "c"),
        (2, ["a", "b", "c"], "d"),
        (1, ["x"], "y"),
        (1, ["z", "y"], "v"),
    ]
    assert list(utterances(rows["train"])) == [*"abcd", *"xy", *"zyv"]
    assert problems["train"]["dialogues"] == 3


def test_text_is_cleaned_as_the_script_cleans_it(tmp_path):
    spaced = ["How are\ttofu \x7fprices ?", "  Don ’ t\nask ! ", "OK . __eou__"]
    clean = {True: ["How are tofu prices?", "Don't ask!", "OK."]}
    clean[False] = ["How are tofu prices ?", "Don ’ t ask !", "OK ."]
    for form in ("dialog", "messages", "rows"):
        name = stored(tmp_path / form, train=FORMS[form]([spaced]), test=FORMS[form]([spaced]))
        for detokenize, turns in clean.items():
            rows, problems = load(name, detokenize=detokenize)
            assert said(rows["train"]) == [(1, turns[:1], turns[1]), (2, turns[:2], turns[2])]
        assert problems["test"]["control_character"]["count"] == (2 if form == "rows" else 1)
        assert problems["test"]["eou_inside"]["count"] == 1


def test_empty_utterances_are_dropped_and_counted(tmp_path):
    dialogues = [["Hi.", " ", "Hello.", None], ["Alone."], [], ["One.", "Two."]]
    rows, problems = load(
        stored(tmp_path / "a", train={"turns": dialogues}, test={"turns": dialogues})
    )
    assert said(rows["train"]) == [(1, ["Hi."], "Hello."), (1, ["One."], "Two.")]
    assert problems["test"] == {
        "dialogues": 4,
        "utterances": 5,
        "pairs": 2,
        "empty_utterance": {"count": 2, "first_lines": [1, 1]},
        "under_two_utterances": {"count": 2, "first_lines": [2, 3]},
    }
    columns = {
        "context": [["a"], ["a", "b"], ["a", "b", ""], [], None],
        "response": ["b", " ", "d", "e", "f"],
    }
    rows, problems = load(stored(tmp_path / "b", train=columns, test=columns))
    assert said(rows["train"]) == [(1, ["a"], "b"), (2, ["a", "b"], "d")]
    assert problems["train"] == {
        "dialogues": 1,
        "utterances": 3,
        "pairs": 2,
        "empty_response": {"count": 1, "first_lines": [2]},
        "empty_utterance": {"count": 1, "first_lines": [3]},
        "empty_context": {"count": 2, "first_lines": [4, 5]},
    }


@pytest.mark.parametrize("name", ["dev", "valid", "val"])
def test_validation_is_known_by_its_other_names(name, tmp_path):
    parts = {"train": {"dialog": [["a", "b"]]}, "test": {"dialog": [["c", "d"]]}}
    parts |= {name: {"dialog": [["e", "f"]]}, "extra": {"dialog": [["g", "h"]]}}
    files = [{"split": split, "path": f"{split}.parquet"} for split in parts]
    folder = stored(tmp_path / "data", **parts)
    lines = "".join(f"  - split: {f['split']}\n    path: {f['path']}\n" for f in files)
    Path(folder, "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{lines}---\n"
    )
    rows, problems = load(folder)
    assert {split: part["response"][:] for split, part in rows.items()} == {
        "train": ["b"],
        "validation": ["f"],
        "test": ["d"],
    }
    assert list(problems) == list(rows) == [*SPLITS]


def test_a_split_beside_train_is_kept_and_none_is_made(tmp_path):
    parts = {split: {"dialog": sample_dialogues(20)} for split in ("train", "test")}
    rows, _ = load(stored(tmp_path, **parts))
    assert list(rows) == ["train", "test"] and len(rows["train"]) == len(rows["test"])


def test_labels_of_the_known_kind_are_kept(tmp_path):
    act = datasets.ClassLabel(names=["inform", "question", "directive", "commissive"])
    columns = {"context": [["a"], ["a", "b"]], "response": ["b", "c"], "act": [3, None]}
    columns |= {"emotion": ["glad", "sad"], "other": [1.5, 2.5]}
    features = datasets.Dataset.from_dict(columns).features | {"act": act}
    rows = Dataset.from_dict(columns, features=datasets.Features(features))
    rows, _ = load(stored(tmp_path, train=rows, test=rows))
    assert rows["train"]["act"][:] == [3, None]
    assert rows["train"]["emotion"][:] == [None, None]
    assert rows["train"].features == splits.FEATURES


def test_the_same_data_is_prepared_once_and_known_in_another_process(tmp_path):
    name, cache = stored(tmp_path / "data", train={"dialog": sample_dialogues(30)}), tmp_path / "c"
    first, _ = load(name, data_cache=str(cache))
    code = (
        "import sys\n"
        "from seq2seq_dialog.data.rows import load_rows\n"
        "from seq2seq_dialog.settings import DataArguments\n"
        "args = DataArguments(\n"
        "    dataset_name=sys.argv[1], data_cache=sys.argv[2], respond_as='everybody'\n"
        ")\n"
        "rows, _ = load_rows(args)\n"
        "print(rows['train']._fingerprint, rows['train'].cache_files[0]['filename'])\n"
    )
    done = finish([start("-c", code, name, cache)])
    assert "Generating" not in done.stderr, done.stderr
    fingerprint = first["train"]._fingerprint
    assert done.stdout.split() == [fingerprint, first["train"].cache_files[0]["filename"]]
    assert first["test"]._fingerprint != fingerprint
    spaced, _ = load(name, data_cache=str(cache), detokenize=False)
    assert spaced["train"]._fingerprint != fingerprint
    stored(tmp_path / "data", train={"dialog": sample_dialogues(31)})
    changed, _ = load(name, data_cache=str(cache))
    assert changed["train"]._fingerprint != fingerprint


def test_a_change_of_this_code_prepares_anew(tmp_path, monkeypatch):
    name = stored(tmp_path / "data", train={"dialog": sample_dialogues(30)})
    before, _ = load(name)
    monkeypatch.setattr(splits, "CODE", b"other code")
    assert load(name)[0]["train"]._fingerprint != before["train"]._fingerprint


def test_limits_take_the_first_rows(tmp_path):
    name = stored(tmp_path / "data", train={"dialog": sample_dialogues(120)})
    rows, _ = load(name, max_train_samples=5, max_eval_samples=2)
    assert {split: len(part) for split, part in rows.items()} == {
        "train": 5,
        "validation": 2,
        "test": 2,
    }


def test_columns_that_are_not_understood_are_named_with_those_that_are(tmp_path):
    for columns in (
        {"left": ["a"], "right": ["b"]},
        {"text": ["a"]},
        {"dialog": ["a"]},
    ):
        name = stored(tmp_path / "-".join(columns), train=columns)
        with pytest.raises(UsageError) as error:
            load(name)
        message = str(error.value)
        assert all(f"{column} (" in message for column in columns)
        assert "pairs (context and response)" in message and "columns: {text: body" in message


def test_rows_of_a_dialogue_that_are_apart_are_refused(tmp_path):
    columns = {"dialogue_id": ["a", "b", "a"], "context": [["x"], ["y"], ["x", "z"]]}
    name = stored(tmp_path / "data", train=columns | {"response": ["z", "v", "w"]})
    with pytest.raises(UsageError, match=r"dialogue_id 'a' do not follow one another.*Sort"):
        load(name)


def test_wrong_sources_are_one_message(tmp_path):
    with pytest.raises(UsageError, match=r"data is 'a.txt' and dataset_name 'ann/talks'.*one of"):
        parse(["demo", "--data", "a.txt", "--dataset_name", "ann/talks"])
    with pytest.raises(UsageError, match=r"talk.txt' is a file.*Give dialogue text as data"):
        load(text_file(tmp_path / "talk.txt", [["a", "b"]]))
    name = stored(tmp_path / "a", test={"dialog": [["a", "b"]]})
    with pytest.raises(UsageError, match=r"has the splits test, but one must be called train"):
        load(name)
    with pytest.raises(UsageError, match=r"no training pair; at least one dialogue of two turns"):
        load(stored(tmp_path / "b", train={"dialog": [["a"]]}, test={"dialog": [["a", "b"]]}))
    (tmp_path / "c").mkdir()
    with pytest.raises(
        UsageError, match=r"doesn't contain any data files\. Give user/name, or a folder"
    ):
        load(str(tmp_path / "c"))
    with pytest.raises(UsageError, match=r"There is no folder '.*a/b/c'. Give one that is there"):
        load("a/b/c")


# ----------------------------------------------------------------------------------- the Hub


@pytest.fixture
def talks(hub, tmp_path):
    """A data set of ann on the test Hub: `talks(dialogues)` commits some and gives the commit."""
    repo = hub.add_repo("ann/talks", repo_type="dataset")

    def commit(dialogues, card=True):
        stored(tmp_path / "upload", train={"dialog": dialogues})
        files = {"data/train.parquet": (tmp_path / "upload" / "train.parquet").read_bytes()}
        if card:
            files["README.md"] = b"---\nlanguage: en\n---\n"
        there = hub.add_repo("x/y", files, "dataset")
        repo.objects |= there.objects
        return repo.commit("main", there.at("main").files, "files").oid

    commit.repo = repo
    return commit


def test_a_data_set_is_fetched_from_the_hub(talks):
    talks(sample_dialogues(30))
    rows, _ = load("ann/talks")
    assert sum(map(len, rows.values())) == sum(len(turns) - 1 for turns in sample_dialogues(30))


def test_a_data_set_without_a_card_is_fetched_too(talks):
    talks(sample_dialogues(30), card=False)
    assert list(load("ann/talks")[0]) == [*SPLITS]


def test_a_revision_is_that_one(talks):
    first = talks(sample_dialogues(30))
    talks(sample_dialogues(40))
    talks.repo.tags["v1"] = first
    sizes = {
        revision: sum(map(len, load("ann/talks", dataset_revision=revision)[0].values()))
        for revision in (None, "main", "v1", first)
    }
    assert sizes[None] == sizes["main"] > sizes["v1"] == sizes[first]
    # Also where other revisions lie in the cache.
    with pytest.raises(UsageError, match=r"it has no revision 'v2'\. Give a branch, a tag"):
        load("ann/talks", dataset_revision="v2")


def test_without_network_what_was_fetched_is_used_again(hub, talks, monkeypatch):
    talks(sample_dialogues(30))
    before, _ = load("ann/talks")
    hub.down = True
    after, _ = load("ann/talks")
    assert after["train"]._fingerprint == before["train"]._fingerprint
    with pytest.raises(UsageError, match="no connection to the Hub"):
        load("ann/talks", dataset_revision="v1")
    with pytest.raises(UsageError, match="no connection to the Hub"):
        load("ann/other")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    after, _ = load("ann/talks")
    assert after["train"]._fingerprint == before["train"]._fingerprint


def test_without_network_another_revision_is_not_taken_for_it(hub, talks):
    talks.repo.tags["v1"] = talks(sample_dialogues(30))
    load("ann/talks", dataset_revision="v1")
    talks(sample_dialogues(40))
    load("ann/talks")
    hub.down = True
    with pytest.raises(UsageError, match=r"fetched last is not its revision 'v1'"):
        load("ann/talks", dataset_revision="v1")


def test_what_the_hub_refuses_is_one_message(hub, talks, monkeypatch):
    talks(sample_dialogues(3))
    with pytest.raises(UsageError, match=r"no ann/other on the Hub.*user/name.*hf auth login"):
        load("ann/other")
    talks.repo.private = True
    with pytest.raises(UsageError, match=r"no ann/talks on the Hub, or it is private"):
        load("ann/talks")
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    load("ann/talks")
    talks.repo.private = False
    hub.fail(
        status=403, times=9, on="(HEAD|GET) .*/resolve/", headers={"X-Error-Code": "GatedRepo"}
    )
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", "/nonexistent")
    with pytest.raises(UsageError, match=r"it is gated\. Ask for access"):
        load("ann/talks")


def test_a_data_set_made_by_code_is_not_run(talks):
    talks(sample_dialogues(3))
    head = talks.repo.at("main")
    script = next(file for path, file in head.files.items() if path == "README.md")
    talks.repo.commit("main", head.files | {"talks.py": script}, "script")
    with pytest.raises(UsageError, match=r"made by code, which is not run.*refs/convert/parquet"):
        load("ann/talks")


def test_several_configurations_are_refused(tmp_path):
    folder = stored(tmp_path / "data", one={"dialog": [["a", "b"]]}, two={"dialog": [["c", "d"]]})
    Path(folder, "README.md").write_text(
        "---\nconfigs:\n- config_name: one\n  data_files: one.parquet\n"
        "- config_name: two\n  data_files: two.parquet\n---\n"
    )
    with pytest.raises(UsageError, match=r"several configurations.*\['one', 'two'\]"):
        load(folder)
