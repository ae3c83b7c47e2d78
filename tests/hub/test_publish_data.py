"""Dialogues on the Hub: equal rows on both lines of datasets, nothing sent twice, a true card."""

import io
import json
import re
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from helpers import warm
from helpers.corpus import ROOT, SAMPLES
from helpers.hub_cards import check_card, read_metadata
from helpers.hub_server import File

from seq2seq_dialog.data.overlap import audit
from seq2seq_dialog.data.rows import load_rows
from seq2seq_dialog.data.streaming import Stream
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.hub import publish_data as publishing
from seq2seq_dialog.hub.publish_data import dataset_files, publish_data
from seq2seq_dialog.hub.push import Publication
from seq2seq_dialog.settings import DataArguments
from seq2seq_dialog.train_arguments import parse

REPO = "ann/talks"


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


@pytest.fixture
def talks(tmp_path) -> Path:
    """Dialogues of the sample corpus in official splits, with labels, copies and an odd line."""
    lines = SAMPLES.read_text(encoding="utf-8").splitlines()
    parts = {"train": [*lines[:60], "Hm ? __eou__  __eou__ Eh . __eou__"]}
    parts |= {"validation": lines[60:70], "test": [*lines[:3], *lines[70:80]]}
    for split, part in parts.items():
        folder = tmp_path / "secret place" / split
        folder.mkdir(parents=True)
        (folder / f"dialogues_{split}.txt").write_text("\n".join(part) + "\n", encoding="utf-8")
        acts = [" ".join("1234"[i % 4] for i in range(line.count("__eou__"))) for line in part]
        (folder / f"dialogues_act_{split}.txt").write_text("\n".join(acts) + "\n")
    return tmp_path / "secret place"


@pytest.fixture
def account(hub, monkeypatch):
    """The test Hub, logged in."""
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    return hub


def sent(account) -> list[str]:
    """What was uploaded, by request."""
    return [path for method, path, _ in account.requests if method == "PUT" or "/commit/" in path]


def files_of(source, folder: Path, **options) -> dict:
    folder.mkdir(exist_ok=True)
    return dataset_files(Publication(source, REPO, **options), folder)


def card_of(source, folder: Path, **options) -> str:
    return files_of(source, folder, **options)["README.md"].decode()


def numbered(rows) -> dict[str, list[dict]]:
    """The rows of each split as they are published: no name tells the file."""
    published = {}
    for split, part in rows.items():
        numbers, published[split] = {}, []
        for row in part:
            number = numbers.setdefault(row["dialogue_id"], len(numbers) + 1)
            published[split].append(row | {"dialogue_id": f"{split}:{number}"})
    return published


def published_rows(data, **options) -> dict[str, list[dict]]:
    return numbered(load_rows(DataArguments(data=str(data), **options))[0])


def test_what_is_published_loads_as_it_was(account, talks):
    publish_data(talks, REPO)
    rows, _ = load_rows(DataArguments(data=str(talks)))
    loaded = load_dataset(REPO)
    assert list(loaded) == list(rows) == ["train", "validation", "test"]
    for split, part in rows.items():
        assert loaded[split].features == part.features
        assert loaded[split].to_list() == numbered(rows)[split]
    assert {row["act"] for row in loaded["train"]} == {0, 1, 2, 3}


