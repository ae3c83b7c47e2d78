"""The chat page answers as the model does, as a Space and from a folder; a Space is complete."""

import json
import os
import re
import runpy
import shutil
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError
from urllib.request import urlopen

import httpx
import pytest
import torch
import yaml
from gradio_client import Client
from gradio_client.exceptions import AppError
from helpers import warm
from helpers.corpus import ROOT
from helpers.hub_cards import check_card
from huggingface_hub import HfApi
from transformers import T5Config, T5ForConditionalGeneration, set_seed

from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.hub import publish_model
from seq2seq_dialog.hub.publish_model import GRADIO, PAGE, space_files
from seq2seq_dialog.hub.push import Publication
from seq2seq_dialog.models import artifact
from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.portable import RnnSeq2SeqConfig, RnnSeq2SeqForConditionalGeneration
from seq2seq_dialog.serve.inference import Conversation, generate_response, load
from seq2seq_dialog.serve.space import app
from seq2seq_dialog.serve.web import web
from seq2seq_dialog.settings import DecodingArguments, ModelArguments

SAID = ["Hi! How are you today?", "I have lost my keys.", "What time shall we meet?"]
COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tiny models are quickest so, and the pages of these tests have one core as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def save(folder: Path, tokenizer_folder: Path, config, kind) -> Path:
    """A run folder of a model with random weights, whose replies depend on what was said."""
    set_seed(1)
    tokenizer = load_tokenizer(ModelArguments(), 64, tokenizer_folder)
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.5)
    decoding = DecodingArguments(max_new_tokens=12, num_beams=2, no_repeat_ngram_size=3)
    model.generation_config = generation_config(decoding, model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    artifact.finish(folder)
    return folder


@pytest.fixture(scope="module")
def t5(tmp_path_factory, tokenizer_folder):
    config = T5Config(
        vocab_size=512, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("run")
    return save(folder, tokenizer_folder, config, T5ForConditionalGeneration)


@pytest.fixture(scope="module")
def rnn(tmp_path_factory, tokenizer_folder):
    config = RnnSeq2SeqConfig(vocab_size=512, embedding_size=16, hidden_size=32)
    folder = tmp_path_factory.mktemp("rnn")
    return save(folder, tokenizer_folder, config, RnnSeq2SeqForConditionalGeneration)


def conversation(folder, **settings) -> Conversation:
    return Conversation(*load(folder, "cpu")[:2], **settings)


def free_port() -> int:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@contextmanager
def serving(command, folder: Path, env: dict[str, str], modules=warm.TRANSFORMERS):
    """A page that a process of its own serves; the process has ended afterwards."""
    port = free_port()
    env = env | {"GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}
    process = warm.start(*command, cwd=folder, env=env, modules=modules)
    url = f"http://127.0.0.1:{port}/"
    try:
        while True:
            assert process.poll() is None, process.result()
            try:
                urlopen(url + "config", timeout=1).close()
                break
            except (URLError, TimeoutError):
                time.sleep(0.05)
        yield SimpleNamespace(url=url, process=process)
    finally:
        process.kill()
        process.wait()


def unpack(folder: Path, files: dict[str, bytes]) -> Path:
    """The files of a Space in a folder of their own."""
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def offline() -> dict[str, str]:
    """An environment without a network, where this project cannot be imported by accident."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MODEL", "REVISION")}
    return env | {"HF_HUB_OFFLINE": "1", "CPU_CORES": "1"}


@pytest.fixture(scope="module")
def space(t5, tmp_path_factory):
    """The address of a Space that serves `t5`."""
    home = tmp_path_factory.mktemp("space")
    folder = unpack(home / "files", space_files("ann/model", COMMIT))
    with serving(["app.py"], folder, offline() | {"MODEL": str(t5)}) as served:
        yield served.url


@pytest.fixture
def client(space):
    """A new visitor."""
    return Client(space, verbose=False)


def say(client, message, **settings):
    return client.predict(message, **settings, api_name="/chat")


# A Space answers


def test_a_reply_is_that_of_generate_response(client, t5):
    model, tokenizer, _ = load(t5, "cpu")
    assert say(client, SAID[0]) == generate_response(SAID[0], model, tokenizer) != ""


def test_the_dialogue_is_remembered_to_whole_turns_of_what_the_model_reads(client, t5):
    talk = conversation(t5)
    said = SAID * 2  # with the replies, longer than the 64 tokens it reads
    replies = [say(client, text) for text in said]
    assert replies == [talk.say(text) for text in said]
    assert replies[:3] != [talk.reply_to(text) for text in SAID]
    assert len(talk.tokenizer(" ".join(talk.turns))["input_ids"]) > 64


def test_visitors_do_not_hear_each_other(client, space, t5):
    say(client, SAID[1])
    assert say(Client(space, verbose=False), SAID[0]) == conversation(t5).say(SAID[0])


def test_the_settings_begin_as_the_models_own(client):
    endpoint = client.view_api(return_format="dict", print_info=False)["named_endpoints"]["/chat"]
    defaults = {p["parameter_name"]: p["parameter_default"] for p in endpoint["parameters"][1:]}
    assert defaults == {
        "do_sample": False, "temperature": 1, "top_p": 1, "top_k": 50, "num_beams": 2,
        "max_new_tokens": 12, "no_repeat_ngram_size": 3, "candidates": 1,
        "rerank": "as the model has it",
    }  # fmt: skip


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 3},
        {"num_beams": 5},
        {"no_repeat_ngram_size": 1, "num_beams": 1},
        {"do_sample": True, "top_k": 1, "num_beams": 1},
    ],
    ids=str,
)
def test_settings_take_effect(client, t5, settings):
    reply = say(client, SAID[2], **settings)
    assert reply == conversation(t5, **settings).say(SAID[2])
    assert reply != conversation(t5).say(SAID[2])


def test_sampling_differs_from_time_to_time(client):
    replies = {say(client, SAID[0], do_sample=True, temperature=2, top_k=0) for _ in range(4)}
    assert len(replies) > 1


@pytest.mark.parametrize("message", ["", " \n "], ids=repr)
def test_an_empty_message_is_told_and_forgotten(client, t5, message):
    say(client, SAID[0])
    with pytest.raises(AppError, match="Say something first"):
        say(client, message)
    talk = conversation(t5)
    talk.say(SAID[0])
    assert say(client, SAID[1]) == talk.say(SAID[1])


@pytest.mark.parametrize("settings", [{"max_new_tokens": 10**9}, {"num_beams": 1000}], ids=str)
def test_nobody_can_ask_for_endless_work(client, settings):
    with pytest.raises(AppError, match="greater than maximum"):
        say(client, SAID[0], **settings)


def test_the_page_needs_nothing_from_elsewhere(space):
    html = urlopen(space).read().decode()
    fetched = re.findall(r'<(?:script|link)[^>]+(?:src|href)="(https?:[^"]+)"', html)
    assert [address for address in fetched if "127.0.0.1" not in address] == []


# What a Space consists of


@pytest.mark.parametrize("private", [False, True])
def test_the_hub_accepts_the_card(private):
    readme = space_files("ann/my.model-1", COMMIT, private=private)["README.md"]
    assert check_card(readme.decode(), "space") == ([], [])
    front = yaml.safe_load(readme.decode().split("---")[1])
    assert front["title"] == "Chat with my.model-1"
    assert front["models"] == ["ann/my.model-1"] and front["sdk"] == "gradio"
    assert front["app_file"] in space_files("ann/my.model-1")
    assert ("HF_TOKEN" in readme.decode()) == private


def test_a_space_runs_the_reviewed_file_on_the_versions_that_are_tested():
    files = space_files("ann/model", COMMIT, openings=["Grüezi!"])
    for name in ("app.py", "conversation.py"):
        assert files[name] == (PAGE / name).read_bytes()
    assert yaml.safe_load(files["model.json"]) == {
        "model": "ann/model", "revision": COMMIT, "openings": ["Grüezi!"],
    }  # fmt: skip
    pinned = (ROOT / "requirements.txt").read_text().split("\n")
    wanted = [line for line in files["requirements.txt"].decode().split("\n") if "==" in line]
    assert len(wanted) == 2 and {*wanted, f"gradio=={GRADIO}"} <= set(pinned)


def test_a_space_runs_the_commit_it_was_published_with(hub, t5, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_ann")
    api = HfApi()
    api.create_repo("ann/model", private=True)
    commit = api.upload_folder(repo_id="ann/model", folder_path=t5).oid
    api.upload_file(
        repo_id="ann/model", path_in_repo="pipeline.py", path_or_fileobj=b"raise SystemExit('new')"
    )
    files = space_files("ann/model", commit, private=True, openings=["Grüezi!"])
    folder = unpack(tmp_path / "space", files)
    monkeypatch.syspath_prepend(folder)
    demo = runpy.run_path(str(folder / "app.py"))["main"]()
    _, url, _ = demo.launch(server_port=free_port(), prevent_thread_lock=True, quiet=True)
    try:
        assert say(Client(url, verbose=False), SAID[0]) == conversation(t5).say(SAID[0])
        shown = str(demo.config)
        assert f"[ann/model]({hub.url}/ann/model)" in shown and "Grüezi!" in shown
    finally:
        demo.close(verbose=False)


def shown_instead(model, monkeypatch, capsys) -> str:
    """What the page of a model that cannot be loaded says; the log says the same."""
    monkeypatch.setenv("MODEL", str(model))
    blocks = app.main().blocks.values()
    (box,) = (block for block in blocks if block.get_block_name() == "textbox")
    assert capsys.readouterr().err.endswith(f"{box.value}\n")
    return box.value


def test_the_page_of_a_model_that_cannot_be_read_says_the_way_out(hub, monkeypatch, capsys):
    HfApi(token="hf_ann").create_repo("ann/secret", private=True)
    monkeypatch.setenv("REVISION", COMMIT)
    shown = shown_instead("ann/secret", monkeypatch, capsys)
    assert shown.startswith(f"Cannot load ann/secret at {COMMIT}: ") and "HF_TOKEN" in shown
    monkeypatch.delenv("MODEL")
    with pytest.raises(SystemExit, match="Which model"):
        app.main()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b"[]"),
        ("generation_config.json", b"[]"),
        ("model.safetensors", b"<html>"),
        ("pipeline.py", b"def ("),
        ("pipeline.py", b"import nothing_of_this_name"),
        ("pipeline.py", b"raise RuntimeError"),
        ("tokenizer.json", b"{}"),
    ],
)
def test_the_page_of_a_damaged_model_says_so(t5, tmp_path, monkeypatch, capsys, name, data):
    shutil.copytree(t5, tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(data)
    shown = shown_instead(tmp_path / "run", monkeypatch, capsys)
    assert re.fullmatch(r"Cannot load .*/run at main: .+\nIf the model .*", shown)


# The same page from a folder


def test_web_serves_a_folder_until_ctrl_c(rnn, tmp_path):
    env = offline() | {"PYTHONPATH": str(ROOT)}
    with serving(["-m", "seq2seq_dialog", "web", str(rnn)], tmp_path, env, warm.PROJECT) as served:
        client, talk = Client(served.url, verbose=False), conversation(rnn)
        assert [say(client, text) for text in SAID] == [talk.say(text) for text in SAID]
        served.process.send_signal(signal.SIGINT)
        done = served.process.result()
        assert done.returncode == 0
        out = done.stdout + done.stderr
    assert served.url in out and "Traceback" not in out and "Interrupt" not in out


@pytest.mark.slow
def test_the_page_keeps_to_its_limits_and_bears_many_visitors(rnn, tmp_path):
    env = offline() | {"PYTHONPATH": str(ROOT)}
    dialogues = [  # each is another from its first three turns on
        [f"{SAID[visitor // 3 ** (i % 3) % 3]} zanzibar" for i in range(4)] for visitor in range(10)
    ]
    with serving(["-m", "seq2seq_dialog", "web", str(rnn)], tmp_path, env, warm.PROJECT) as served:
        patient = {"timeout": 300}
        clients = [Client(served.url, verbose=False, httpx_kwargs=patient) for _ in dialogues]
        with ThreadPoolExecutor(len(clients)) as visitors:
            replies = list(
                visitors.map(
                    lambda client, said: [say(client, text) for text in said], clients, dialogues
                )
            )
        talk = conversation(rnn)
        for said, heard in zip(dialogues, replies, strict=True):
            talk.reset()
            assert heard == [talk.say(text) for text in said]
        assert len(set(map(tuple, replies))) == len(dialogues)
        with pytest.raises(AppError, match=r"too long: at most 4,000 letters"):
            say(clients[0], "zanzibar " * 500)
        for name, status in (("evil.example", 400), ("localhost", 200)):
            assert httpx.get(served.url, headers={"Host": name}).status_code == status
        upload = {"files": ("a.txt", b"something")}
        refused = httpx.post(served.url + "gradio_api/upload", files=upload)
        assert refused.status_code == 413
        served.process.send_signal(signal.SIGINT)
        done = served.process.result()
    assert "Traceback" not in done.stderr and "zanzibar" not in done.stdout + done.stderr


def test_a_port_that_is_taken_is_told(t5):
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=rf"Port {port} cannot be used.*--port"):
            web([str(t5)], port, device="cpu")


def test_without_gradio_it_is_said_how_to_get_it(t5, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"not installed: pip install gradio"):
        web([str(t5)])


def test_settings_of_a_model_beyond_the_usual_are_kept():
    config = SimpleNamespace(temperature=None, max_new_tokens=500, num_beams=20)
    assert app.slider("temperature", config).value == 1
    assert app.slider("max_new_tokens", config).maximum == 500
    beams = app.slider("num_beams", config)
    assert beams.preprocess(20) == 20 and beams.value == 20


def test_what_stands_before_a_dialogue_is_no_opening(monkeypatch):
    sent = {}
    monkeypatch.setattr(publish_model, "send", lambda _, files, *__, **___: sent.update(files))
    card = "---\nwidget:\n- text: 'persona: A cat. __eou__ Is it far?'\n- text: Hello.\n---\n"
    chat = Publication("runs/a", "ann/model", space="ann/chat", dry_run=True)
    publish_model.publish_space(chat, card, None)
    assert json.loads(sent["model.json"])["openings"] == ["Is it far?", "Hello."]
