"""The dataset script: rows, splits, sources, faulty text, the cache, and both lines of datasets."""

import bz2
import codecs
import doctest
import gzip
import hashlib
import io
import json
import logging
import lzma
import os
import random
import subprocess
import sys
import timeit
import tracemalloc
import zipfile
from pathlib import Path
from time import process_time

import datasets
import pytest
from helpers.corpus import LEGACY_PYTHON, ROOT
from seq2seq_dialog.dataset_script import detokenize as detokenize_module
from seq2seq_dialog.dataset_script import dialogues, sources
from seq2seq_dialog.dataset_script.detokenize import detokenize
from seq2seq_dialog.dataset_script.dialogues import Dialogues, read, split_of
from seq2seq_dialog.dataset_script.sources import find_sources

SPLITS = ("train", "validation", "test")

TEXT = """\
Is the kiln warm ? __eou__ Almost , give it an hour . __eou__ Fine . __eou__
Who fed the parrot ? __eou__ I did ! __eou__
We need more tape . __eou__ How much ? __eou__ Two rolls . __eou__ OK . __eou__
"""
EOU = "你好，你叫什么名字？Здравствуйте __eou__ Hi __eou__\n"
LABELS = {
    "dialogues_act.txt": "2 1 1\n2 1\n3 2 1 4\n",
    "dialogues_emotion.txt": "0 0 4\n0 4\n0 6 0 0\n",
    "dialogues_topic.txt": "1\n5\n8\n",
}


@pytest.fixture(autouse=True)
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def write(folder: Path, files: dict) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def official(prefix: str = "") -> dict:
    files = {}
    for split, line in zip(SPLITS, TEXT.splitlines(), strict=True):
        size = line.count("__eou__")
        files[f"{prefix}{split}/dialogues_{split}.txt"] = line + "\n"
        files[f"{prefix}{split}/dialogues_act_{split}.txt"] = "1 " * size + "\n"
        files[f"{prefix}{split}/dialogues_emotion_{split}.txt"] = "4 " * size + "\n"
    return files


def zipped(files: dict) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def as_distributed() -> bytes:
    """A zip of zips, made on a Mac."""
    files = {"ijcnlp_dailydialog/dialogues_text.txt": TEXT, "__MACOSX/._dialogues_text.txt": "x"}
    for split in SPLITS:
        inner = {n: c for n, c in official().items() if n.startswith(split)}
        inner[f"__MACOSX/{split}/._dialogues_{split}.txt"] = "junk"
        files[f"ijcnlp_dailydialog/{split}.zip"] = zipped(inner)
    return zipped(files)


@pytest.fixture
def build(tmp_path):
    def make(source=None, **kwargs) -> Dialogues:
        if source is not None:
            kwargs["data_dir"] = str(source)
        return Dialogues(cache_dir=str(tmp_path / "cache"), **kwargs)

    return make


@pytest.fixture
def load(build):
    def rows(source=None, **kwargs) -> dict:
        builder = build(source, **kwargs)
        builder.download_and_prepare()
        return {split: list(rows) for split, rows in builder.as_dataset().items()}

    return rows


@pytest.fixture
def load_text(load, tmp_path):
    """The rows of one text as a single split, in the order of the file."""

    def rows(text, **kwargs) -> list:
        path = write(tmp_path, {"talk.txt": text}) / "talk.txt"
        return load(data_files=str(path), **kwargs)["train"]

    return rows


# ------------------------------------------------------------------------------------- rows


def test_every_utterance_but_the_first_is_a_response(load_text):
    rows = load_text(TEXT)
    assert [(r["dialogue_id"], r["turn"]) for r in rows] == [
        ("talk:1", 1),
        ("talk:1", 2),
        ("talk:2", 1),
        ("talk:3", 1),
        ("talk:3", 2),
        ("talk:3", 3),
    ]
    assert rows[1]["context"] == ["Is the kiln warm?", "Almost, give it an hour."]
    assert rows[1]["response"] == "Fine."


def test_detokenize_can_be_turned_off(load_text):
    assert load_text(TEXT, detokenize=False)[0]["response"] == "Almost , give it an hour ."
    with pytest.raises(ValueError, match=r"detokenize='no' is not a bool\. Pass True"):
        load_text(TEXT, detokenize="no")


def test_the_schema_is_the_same_without_labels(load, build, tmp_path):
    write(tmp_path / "bare", {"dialogues_text.txt": TEXT})
    write(tmp_path / "full", {"dialogues_text.txt": TEXT, **LABELS})
    bare, full = build(tmp_path / "bare").info.features, build(tmp_path / "full").info.features
    assert bare == full
    assert " ".join(bare) == "dialogue_id turn context response emotion act topic"
    assert bare["emotion"].names[4] == "happiness" and bare["act"].names[0] == "inform"
    assert bare["topic"].names[9] == "Finance" and len(bare["topic"].names) == 10
    for rows in load(tmp_path / "bare").values():
        assert all(row["act"] is row["emotion"] is row["topic"] is None for row in rows)