@pytest.mark.legacy
def test_it_loads_as_it_was_on_the_older_line(account, talks, legacy_python, tmp_path):
    publish_data(talks, REPO)
    code = (
        "import sys, datasets\n"
        "from datasets import load_dataset\n"
        "published = load_dataset(sys.argv[1])\n"
        "made = load_dataset(sys.argv[2], data_dir=sys.argv[3], trust_remote_code=True)\n"
        "assert list(published) == list(made) == ['train', 'validation', 'test']\n"
        "for split in made:\n"
        "    assert published[split].features == made[split].features, published[split].features\n"
        "    texts = [part[split].remove_columns('dialogue_id') for part in (published, made)]\n"
        "    assert texts[0].to_list() == texts[1].to_list()\n"
        "test = 'hf://datasets/' + sys.argv[1] + '/data/test-*.parquet'\n"
        "alone = load_dataset('parquet', data_files=test)['train']\n"
        "assert alone.features == made['test'].features, alone.features\n"
        "print(datasets.__version__, len(published['train']))\n"
    )
    script = ROOT / "dataset_script" / "dialogues.py"
    env = account.env(tmp_path / "older home", "hf_ann")
    done = warm.run("-c", code, REPO, script, talks, python=legacy_python, env=env)
    assert done.returncode == 0, done.stderr
    rows, _ = load_rows(DataArguments(data=str(talks)))
    assert done.stdout.split() == ["3.6.0", str(len(rows["train"]))]


def test_a_run_from_the_hub_has_the_rows_of_the_file(account, talks):
    publish_data(talks, REPO)
    rows, _ = load_rows(DataArguments(data=str(talks)))
    again, problems = load_rows(DataArguments(dataset_name=REPO))
    assert list(again) == list(rows)
    for split, part in rows.items():
        assert again[split].features == part.features
        assert again[split].to_list() == numbered(rows)[split]
    assert problems["train"]["pairs"] == len(rows["train"])


def test_a_stream_from_the_hub_has_the_rows_of_the_file(account, talks, tmp_path):
    publish_data(talks, REPO)
    rows = published_rows(talks)
    stream = Stream(DataArguments(dataset_name=REPO, data_cache=str(tmp_path / "cache")))
    assert list(stream.train()) == list(stream.train()) == rows["train"]
    assert {k: v.to_list() for k, v in stream.rows.items()} == rows


def test_the_rows_of_dailydialog_come_back(shared_data, tmp_path):
    source = shared_data / "dailydialog"
    for split in ("train", "validation", "test"):
        (tmp_path / "data" / split).mkdir(parents=True)
        for kind in ("", "act_", "emotion_"):
            name = f"{split}/dialogues_{kind}{split}.txt"
            lines = (source / name).read_text(encoding="utf-8").splitlines(keepends=True)
            (tmp_path / "data" / name).write_text("".join(lines[:150]), encoding="utf-8")
    for detokenize in (True, False):
        files = files_of(tmp_path / "data", tmp_path / f"p{detokenize}", detokenize=detokenize)
        for name, file in files.items():
            path = tmp_path / f"hub{detokenize}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file if isinstance(file, bytes) else file.read_bytes())
    # What was published with its tokens apart can be joined later, as of the file.
    for detokenize, published in ((True, True), (False, False), (True, False)):
        name = str(tmp_path / f"hub{published}")
        again, _ = load_rows(DataArguments(dataset_name=name, detokenize=detokenize))
        for split, part in published_rows(tmp_path / "data", detokenize=detokenize).items():
            assert again[split].to_list() == part


def test_publishing_the_same_again_sends_nothing(account, talks):
    publish_data(talks, REPO)
    commits = len(account.commits(REPO, "dataset"))
    account.requests.clear()
    text = talks / "test" / "dialogues_test.txt"
    text.write_bytes(text.read_bytes())  # newer than the prepared rows, which are made again
    publish_data(talks, REPO)
    assert sent(account) == []
    assert len(account.commits(REPO, "dataset")) == commits


