"""Damaged files and odd settings: each door does its work, or refuses in one message, status 2.

A long run; each test takes a fifth of it, some cases otherwise:

    FUZZ_SECONDS=600 FUZZ_SEED=1 pytest tests/test_damage.py
"""

import os
import random
import shutil
import time
from collections import Counter

import pytest
import yaml
from data.test_chat_exports import SAMPLES as CHATS
from data.test_formats import TABLES
from helpers.corpus_formats import OTHERS
from helpers.corpus_formats import SAMPLES as CORPORA
from helpers.damage import VALUES, damaged, odd

from seq2seq_dialog import errors
from seq2seq_dialog.command_line import check_command_line, setting_names
from seq2seq_dialog.data.convert import convert
from seq2seq_dialog.hub.publish_model import publish
from seq2seq_dialog.report.compare import compare
from seq2seq_dialog.report.page import report
from seq2seq_dialog.serve.attention import attention
from seq2seq_dialog.serve.reply import reply
from seq2seq_dialog.shipped import CONFIGS
from seq2seq_dialog.train_arguments import parse
from seq2seq_dialog.training.resume import check_run_folder, find_checkpoint

SECONDS, SEED = (float(os.environ.get(f"FUZZ_{name}", 1)) for name in ("SECONDS", "SEED"))
SOURCES = [
    *(sample.files for sample in CORPORA.values()),
    *(files for _, files in CHATS.values()),
    *({name: text} for name, (text, _) in TABLES.items()),
    *({"talk.txt": text} for text in OTHERS.values()),
]


@pytest.fixture
def fuzz(capsys):
    """Try cases until the time is over, and until some were done and some refused."""

    def run(case):
        generator, outcomes, end = random.Random(SEED), Counter(), time.monotonic() + SECONDS / 5
        while time.monotonic() < end or len(outcomes) < 2:
            try:
                errors.run(lambda: case(generator))
                outcomes["done"] += 1
            except SystemExit as error:
                told = capsys.readouterr().err
                assert error.code == 2 and told.count("error: ") == 1, told
                outcomes["refused"] += 1
            except Exception as error:
                raise AssertionError(f"case {outcomes.total()} of seed {SEED:g}") from error
        if SECONDS > 1:
            with capsys.disabled():
                print(f"{dict(outcomes)}, seed {SEED:g}")

    return run


def damage(path, generator) -> bytes:
    """Damage a file; return what it holds then."""
    content = damaged(path.read_bytes(), generator)
    path.write_bytes(content)
    return content


def test_dialogues_of_every_format(fuzz, tmp_path):
    def case(generator):
        shutil.rmtree(tmp_path / "talk", ignore_errors=True)
        for name, content in generator.choice(SOURCES).items():
            path = tmp_path / "talk" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path = generator.choice([path for path in (tmp_path / "talk").rglob("*") if path.is_file()])
        content = damage(path, generator)
        source = generator.choice([path, tmp_path / "talk"])
        (tmp_path / "out.jsonl").unlink(missing_ok=True)
        try:
            convert(str(source), str(tmp_path / "out.jsonl"), anonymize=generator.random() < 0.5)
        finally:
            assert path.read_bytes() == content

    fuzz(case)


def test_configs(fuzz, tmp_path):
    texts = [path.read_bytes() for path in sorted(CONFIGS.glob("*.yaml"))]
    path = tmp_path / "config.yaml"

    def case(generator):
        text = generator.choice(texts)
        if generator.random() < 0.5:
            text = yaml.safe_dump(odd(yaml.safe_load(text), generator)).encode()
        else:
            text = damaged(text, generator)
        path.write_bytes(text)
        check_command_line([str(path)])
        parse([str(path)])

    fuzz(case)


def test_flags(fuzz):
    names = sorted(setting_names())
    values = [*map(str, VALUES), "null", "[", "{a: 1}", "1e999", "nan", "auto", "steps", "--", "-1"]

    def case(generator):
        words = ["--model_name_or_path=m", "--data=samples"]
        for name in generator.choices(names, k=generator.randint(1, 3)):
            part = generator.choice(["", "", "", ".a"])
            words.append(f"--{name}{part}")
            words += generator.choices(values, k=generator.randint(0, 2))
        words = [word.replace("\0", "") for word in words]
        check_command_line(words)
        parse(words)

    fuzz(case)


@pytest.fixture
def whole(saved, run_folder, tmp_path):
    """A finished run with model and results, and a checkpoint; some contexts beside it."""
    shutil.copytree(saved, run_folder, dirs_exist_ok=True)
    (tmp_path / "contexts.jsonl").write_text('{"context": ["Hi!", "Tea?"], "id": 1}\n' * 3)
    return run_folder


def test_run_folders(fuzz, whole, tmp_path):
    """Whatever a verb reads of a run folder, one file of it damaged."""
    copy, contexts, out = tmp_path / "copy", tmp_path / "contexts.jsonl", tmp_path / "out"
    names = sorted(path.name for path in whole.iterdir() if path.is_file())

    def answer():
        reply(str(copy), str(contexts), str(out / "replies.jsonl"), device="cpu", exported=False)

    def go_on():
        settings = parse(["--data=samples", f"--output_dir={copy}"])
        check_run_folder(copy, settings.as_config())
        find_checkpoint(settings, {"processes": 1, "training_data": "", "validation_data": None})

    doors = [
        answer,
        go_on,
        lambda: report(str(copy)),
        lambda: publish(copy, "ann/bot", dry_run=True),
        lambda: compare(str(copy), str(whole), samples=100),
    ]

    def case(generator):
        for folder in (copy, out):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, copy)
        name = generator.choice(names)
        content = damage(copy / name, generator)
        try:
            generator.choice(doors)()
        finally:
            assert (copy / name).read_bytes() == content or name == "report.html"

    fuzz(case)


def test_contexts(fuzz, whole, tmp_path):
    """Any bytes at the doors that take what people say."""
    contexts, out = tmp_path / "contexts", tmp_path / "out"
    beginnings = [b'{"context": ["Hi!", "Tea?"], "id": 1}\n' * 3, b"Hi! __eou__ Tea?\nNo.\n"]

    def case(generator):
        shutil.rmtree(out, ignore_errors=True)
        contexts.write_bytes(damaged(generator.choice(beginnings), generator))
        if generator.random() < 0.5:
            output = str(out / "replies.jsonl")
            reply(str(whole), str(contexts), output, device="cpu", exported=False)
            return
        text, said = (contexts.read_bytes().decode("utf-8", "replace") for _ in "12")
        form = generator.choice(["png", "pdf", "svg"])
        out.mkdir()
        said = generator.choice([None, said])
        attention(str(whole), text, said, str(out / f"map.{form}"), "cpu")

    fuzz(case)