def test_labels_are_those_of_the_response(load, tmp_path):
    splits = load(write(tmp_path / "data", {"dialogues_text.txt": TEXT, **LABELS}))
    rows = [row for split in splits.values() for row in split]
    rows.sort(key=lambda row: (row["dialogue_id"], row["turn"]))
    assert [row["act"] for row in rows] == [0, 0, 0, 1, 0, 3]
    assert [row["emotion"] for row in rows] == [0, 4, 4, 6, 0, 0]
    assert [row["topic"] for row in rows] == [0, 0, 4, 7, 7, 7]


# ----------------------------------------------------------------------------------- splits


def many(count: int) -> list[str]:
    return [f"How many pegs ? __eou__ I count {i} . __eou__ Good . __eou__\n" for i in range(count)]


def test_a_single_file_is_split_80_10_10_by_dialogue(load, tmp_path):
    splits = load(write(tmp_path / "d", {"dialogues_text.txt": "".join(many(1000))}))
    sizes = {split: len(rows) / 2 for split, rows in splits.items()}
    assert sum(sizes.values()) == 1000
    assert 760 < sizes["train"] < 840 and 70 < sizes["validation"] < 130
    ids = [{row["dialogue_id"] for row in rows} for rows in splits.values()]
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]


def test_the_split_of_a_dialogue_is_pinned():
    """A change of the hash would move dialogues from the training set of a model to its test."""
    for percent, number, split in [
        (79, 156, "train"),
        (80, 102, "validation"),
        (89, 9, "validation"),
        (90, 29, "test"),
    ]:
        digest = hashlib.sha256(f"line{number}\nok".encode()).digest()
        assert int.from_bytes(digest[:8], "big") % 100 == percent
        assert split_of([f"Line {number} .", "OK !"]) == split


def test_dialogues_keep_their_split_when_lines_are_added(load, tmp_path):
    lines = many(60)
    small = load(write(tmp_path / "a", {"dialogues_text.txt": "".join(lines[20:])}))
    large = load(write(tmp_path / "b", {"dialogues_text.txt": "".join(lines)}))
    for split in SPLITS:
        responses = {tuple(row["context"]) for row in large[split]}
        assert {tuple(row["context"]) for row in small[split]} <= responses


def test_equal_dialogues_meet_in_one_split_whatever_their_spelling():
    for number in range(50):
        plain = split_of([f"I 'm number {number} .", "ok"])
        assert plain == split_of([f"I’M NUMBER {number}", "Ok !"])
    splits = {split_of(["a b"[: i % 4], "c" * i]) for i in range(50)}
    assert splits == set(SPLITS)


def test_normalised_means_str_isalnum_for_every_character():
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    assert dialogues._NOT_ALNUM.sub("", every) == "".join(filter(str.isalnum, every))


def test_a_split_without_rows_is_left_out_and_announced(load, tmp_path, caplog):
    splits = load(write(tmp_path / "d", {"dialogues_text.txt": many(1)[0]}))
    assert len(splits) == 1 and len(*splits.values()) == 2
    missing = [f"There is no {split} split" in caplog.text for split in SPLITS]
    assert sum(missing) == 2 and "name the files of each split" in caplog.text


# ---------------------------------------------------------------------------------- sources


def contexts(splits: dict) -> dict:
    return {
        split: [row["context"] + [row["response"]] for row in splits[split]] for split in splits
    }


def test_the_official_folder_gives_its_own_splits_even_beside_a_whole_text(load, tmp_path):
    folder = write(tmp_path / "d", {**official(), "dialogues_text.txt": TEXT, **LABELS})
    splits = load(folder)
    assert {split: len(rows) for split, rows in splits.items()} == dict(
        train=2, validation=1, test=3
    )
    assert splits["train"][0]["dialogue_id"] == "dialogues_train:1"
    assert splits["train"][0]["act"] == 0 and splits["test"][0]["emotion"] == 4
    assert splits["test"][0]["topic"] is None


def test_as_many_official_splits_as_are_there(load, build, tmp_path):
    files = {n: c for n, c in official().items() if not n.startswith("validation")}
    assert set(load(write(tmp_path / "d", files))) == {"train", "test"}
    (tmp_path / "d" / "validation").mkdir()
    write(tmp_path / "d", {"validation/other.txt": "x"})
    with pytest.raises(ValueError, match=r"'validation' without dialogues_validation.txt.*Restore"):
        build(tmp_path / "d")