def test_large_splits_are_in_shards_and_stale_ones_go(account, talks, monkeypatch, tmp_path):
    with monkeypatch.context() as smaller:
        for name, value in (("READ_ROWS", 10), ("GROUP_ROWS", 50), ("SHARD_BYTES", 40_000)):
            smaller.setattr(publishing, name, value)
        publish_data(talks, REPO)
    there = [name for name in account.files(REPO, "dataset") if "train" in name]
    count = len(there)
    assert count > 2
    assert there == [f"data/train-{i:05}-of-{count:05}.parquet" for i in range(count)]
    rows = published_rows(talks)
    assert load_dataset(REPO)["train"].to_list() == rows["train"]
    repo = account.repos["dataset", REPO]
    older = "data/train-00000-of-00001-abcdef0123456789.parquet"  # as push_to_hub named them once
    more = {"notes.md": File(b"mine"), older: File(b"stale")}
    repo.commit("main", repo.at("main").files | more, "notes")
    publish_data(talks, REPO)
    left = {*account.files(REPO, "dataset")} - {".gitattributes"}
    shards = {f"data/{split}-00000-of-00001.parquet" for split in rows}
    assert left == {"README.md", "notes.md", *shards}
    assert load_dataset(REPO)["train"].to_list() == rows["train"]
    more = {"data/train-more.parquet": File(b"no rows of ours")}
    repo.commit("main", repo.at("main").files | more, "more")
    assert load_dataset(REPO)["train"].to_list() == rows["train"]


def test_a_data_set_of_something_else_is_not_overwritten(account, talks):
    account.add_repo("ann/books", {"pages.csv": b"a,b", "README.md": b"mine"}, "dataset")
    with pytest.raises(UsageError, match=r"ann/books holds something else \(.*pages.csv"):
        publish_data(talks, "ann/books")
    assert account.files("ann/books", "dataset")["README.md"] == b"mine"


def test_a_private_repository_is_made_on_request(account, talks):
    publish_data(talks, REPO, private=True)
    assert account.repos["dataset", REPO].private
    publish_data(talks, "ann/open")
    assert not account.repos["dataset", "ann/open"].private


def test_a_folder_without_room_is_one_message(talks, tmp_path):
    with pytest.raises(UsageError, match=r"Cannot write.*/gone'.*TMPDIR"):
        dataset_files(Publication(talks, REPO), tmp_path / "gone")


def test_row_groups_are_small_and_have_a_page_index(talks, tmp_path, monkeypatch):
    monkeypatch.setattr(publishing, "READ_ROWS", 10)
    monkeypatch.setattr(publishing, "GROUP_ROWS", 50)
    for limit, value in ((None, None), ("GROUP_BYTES", 5_000)):
        if limit:
            monkeypatch.setattr(publishing, limit, value)
        files = files_of(talks, tmp_path / f"parts{limit}")
        found = pq.ParquetFile(files["data/train-00000-of-00001.parquet"]).metadata
        groups = [found.row_group(i) for i in range(found.num_row_groups)]
        assert len(groups) > 2
        assert all(group.column(0).has_offset_index for group in groups)
        rows = [group.num_rows for group in groups[:-1]]
        assert max(rows) < 50 if limit else set(rows) == {50}


def test_a_dry_run_lists_and_sends_nothing(account, talks, capsys):
    publish_data(talks, REPO, dry_run=True)
    out = capsys.readouterr().out
    assert account.requests == []
    listed = re.findall(r"^ *([\d,]+)  (\S+)$", out, re.MULTILINE)
    assert [name for _, name in listed] == [
        "README.md",
        *(f"data/{split}-00000-of-00001.parquet" for split in ("test", "train", "validation")),
    ]
    assert all(int(size.replace(",", "")) > 1000 for size, _ in listed)


def test_what_is_printed_at_the_end_works(account, talks, capsys):
    publish_data(talks, REPO, revision="v1")
    out = capsys.readouterr().out
    assert f"{account.url}/datasets/{REPO}/tree/v1" in out
    line = re.search(r"load_dataset\(.+\)", out)[0]
    assert set(eval(line, {"load_dataset": load_dataset})) == {"train", "validation", "test"}
    data = parse(re.search(r"-m seq2seq_dialog train (.+)", out)[1].split()).data
    assert (data.dataset_name, data.dataset_revision) == (REPO, "v1")
    assert "data/train-00000-of-00001.parquet" not in account.files(REPO, "dataset")
    text = account.repos["dataset", REPO].at("v1").files["README.md"].data.decode()
    assert f'load_dataset("{REPO}", revision="v1")' in text
    assert f"--dataset_name {REPO} --dataset_revision v1\n" in text


def test_the_card_is_valid_and_its_code_runs(account, talks, monkeypatch):
    publish_data(talks, REPO, license="cc-by-4.0")
    text = account.files(REPO, "dataset")["README.md"].decode()
    assert check_card(text, "dataset") == ([], [])
    printed = io.StringIO()
    monkeypatch.setattr("sys.stdout", printed)
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(block, {})
    assert "'context': [" in printed.getvalue()
    (command,) = re.findall(r"run_seq2seq_dialog.py (.+)", text)
    data = parse([str(ROOT / command.split()[0]), *command.split()[1:]]).data
    assert data.dataset_name == REPO


def test_the_card_counts_what_is_there(talks, tmp_path):
    text = card_of(talks, tmp_path / "parts")
    rows, _ = load_rows(DataArguments(data=str(talks)))
    found = audit(rows)["splits"]
    for split, counts in found.items():
        assert f"| {split} | {counts['dialogues']} | {counts['pairs']} |" in text
    test = found["test"]
    seen = test["pairs_in_train"]["one_turn"]
    assert seen >= 3 and f"{seen} ({100 * seen / test['pairs']:.1f} %)" in text
    assert f"{test['clean_pairs']} |" in text
    assert "- empty utterance, dropped: 1 line\n" in text
    assert "The splits are those of the source." in text
    assert "| `act` | class | of the response: 0 inform, " in text
    assert "| `emotion` | class | null: the source has none |" in text
    metadata, _ = read_metadata(text)
    infos = {split["name"]: split for split in metadata["dataset_info"]["splits"]}
    assert {name: info["num_examples"] for name, info in infos.items()} == {
        name: len(part) for name, part in rows.items()
    }
    assert metadata["size_categories"] == ["n<1K"]


def test_nothing_tells_where_the_data_lie(talks, tmp_path):
    for name, file in files_of(talks, tmp_path / "parts").items():
        content = file if isinstance(file, bytes) else file.read_bytes()
        assert b"secret place" not in content, name
        assert str(tmp_path).encode() not in content, name
        assert b"dialogues_t" not in content, name  # nor of which file a dialogue is


def test_a_single_file_is_said_to_be_split_by_hash(tmp_path):
    text = card_of(SAMPLES, tmp_path / "parts")
    assert "split 80/10/10 by the hash" in text
    assert read_metadata(text)[0]["license"] == "apache-2.0"  # the project's own


def test_the_card_says_whether_the_text_was_changed(talks, tmp_path):
    assert "became natural text" in card_of(talks, tmp_path / "a")
    assert "stands as in the source" in card_of(talks, tmp_path / "b", detokenize=False)


def test_the_card_has_an_example_that_no_text_can_break(tmp_path):
    text = "``` <b>| __eou__ # ``` __eou__ {{ x }} ``` __eou__\n"
    (tmp_path / "d.txt").write_text(
        text * 2 + "".join(f"a{i}.__eou__b.__eou__\n" for i in range(9))
    )
    blocks = re.findall(
        r"```json\n(.*?)```", card_of(tmp_path / "d.txt", tmp_path / "p"), re.DOTALL
    )
    row = json.loads(blocks[0])
    assert row["turn"] == 2 and row["context"] == ["``` <b>|", "# ```"]


def test_the_card_says_what_a_turn_is(talks, tmp_path):
    text = card_of(talks, tmp_path / "a")
    assert "every utterance but the first of its dialogue is a response" in text
    assert "| `turn` | int32 | number of the pair in its dialogue |" in text
    talk = [("system", "Be kind."), ("user", "Hi, how are you?"), ("assistant", "Fine, thanks.")]
    lines = [
        {"messages": [{"role": role, "content": f"{said} {i}"} for role, said in talk]}
        for i in range(40)
    ]
    (tmp_path / "talk.jsonl").write_text("\n".join(map(json.dumps, lines)))
    text = card_of(tmp_path / "talk.jsonl", tmp_path / "b")
    assert "every utterance but" not in text and "what was said before its response." in text