def test_the_zip_as_distributed_equals_the_folder(load, build, tmp_path):
    folder = load(write(tmp_path / "d", official()))
    path = write(tmp_path, {"ijcnlp.zip": as_distributed()}) / "ijcnlp.zip"
    assert load(path) == folder
    assert set(build(path).problems()) == {
        f"ijcnlp_dailydialog/{s}.zip/{s}/dialogues_{s}.txt" for s in SPLITS
    }


def test_a_folder_with_the_inner_zips_gives_official_splits_and_unpacked_files_win(load, tmp_path):
    inner = zipped({n: c for n, c in official().items() if n.startswith("train")})
    folder = write(tmp_path / "d", {"train.zip": inner, "dialogues_text.txt": TEXT})
    packed = load(folder)
    assert set(packed) == {"train"} and len(packed["train"]) == 2
    write(folder, {"train/dialogues_train.txt": "One ? __eou__ Unpacked . __eou__\n"})
    assert [row["response"] for row in load(folder)["train"]] == ["Unpacked."]


def test_a_zip_or_folder_with_only_a_text_is_split_like_the_file_itself(load, tmp_path):
    text = "".join(many(40))
    expected = contexts(load(write(tmp_path / "a", {"dialogues_text.txt": text})))
    assert contexts(load(tmp_path / "a" / "dialogues_text.txt")) == expected
    assert contexts(load(write(tmp_path / "b", {"chat.txt": text}))) == expected
    write(tmp_path, {"c.zip": zipped({"x/chat.txt": text, "__MACOSX/x/._chat.txt": "junk"})})
    assert contexts(load(tmp_path / "c.zip")) == expected


def test_data_files_name_the_splits(load, tmp_path):
    write(tmp_path, {"a/talk.txt": TEXT, "b/talk.txt": TEXT.splitlines()[1]})
    a, b = str(tmp_path / "a/talk.txt"), str(tmp_path / "b/talk.txt")
    assert {s: len(r) for s, r in load(data_files=a).items()} == {"train": 6}
    splits = load(data_files={"train": a, "extra": b})
    assert {s: len(r) for s, r in splits.items()} == {"train": 6, "extra": 1}
    assert splits["extra"][0]["dialogue_id"] == f"{b[:-4]}:1", "equal names: told apart by path"


@pytest.mark.parametrize(
    ("files", "kwargs", "error", "message"),
    [
        (
            {},
            {"data_dir": "none.txt"},
            FileNotFoundError,
            "none.txt' does not exist. Give data_dir",
        ),
        ({}, {"data_dir": "."}, FileNotFoundError, "no dialogues_text.txt.*none.*Give data_dir="),
        ({"a.txt": TEXT, "b.txt": TEXT}, {"data_dir": "."}, FileNotFoundError, r"a.txt, b.txt"),
        (
            {"z.zip": zipped({"a/dialogues_text.txt": TEXT, "b/dialogues_text.txt": TEXT})},
            {"data_dir": "z.zip"},
            ValueError,
            "2 files dialogues_text.txt.*only one.*Give the folder",
        ),
        (
            {"a.txt": TEXT},
            {"data_dir": ".", "data_files": "a.txt"},
            ValueError,
            "data_dir='.' came with data_files=.*one source. Give",
        ),
        (
            {"z.zip": as_distributed()},
            {"data_files": "z.zip"},
            ValueError,
            "z.zip' has splits of its own.*data_dir=",
        ),
        (
            {"z.zip": zipped(official())[:300] + zipped({"a.txt": TEXT})[-60:]},
            {"data_dir": "z.zip"},
            ValueError,
            "z.zip.*cannot be unpacked.*Fetch it again",
        ),
    ],
)
def test_a_wrong_source_is_one_clear_error(
    build, tmp_path, monkeypatch, files, kwargs, error, message
):
    monkeypatch.chdir(write(tmp_path / "here", {"readme.md": "", **files}))
    with pytest.raises(error, match=message):
        build(**kwargs).download_and_prepare()


def test_without_a_source_the_authors_zip_is_downloaded(load, build, tmp_path, monkeypatch):
    path = write(tmp_path, {"downloaded": as_distributed()}) / "downloaded"
    urls = []

    def download(self, url):
        urls.append(url)
        return str(path)

    monkeypatch.setattr(datasets.DownloadManager, "download", download)
    assert {s: len(r) for s, r in load().items()} == dict(train=2, validation=1, test=3)
    assert len(list(build().as_streaming_dataset(split="train"))) == 2
    assert len(build().problems()) == 3
    assert set(urls) == {"http://yanran.li/files/ijcnlp_dailydialog.zip"} and len(urls) == 3


@pytest.mark.parametrize("answer", [OSError("no route"), "<html>moved</html>"])
def test_a_failed_download_says_how_to_give_a_folder(build, tmp_path, monkeypatch, answer):
    def download(self, url):
        if isinstance(answer, Exception):
            raise answer
        return str(write(tmp_path, {"answer": answer}) / "answer")

    monkeypatch.setattr(datasets.DownloadManager, "download", download)
    with pytest.raises(ConnectionError, match=r"(no route|not a zip).*Give data_dir=.*folder"):
        build().download_and_prepare()