def test_dialogues_in_another_language_are_not_taken_for_english(tmp_path):
    talk = "Kommst du heute noch vorbei ? __eou__ Eher nicht, ich bin {} Tage unterwegs. __eou__\n"
    (tmp_path / "talk.txt").write_text("".join(talk.format(i) for i in range(40)))
    with pytest.raises(UsageError, match=r"seem to be in .* de, .* set --language de\. .*e en\."):
        card_of(tmp_path / "talk.txt", tmp_path / "a")
    assert "in de: every" in card_of(tmp_path / "talk.txt", tmp_path / "b", language="de")


def test_dailydialog_keeps_its_licence(talks, tmp_path, known_as_dailydialog):
    rows, _ = load_rows(DataArguments(data=str(talks)))
    known_as_dailydialog(rows["train"]["response"])
    text = card_of(talks, tmp_path / "a")
    assert read_metadata(text)[0]["license"] == "cc-by-nc-sa-4.0"
    assert "Li et al., 2017" in text and "Not for [commercial use]" in text
    assert check_card(text, "dataset") == ([], [])
    assert card_of(talks, tmp_path / "b", license="CC-BY-NC-SA-4.0") == text
    with pytest.raises(UsageError, match=r"'mit'.*DailyDialog.*CC-BY-NC-SA-4\.0.*or give"):
        card_of(talks, tmp_path / "c", license="mit")


def test_a_licence_that_is_not_known_is_not_made_up(talks, tmp_path):
    text = card_of(talks, tmp_path / "a")
    assert "license" not in read_metadata(text)[0]
    assert "is not known: ask the publisher" in text
    text = card_of(talks, tmp_path / "b", license="cc-by-4.0", language="de")
    assert "cc-by-4.0, as the publisher gives it." in text
    metadata, _ = read_metadata(text)
    assert (metadata["license"], metadata["language"]) == ("cc-by-4.0", ["de"])


def test_the_licence_on_the_card_of_the_source_is_kept(talks, tmp_path):
    source = "---\nlicense: [cc-by-4.0, cc-by-nc-4.0]\n---\n# Talks\n"
    (talks / "README.md").write_text(source, encoding="utf-8")
    text = card_of(talks, tmp_path / "a")
    assert "cc-by-nc-4.0, as the card of their source gives it." in text
    assert read_metadata(text)[0]["license"] == "cc-by-nc-4.0"
    text = card_of(talks, tmp_path / "b", license="mit")
    assert "mit, as the publisher gives it." in text


def test_what_cannot_be_published_is_one_message(hub, talks, monkeypatch):
    with pytest.raises(UsageError, match="Not logged in"):
        publish_data(talks, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    with pytest.raises(UsageError, match="'bob' in 'bob/talks' is not yours"):
        publish_data(talks, "bob/talks")
    with pytest.raises(UsageError, match=r"missing\.txt"):
        publish_data("missing.txt", REPO)
    with pytest.raises(UsageError, match="license"):
        publish_data(talks, REPO, license="my own")
    with pytest.raises(UsageError, match="language is 'English'"):
        publish_data(talks, REPO, language="English")
    assert not hub.repos or "data/train-00000-of-00001.parquet" not in hub.files(REPO, "dataset")


def test_an_upload_that_fails_is_continued(account, talks, monkeypatch):
    monkeypatch.setattr("seq2seq_dialog.hub.push.WAIT", 0)
    account.cut(on="PUT /lfs", times=100)
    with pytest.raises(UsageError, match="the same command continues"):
        publish_data(talks, REPO)
    assert set(account.files(REPO, "dataset")) == {".gitattributes"}
    account.faults.clear()
    publish_data(talks, REPO)
    assert load_dataset(REPO)["test"].to_list() == published_rows(talks)["test"]