# ----------------------------------------------------------------------------- faulty text


CODINGS = ("utf-8", "cp1252")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "talk.txt is empty from line 1"),
        (b"\n \r\n", "talk.txt is empty from line 1"),
        (b"Hello .\nHi .\n", r"talk.txt has no '__eou__' from line 1 .*Write a dialogue a line"),
        (b"Hi . __eou__ Ho . __eou__\ncaf\xe9 __eou__\n", r"talk.txt, line 2: byte 0xe9 .*iconv"),
        (
            b"Hi . __eou__ it\x92s \x93so\x94 __eou__\n",
            "line 1: byte 0x92.* looks like cp1252.*-f cp1252",
        ),
        (
            "Viele Grüße . __eou__ Dir auch . __eou__\n".encode("cp1252"),
            "byte 0xfc .* looks like cp1252.*-f cp1252",
        ),
        *(
            (f"{text} __eou__ Hi __eou__\n".encode(encoding), "not UTF-8.*Find out in which enc")
            for text, encoding in [
                ("Я и ты", "cp1251"),
                ("We say привет", "cp1251"),
                ("He said 你 to us", "gbk"),
                ("To be or Το, I say", "cp1253"),
            ]
        ),
        (  # UTF-8 with one byte that is wrong
            "Viele Straßen sind hier __eou__ Ja".encode() + b"\xff __eou__\n",
            "byte 0xff is not UTF-8.*Find out in which encoding",
        ),
        (  # a line from elsewhere
            b"".join(f"Grüße {code} __eou__ Hi __eou__\n".encode(code) for code in CODINGS),
            r"line 2: byte 0xfc is not UTF-8, .* lines before it are. It looks like cp1252. Mend",
        ),
        (EOU.encode("gb18030"), r"line 1: byte 0x\w\w is not UTF-8.*Find out.*-f ENCODING"),
        (
            "Здравствуйте __eou__ Hi __eou__\n".encode("cp1251"),
            "not UTF-8.*Find out in which encoding",
        ),
        (EOU.encode("utf-16-le"), "line 1.* looks like utf-16le: .*-f utf-16le"),
        (("Hi __eou__ Ho __eou__\n" * 3).encode("utf-16-be"), "line 1.* looks like utf-16be"),
        (("\ufeff" + EOU).encode("utf-16")[:-1], "line 1 is not utf-16, as its byte order mark"),
        (b"Hi . __eou__ Ho . __eou__\n\0\0\0\0a\n", "line 2 is full of NUL bytes: the file is dam"),
        (("Hi \x93 __eou__ Ho __eou__\n" * 3).encode(), "C1 control characters in 3 lines.*line 1"),
        (
            gzip.compress(TEXT.encode() * 99)[:-99],
            r"talk.txt cannot be unpacked \(.*Fetch it again",
        ),
        (bz2.compress(TEXT.encode() * 99)[:-9], r"talk.txt cannot be unpacked \(.*Fetch it again"),
        (b"BZh91AY&SYno such data", r"talk.txt cannot be unpacked \(.*Fetch it again"),
        (b"PK\x03\x04torn", r"talk.txt cannot be unpacked \(its end is missing.*Fetch it again"),
        (b"a __eou__ " * 1001, "Dialogue talk:1 has 1,001 utterances, but at most 1,000"),
        (
            b"a __eou__\n" + b"b" * (1 + (1 << 20)),
            r"line 2 is longer than 1048576 characters.*line feed",
        ),
        (b"Alone . __eou__\n", "talk.txt: no dialogue has two utterances.*one line"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_hopeless_text_is_a_plain_error_with_file_and_line(
    build, tmp_path, text, message, streaming
):
    path = write(tmp_path, {"talk.txt": text}) / "talk.txt"
    with pytest.raises(ValueError, match=message) as caught:
        builder = build(path)
        builder.as_streaming_dataset() if streaming else builder.download_and_prepare()
    assert type(caught.value) is ValueError, "not wrapped by datasets"


FAULTS = [
    ("bom", "\ufeffHi . __eou__ Ho . __eou__\n", [1], [["Hi."]]),
    ("bom", "Hi . __eou__ Ho . __eou__\n\ufeffA ?\ufeff __eou__ B __eou__", [2], [["Hi."], ["A?"]]),
    ("cr", "Hi . __eou__ Ho . __eou__\rA ? __eou__ B __eou__\r", [1, 2], [["Hi."], ["A?"]]),
    ("c1_character", "H\x93i . __eou__ Ho\x94 . __eou__\n", [1], [["Hi."]]),
    ("crlf", "Hi . __eou__ Ho . __eou__\r\nA ? __eou__ B __eou__\r\n", [1, 2], [["Hi."], ["A?"]]),
    ("blank_line", "\nHi . __eou__ Ho . __eou__\n  \n", [1, 3], [["Hi."]]),
    ("missing_last_eou", "Hi . __eou__ Ho .\nA __eou__ B __eou__", [1], [["Hi."], ["A"]]),
    ("empty_utterance", "Hi . __eou__  __eou__ Ho . __eou__\n", [1], [["Hi."]]),
    ("control_character", "H\x7fi\tyou . __eou__ H\x00o . __eou__\n", [1], [["Hi you."]]),
    ("under_two_utterances", "Alone . __eou__\nHi . __eou__ Ho . __eou__\n", [1], [["Hi."]]),
]


@pytest.mark.parametrize(("kind", "text", "lines", "found"), FAULTS)
def test_each_fault_is_handled_counted_and_logged_once(
    load_text, build, tmp_path, caplog, kind, text, lines, found
):
    with caplog.at_level(logging.INFO, logger=dialogues.__name__):
        rows = load_text(text)
    assert [row["context"] for row in rows] == found
    assert rows[0]["response"] in ("Ho.", "B")
    logged = [r for r in caplog.records if r.name == dialogues.__name__ and kind in r.message]
    assert len(logged) == 1 and f"lines {lines[0]}" in logged[0].message
    harmless = kind in ("bom", "crlf", "cr", "blank_line")
    assert logged[0].levelno == (logging.INFO if harmless else logging.WARNING)

    cached = build(data_files=str(tmp_path / "talk.txt"))
    problems = cached.problems()["talk.txt"]
    assert problems.pop(kind) == {"count": len(lines), "first_lines": lines}
    assert set(problems) == {"dialogues", "utterances", "pairs"}, "and nothing else"
    assert problems["pairs"] == len(rows)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-16-be"])
def test_utf_16_with_a_byte_order_mark_is_read(load_text, encoding):
    text = TEXT.replace("kiln", "Ofen für 猫").encode(encoding)
    if encoding[6:]:
        text = (codecs.BOM_UTF16_LE if "le" in encoding else codecs.BOM_UTF16_BE) + text
    assert load_text(text) == load_text(TEXT.replace("kiln", "Ofen für 猫"))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_text_is_known_by_its_first_bytes(load_text, pack):
    assert load_text(pack(TEXT.encode())) == load_text(TEXT)


def test_an_archive_unpacks_to_a_limit(build, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "UNPACKED", 1000)
    text = TEXT.encode() * 1000
    write(tmp_path, {"a.gz": gzip.compress(text), "a.txt": text, "z.zip": zipped({"a.txt": text})})
    for name in ("a.gz", "z.zip"):
        with pytest.raises(ValueError, match=f"{name}.*unpacks to over 100 times.*Unpack it"):
            build(tmp_path / name).problems()
    assert build(tmp_path / "a.txt").problems()["a.txt"]["dialogues"] == 3000


def test_a_pipe_is_refused_and_does_not_hang(build, tmp_path):
    os.mkfifo(tmp_path / "dialogues_text.txt")
    for path in (tmp_path, tmp_path / "dialogues_text.txt", "/dev/zero"):
        with pytest.raises(ValueError, match=r"is not a regular file.*Write them to a file first"):
            build(path).download_and_prepare()


@pytest.mark.parametrize("name", ["valid", "val", "dev"])
def test_other_names_of_the_validation_split_are_known(load, tmp_path, name):
    files = {n.replace("validation", name): c for n, c in official().items()}
    flat = {Path(n).name: c for n, c in files.items()}
    expected = load(write(tmp_path / "official", official()))
    for folder in (write(tmp_path / "a", files), write(tmp_path / "b", flat)):
        splits = load(folder)
        assert splits.keys() == expected.keys()
        assert [row["act"] for row in splits["validation"]] == [0]


def test_files_of_a_folder_that_are_not_read_are_named(build, tmp_path, caplog):
    files = {"dialogues_text.txt": TEXT, **LABELS, "README.txt": "x", "more.txt": "x", "b.csv": "x"}
    build(write(tmp_path / "d", files)).download_and_prepare()
    assert "Not read, though it lies beside the text: b.csv, more.txt" in caplog.text


def test_only_the_first_lines_of_a_kind_are_kept(build, tmp_path):
    text = "Alone . __eou__\n" * 9 + TEXT
    problems = build(write(tmp_path, {"talk.txt": text}) / "talk.txt").problems()
    assert problems == {
        "talk.txt": {
            "dialogues": 12,
            "utterances": 18,
            "pairs": 6,
            "under_two_utterances": {"count": 9, "first_lines": [1, 2, 3, 4, 5]},
        }
    }


def test_lines_end_at_line_feeds_only(load_text):
    rows = load_text("One\u2028two . __eou__ Three\x0cfour .\x85 __eou__\nHi __eou__ Ho __eou__\n")
    assert [row["dialogue_id"] for row in rows] == ["talk:1", "talk:2"]
    assert rows[0]["context"] == ["One two."] and rows[0]["response"] == "Three four."


@pytest.mark.parametrize(
    ("acts", "kind", "lines", "found"),
    [
        ("1 1 1\n1 1 1\n1 1 1 1\n", "act_row_mismatch", [2], [0, 0, None, 0, 0, 0]),
        ("1 1 1\n1 1\n", "act_row_missing", [3], [0, 0, 0, None, None, None]),
        ("1 1 1\n\n1 1 1 1\n", "act_row_missing", [2], [0, 0, None, 0, 0, 0]),
        ("1 1 5\n1 x\n0 1 1 1\n", "act_row_invalid", [1, 2, 3], [None] * 6),
        ("1 1 1\n1 1\n1 1 1 1\n1 1\n\n", "act_row_extra", [4], [0] * 6),
        ("\ufeff1 1 1\r\n1 1\r\n1 1 1 1\r\n", "bom", [1], [0] * 6),
    ],
)
def test_label_rows_that_do_not_fit_become_null(build, tmp_path, acts, kind, lines, found):
    emotions = LABELS["dialogues_emotion.txt"]
    files = {"dialogues_test.txt": TEXT, "dialogues_act_test.txt": acts}
    folder = write(tmp_path / "d", {**files, "dialogues_emotion_test.txt": emotions})
    builder = build(folder)
    rows = list(builder.as_streaming_dataset(split="test"))
    assert [row["act"] for row in rows] == found
    assert [row["emotion"] for row in rows] == [0, 4, 4, 6, 0, 0], "the other labels stay"
    entry = {"count": len(lines), "first_lines": lines}
    assert builder.problems()["dialogues_test.txt"][kind] == entry


def test_labels_stay_aligned_past_blank_lines_and_empty_utterances(build, tmp_path):
    text = "\nA __eou__ __eou__ B __eou__ C __eou__\nD __eou__ __eou__ E __eou__\n"
    files = {"dialogues_test.txt": text, "dialogues_act_test.txt": "\n1 4 2 3\n1 4\n"}
    rows = list(build(write(tmp_path / "d", files)).as_streaming_dataset(split="test"))
    assert [row["act"] for row in rows] == [1, 2, 3]


# ------------------------------------------------------------------------ stream and cache


def test_the_stream_has_the_same_rows(load, build, tmp_path):
    files = {"dialogues_text.txt": TEXT + "".join(many(60)), **LABELS}
    folder = write(tmp_path / "d", files)
    path = write(tmp_path, {"ijcnlp.zip": as_distributed()}) / "ijcnlp.zip"
    for source in (folder, path):
        streams = build(source).as_streaming_dataset()
        assert {split: list(rows) for split, rows in streams.items()} == load(source)


def test_the_cache_is_used_while_nothing_changes(load, tmp_path, monkeypatch):
    path = write(tmp_path, {"talk.txt": TEXT}) / "talk.txt"
    first = load(path)
    monkeypatch.setattr(Dialogues, "_generate_tables", None)
    assert load(path) == first


@pytest.mark.parametrize("how", ["data_dir", "data_files"])
@pytest.mark.parametrize("changed", ["dialogues_train.txt", "dialogues_act_train.txt"])
def test_a_changed_file_is_read_anew(load, tmp_path, how, changed):
    files = {"dialogues_train.txt": TEXT, "dialogues_act_train.txt": "1 1 1\n1 1\n1 1 1 1\n"}
    folder = write(tmp_path / "d", files)
    source = str(folder if how == "data_dir" else folder / "dialogues_train.txt")
    before = load(**{how: source})["train"]
    stat = (folder / changed).stat()
    new = files[changed].replace("kiln", "oven").replace("1 1 1\n", "1 2 1\n")  # of equal size
    write(folder, {changed: new})
    os.utime(folder / changed, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    after = load(**{how: source})["train"]
    assert after != before and len(after) == len(before)


def test_a_new_label_file_and_another_file_of_that_name_are_seen(load, tmp_path):
    one = write(tmp_path / "one", {"dialogues_train.txt": TEXT})
    two = write(tmp_path / "two", {"dialogues_train.txt": TEXT.replace("kiln", "oven")})
    for folder in (one, two):
        os.utime(folder / "dialogues_train.txt", ns=(10**18, 10**18))
    assert load(one) != load(two)
    write(one, {"dialogues_act_train.txt": "1 1 1\n1 1\n1 1 1 1\n"})
    assert [row["act"] for row in load(one)["train"]] == [0] * 6


def test_changed_code_and_options_make_other_rows(build, tmp_path, monkeypatch):
    path = write(tmp_path, {"talk.txt": TEXT}) / "talk.txt"
    first = build(path).cache_dir
    assert build(path).cache_dir == first
    assert build(path, detokenize=False).cache_dir != first
    monkeypatch.setattr(dialogues, "CODE", b"another version")
    assert build(path).cache_dir != first


def test_a_file_is_never_held_in_memory(tmp_path):
    line = "Where is the long ladder ? __eou__ Behind the small shed , I think . __eou__\n"
    raw = (line * 20_000).encode()
    write(tmp_path, {"talk.txt": raw, "talk.zip": zipped({"talk.txt": raw})})
    for name in ("talk.txt", "talk.zip"):
        source = find_sources(str(tmp_path / name))[0]
        tracemalloc.start()
        assert sum(1 for _ in read(source)) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < len(raw) / 4


# ---------------------------------------------------------------------------- natural text

NATURAL = [
    ("I don ’ t know .", "I don't know."),
    ("Let ' s see , shall we ?", "Let's see, shall we?"),
    ("We ’ Ve won ! I ’ m glad !", "We've won! I'm glad!"),
    ("They 'll come , but she does n't .", "They'll come, but she doesn't."),
    ("DON ' T SHOUT !", "DON'T SHOUT!"),
    ("It ′ s six o ’ clock , ma ’ am .", "It's six o'clock, ma'am."),
    ("Ms . O ’ Hara likes rock ' n ' roll .", "Ms. O'Hara likes rock 'n' roll."),
    ("Rock n ’ roll , again ?", "Rock n' roll, again?"),
    ("Is the singers ' bus here ?", "Is the singers' bus here?"),
    ("It is my neighbours ’ .", "It is my neighbours'."),
    ("He calls it ' The Red Barn ' , sir .", "He calls it 'The Red Barn', sir."),
    ("This is ' fair ' , she says .", "This is 'fair', she says."),
    ("The twins ' boat is ' Salty ' .", "The twins' boat is 'Salty'."),
    ("She sang in the ' 70s . Ask ' em .", "She sang in the '70s. Ask 'em."),
    ('He said , " go home . "', 'He said, "go home."'),
    ("Call it “ Plan B ” , not ” Plan C “ .", 'Call it "Plan B", not "Plan C".'),
    ("Take it ( or leave it ) .", "Take it (or leave it)."),
    ("It ' s $ 20 , or £ 15 , 000 , 50 % off .", "It's $20, or £15,000, 50% off."),
    ("Come at 10 : 30 , or at 8: 45 .", "Come at 10:30, or at 8:45."),
    ("It is 20 ° C and costs $ 4 . 25 .", "It is 20°C and costs $4.25."),
    ("Bring fruit , e . g . plums .", "Bring fruit, e.g. plums."),
    ("At 5 p . m . we leave the U . S . A .", "At 5 p.m. we leave the U.S.A."),
    ("That is right.But what now ?", "That is right. But what now?"),
    ("Dr.Reed has 3.It is odd .", "Dr. Reed has 3. It is odd."),
    ("I see.I agree.A bit .", "I see. I agree. A bit."),
    ("Really?Yes,really !", "Really? Yes, really!"),
    ("He left L.A.Now what ?", "He left L.A. Now what?"),
    ("Write to www.Foo.com or ann@Bar.Org .", "Write to www.Foo.com or ann@Bar.Org."),
    ("Well . . . maybe ... or not ?", "Well... maybe... or not?"),
    ("Wait . ... Who is it ?", "Wait. ... Who is it?"),
    ("What ? ! No ! ! !", "What?! No!!!"),
    ("Hold on - - - here — now .", "Hold on --- here — now."),
    ("A 30 - day pass , call 555 - 0199 , bye - bye .", "A 30-day pass, call 555-0199, bye-bye."),
    ("Pay by L / C , or 24 / 7 .", "Pay by L/C, or 24/7."),
    ("Good evening ， sir 。", "Good evening, sir."),
    ("  Two   spaces  . ", "Two spaces."),
    ("", ""),
    (". . .", "..."),
    ("'", "'"),
    ('" "', '""'),
]


@pytest.mark.parametrize(("tokens", "natural"), NATURAL)
def test_detokenize(tokens, natural):
    assert detokenize(tokens) == natural
    assert detokenize(natural) == natural, "a second pass changes nothing"


@pytest.mark.parametrize(
    "text",
    [
        "It's 3.5 km, at 9 a.m., in the U.S. I'm sure.",
        "See www.foo.com, bar.co.uk or me@foo.com; it's free.",
        "Great :) I like .NET and the word 's' ;)",
        "She said: \"It's 'mine', not the boys'.\" (Really?) Yes...",
        "J. R. Smith, Ph.D., wrote a well-known book - in 1999.",
        "你好。你叫什么名字？",
        "Call foo.Bar() or os.path.Join(a,b), then x::Y.Z and C:\\Some.Dir.",
        "See host.tld/path?query=x or a.dev:80/A?b or page?Name=x.",
        "Open Notes.Final.pdf, (Read.Me.txt) and Main.Java!",
    ],
)
def test_natural_text_stays_as_it_is(text):
    assert detokenize(text) == text


@pytest.mark.parametrize(
    "piece", ['"', "'", '" a ', "' boys ' ", ". ", "- ", "a.B", ", ", "( ", "10 : ", "A . "]
)
def test_time_grows_with_the_length_of_a_text_and_not_faster(piece):
    def seconds(length: int) -> float:
        text = (piece + " ") * (length // (len(piece) + 1))
        return min(timeit.repeat(lambda: detokenize(text), number=1, repeat=3, timer=process_time))

    assert seconds(80_000) < 40 * seconds(8_000) + 0.1


def test_detokenize_is_idempotent_on_any_tokens_and_keeps_all_letters():
    pool = "the boys cats s t ll Ve n I A U.S a b right.But 3 20 30 000 o clock bye www.A.com"
    marks = "' ' ’ \" “ ” . . ... .. … , ? ! ; : :: ( ) [ ] $ % - - — / ° C"
    pool = (pool + " " + marks).split()
    generator = random.Random(0)
    for _ in range(20_000):
        text = " ".join(generator.choices(pool, k=generator.randint(1, 9)))
        once = detokenize(text)
        assert detokenize(once) == once, text
        letters = [c for c in text.lower() if c.isalnum()]
        assert [c for c in once.lower() if c.isalnum()] == letters


def test_the_examples_in_the_docstrings_hold():
    found = doctest.testmod(detokenize_module)
    assert found.attempted >= 3 and not found.failed


# ------------------------------------------------------------------- both lines, real data


@pytest.mark.legacy
@pytest.mark.skipif(not LEGACY_PYTHON.exists(), reason="no .venv-legacy with datasets 3.6")
def test_datasets_3_6_loads_the_same_rows(load, tmp_path):
    text = TEXT + "".join(many(40)) + "Alone . __eou__\n"
    folder = write(tmp_path / "d", {"dialogues_text.txt": text, **LABELS})
    write(tmp_path, {"ijcnlp.zip": as_distributed()})
    cases = [
        {"data_dir": str(folder)},
        {"data_dir": str(tmp_path / "ijcnlp.zip")},
        {"data_files": {"train": str(folder / "dialogues_text.txt")}},
    ]
    code = """
import json, sys
from datasets import load_dataset
def load(case):
    data = load_dataset("dataset_script/dialogues.py", trust_remote_code=True, **case)
    return {split: list(rows) for split, rows in data.items()}
cases = json.loads(sys.argv[1])
found = [load(case) for case in cases]
path = cases[0]["data_dir"] + "/dialogues_text.txt"
with open(path, "a") as file:
    file.write("Is this new ? __eou__ It is . __eou__\\n")
sizes = [sum(map(len, load(case).values())) for case in (cases[0], cases[2])]
try:
    load({"data_dir": "nowhere"})
except FileNotFoundError as error:
    message = str(error)
print(json.dumps([found, sizes, message]))
"""
    expected = [load(**case) for case in cases]
    done = subprocess.run(
        [str(LEGACY_PYTHON), "-c", code, json.dumps(cases)],
        cwd=ROOT,
        env={**os.environ, "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found, sizes, message = json.loads(done.stdout.splitlines()[-1])
    assert found == expected
    rows = sum(map(len, expected[0].values()))
    assert sizes == [rows + 1, rows + 1], "an appended line is seen, not the stale cache"
    assert message.startswith("'nowhere' does not exist. Give data_dir=")


@pytest.mark.skipif("DIALOG_DATA" not in os.environ, reason="DIALOG_DATA names no data folder")
def test_exact_counts_on_dailydialog():
    folder = Path(os.environ["DIALOG_DATA"]) / "dailydialog"
    builder = Dialogues(data_dir=str(folder))  # in the cache, where other tests find it
    builder.download_and_prepare()
    rows = {split: len(rows) for split, rows in builder.as_dataset().items()}
    assert rows == {"train": 76_052, "validation": 7_069, "test": 6_740}

    whole = Dialogues(data_dir=str(folder / "dialogues_text.txt"))
    assert whole.problems() == {
        "dialogues_text.txt": {
            "dialogues": 13_118,
            "utterances": 102_980,
            "pairs": 89_862,
            "control_character": {"count": 1, "first_lines": [5473]},
            "act_row_mismatch": {"count": 1, "first_lines": [673]},
            "emotion_row_mismatch": {"count": 1, "first_lines": [673]},
        }
    }
    for split, found in builder.as_dataset().items():
        for response in found["response"][::10]:
            assert detokenize(response) == response, split
