"""The server: who may ask, how much, and what is left when a client or the server goes."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from http.client import HTTPConnection
from types import SimpleNamespace

import httpx
import pytest
from helpers.exports import convert_to
from helpers.runs import start
from helpers.servers import NAME, lively_model, serving, wait_until

from seq2seq_dialog.decoding.running_batch import RunningBatch
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models import artifact
from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.serve import scheduler as scheduling
from seq2seq_dialog.serve.api import EventStream, Server
from seq2seq_dialog.serve.inference import generate_responses, load
from seq2seq_dialog.serve.jobs import Job
from seq2seq_dialog.serve.safety import Safety
from seq2seq_dialog.serve.server import serve
from seq2seq_dialog.settings import ModelArguments

LONG = 400  # tokens of a long reply
HELLO = {"model": NAME, "messages": [{"role": "user", "content": "Hello, who is it?"}]}
PATH = "/v1/chat/completions"


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return load_tokenizer(ModelArguments(), 64, tokenizer_folder)


@pytest.fixture(scope="module")
def model():
    return lively_model()


@pytest.fixture(scope="module")
def long_winded(model):
    """The same model, with replies of 400 tokens."""
    other = copy(model)
    other.generation_config = deepcopy(model.generation_config)
    other.generation_config.update(min_new_tokens=LONG, max_new_tokens=LONG, num_beams=1)
    return other


@pytest.fixture
def steps(monkeypatch):
    """The steps of decoding that are done, each the number of its rows; they take their time."""
    done, step = [], RunningBatch.step

    def slow(batch):
        done.append(len(batch.rows))
        time.sleep(0.01)
        return step(batch)

    monkeypatch.setattr(RunningBatch, "step", slow)
    return done


@pytest.fixture(scope="module")
def http():
    with httpx.Client(verify=False, timeout=60) as client:
        yield client


@contextlib.contextmanager
def streaming(http, url, **options):
    """Begin a stream, and wait for its first text; gives the lines that are to come."""
    with http.stream("POST", url + PATH, json=HELLO | {"stream": True} | options) as answer:
        assert answer.status_code == 200
        assert answer.headers["x-accel-buffering"] == "no"  # docs/how-to/serve.md counts on it
        lines = answer.iter_lines()
        next(line for line in lines if '"content": "' in line and '"content": ""' not in line)
        yield lines


def counter(http, url, name):
    """Read a figure of /metrics."""
    lines = http.get(f"{url}/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0)


def gone(http, url):
    return counter(http, url, 'seq2seq_dialog_requests_total{status="499"}')


def test_a_filter_answers_by_its_fallback_and_sends_no_part_of_a_reply(
    http, model, tokenizer, tmp_path
):
    (tmp_path / "words.txt").write_text("badger")
    safety = Safety(words=tmp_path / "words.txt", fallback="Let us not.")
    with serving(model, tokenizer, safety=safety) as (url, _):
        refused = HELLO | {"messages": [{"role": "user", "content": "I saw a badger."}]}
        answer = http.post(url + PATH, json=refused).json()
        assert answer["choices"][0]["message"]["content"] == "Let us not."
        plain = http.post(url + PATH, json=HELLO | {"temperature": 0}).json()
        whole = plain["choices"][0]["message"]["content"]
        assert whole and whole != "Let us not."
        with streaming(http, url, temperature=0) as lines:
            assert not [line for line in lines if '"content"' in line]  # it came in one piece


def test_what_nobody_waits_for_is_not_computed(http, long_winded, tokenizer, steps):
    with serving(long_winded, tokenizer) as (url, scheduler):
        with streaming(http, url), streaming(http, url):
            pass
        wait_until(lambda: gone(http, url) == 2)
        with pytest.raises(httpx.ReadTimeout):
            http.post(url + PATH, json=HELLO, timeout=0.3)
        wait_until(lambda: gone(http, url) == 3)
        beams = HELLO | {"n": 2}
        long_winded.generation_config.update(num_beams=2)
        with pytest.raises(httpx.ReadTimeout):
            http.post(url + PATH, json=beams, timeout=0.3)
        long_winded.generation_config.update(num_beams=1)
        wait_until(lambda: gone(http, url) == 4)
        # The threads end, which they do when there is nothing more to compute.
        scheduler.stop()
        wait_until(lambda: scheduler.has_ended)
    assert 0 < len(steps) < 2 * LONG


def test_a_stream_whose_client_goes_before_it_begins_is_counted_and_not_computed():
    closed = []

    async def events():
        yield "data: never sent\n\n"

    async def receive():
        return {"type": "http.disconnect"}

    async def send(message):
        await asyncio.sleep(1)

    stream = EventStream(SimpleNamespace(close=lambda: closed.append(True)), events())
    asyncio.run(stream({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send))
    assert closed == [True]


def test_more_than_may_wait_are_refused(http, long_winded, tokenizer, steps, monkeypatch):
    monkeypatch.setattr(scheduling, "MOST_ROWS", 1)
    with serving(long_winded, tokenizer, queue=1) as (url, scheduler), ThreadPoolExecutor() as pool:
        with streaming(http, url):
            waiting = pool.submit(
                httpx.post, url + PATH, json=HELLO | {"max_tokens": 2}, timeout=60
            )
            wait_until(lambda: scheduler.waiting == 1)
            refused = http.post(url + PATH, json=HELLO)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert counter(http, url, "seq2seq_dialog_waiting_requests") == 1
        assert waiting.result().status_code == 200
        assert counter(http, url, "seq2seq_dialog_reply_tokens_total") == 2
        assert counter(http, url, "seq2seq_dialog_first_token_seconds_count") == 1


def test_replies_under_way_are_finished_when_it_stops(http, long_winded, tokenizer, steps):
    with serving(long_winded, tokenizer) as (url, scheduler):
        with streaming(http, url) as lines:
            scheduler.stop()
            assert http.get(f"{url}/health").status_code == 503
            refused = http.post(url + PATH, json=HELLO)
            assert refused.status_code == 503 and "stopping" in refused.json()["error"]["message"]
            events = [line for line in lines if line]
        assert '"finish_reason": "length"' in events[-2] and events[-1] == "data: [DONE]"


def test_a_second_signal_ends_it_at_once():
    class Scheduler:
        is_stopping = False

        def stop(self):
            self.is_stopping = True

    server = Server(None, Scheduler())
    server.handle_exit(signal.SIGTERM, None)
    assert not server.should_exit
    server.handle_exit(signal.SIGTERM, None)
    assert server.should_exit and server.force_exit


def test_the_key(http, model, tokenizer):
    with serving(model, tokenizer, key="a secret") as (url, _):
        assert http.get(f"{url}/health").json() == {"status": "ok"}
        for path in ("/metrics", "/v1/models", "/nowhere"):
            for headers in ({}, {"Authorization": "Bearer a secret."}):
                refused = http.get(url + path, headers=headers)
                assert refused.status_code == 401
                assert refused.json()["error"]["code"] == "invalid_api_key"
        headers = {"Authorization": "Bearer a secret", "Host": "chat.example.org"}
        assert http.get(f"{url}/v1/models", headers=headers).status_code == 200


def test_bodies_and_hosts(http, model, tokenizer):
    with serving(model, tokenizer) as (url, _):
        connection = HTTPConnection(url.removeprefix("http://"), timeout=60)
        connection.putrequest("POST", PATH)
        connection.putheader("Content-Length", "65537")
        connection.endheaders()
        refused = connection.getresponse()
        assert refused.status == 413
        assert "64 KiB" in json.loads(refused.read())["error"]["message"]
        connection.close()
        # A page elsewhere can send plain text without asking, and can name this address its own.
        plain = http.post(
            url + PATH, content=json.dumps(HELLO), headers={"Content-Type": "text/plain"}
        )
        assert plain.status_code == 400
        assert http.get(f"{url}/health", headers={"Host": "example.org"}).status_code == 400
        missing = http.get(f"{url}/nowhere")
        assert missing.status_code == 404 and missing.json()["error"]["message"]


def test_an_error_while_decoding_is_told(http, model, tokenizer, monkeypatch, caplog):
    with serving(model, tokenizer) as (url, _):
        with monkeypatch.context() as patch:
            patch.setattr(RunningBatch, "step", lambda batch: 1 / 0)
            failed = http.post(url + PATH, json=HELLO | {"temperature": 0})
            assert failed.status_code == 500 and "its log" in failed.json()["error"]["message"]
            lines = http.post(
                url + PATH, json=HELLO | {"temperature": 0, "stream": True}
            ).text.split("\n\n")
            assert json.loads(lines[-2].removeprefix("data: "))["error"]["type"] == "server_error"
        assert http.post(url + PATH, json=HELLO | {"temperature": 0}).status_code == 200
        assert counter(http, url, 'seq2seq_dialog_requests_total{status="500"}') == 2
        assert counter(http, url, 'seq2seq_dialog_requests_total{status="200"}') == 1
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"host": "0.0.0.0"}, "where other machines reach the server, so it needs a key"),
        ({"host": "::"}, "where other machines reach the server, so it needs a key"),
        ({"host": "no host"}, "no address of this machine"),
        ({"host": "no..host"}, "no address of this machine"),
        ({"port": 0}, "port is 0; it must be from 1 to 65535"),
        ({"queue": 0}, "queue is 0; it must be at least 1"),
        ({"api_key_env": "NO_SUCH_KEY"}, "no key in the environment variable NO_SUCH_KEY"),
    ],
)
def test_how_it_cannot_be_started(options, words):
    with pytest.raises(UsageError, match=words):
        serve("nowhere", **options)


def test_a_port_in_use_is_told_before_the_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"Port {port} of 127.0.0.1 cannot be used"):
            serve("nowhere", port=port)


def test_nothing_is_left_of_a_server_that_is_killed_or_stopped(
    http, long_winded, tokenizer, tmp_path
):
    run = tmp_path / NAME
    long_winded.save_pretrained(run)
    tokenizer.save_pretrained(run)
    config = deepcopy(long_winded.generation_config)
    config.update(min_new_tokens=1000, max_new_tokens=1000)
    config.save_pretrained(run)
    artifact.finish(run)
    before = sorted(run.iterdir())
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"

    def is_up():
        with contextlib.suppress(httpx.TransportError):
            return http.get(f"{url}/health").status_code == 200

    for number, status in ((signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 0)):
        temporary = tmp_path / number.name
        temporary.mkdir()
        command = ("-m", "seq2seq_dialog", "serve", run, "--port", port)
        process = start(*command, cwd=tmp_path, TMPDIR=str(temporary))
        wait_until(lambda process=process: is_up() or process.poll() is not None, 60)
        broken, tokens = contextlib.nullcontext(), 100
        if number == signal.SIGKILL:
            broken, tokens = pytest.raises(httpx.TransportError), 1000
        with streaming(http, url, max_tokens=tokens) as lines:
            os.kill(process.pid, number)
            with broken:
                assert list(lines)[-2] == "data: [DONE]"
        done = process.result()
        assert done.returncode == status, done.stderr
        assert f"tiny by PyTorch, on cpu: {url}/v1" in done.stdout
        assert list(temporary.iterdir()) == [] and sorted(run.iterdir()) == before


def test_an_export_streams_as_it_answers(http, long_winded, tokenizer, tmp_path):
    pytest.importorskip("ctranslate2")
    long_winded.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    exported = convert_to(tmp_path / "export", tmp_path / "run", tokenizer)
    contexts = ["Hello, who is it?", "Hi!", "Is it far?"]
    options = {"max_new_tokens": 12, "min_new_tokens": 0}
    exported.generation_config.update(**options)
    expected = generate_responses(contexts, exported, tokenizer)
    with serving(exported, tokenizer) as (url, scheduler), ThreadPoolExecutor() as pool:

        def ask(context, **options):
            body = HELLO | {"messages": [{"role": "user", "content": context}]} | options
            return http.post(url + PATH, json=body, timeout=60)

        answers = [answer.json()["choices"][0] for answer in pool.map(ask, contexts)]
        assert [answer["message"]["content"] for answer in answers] == expected
        assert {answer["finish_reason"] for answer in answers} <= {"stop", "length"}
        events = ask(contexts[0], stream=True).text.split("\n\n")[:-2]
        parts = [
            json.loads(event[6:])["choices"][0]["delta"].get("content", "") for event in events
        ]
        assert "".join(parts) == expected[0] and len(parts) > 4
        short = ask(contexts[0], max_tokens=3).json()
        assert short["usage"]["completion_tokens"] == 3
        assert short["choices"][0]["finish_reason"] == "length"
        sampled = ask("Hi!", temperature=1.5, n=3).json()["choices"]
        assert len({choice["message"]["content"] for choice in sampled}) > 1
        refused = ask("Hi!", temperature=1.5, seed=1)
        assert refused.status_code == 400 and "--no-export" in refused.json()["error"]["message"]

        exported.generation_config.update(min_new_tokens=5000, max_new_tokens=5000)
        with streaming(http, url):
            pass
        wait_until(lambda: gone(http, url) == 1)
        scheduler.stop()
        wait_until(lambda: scheduler.has_ended)


def test_workers_of_an_export_answer_side_by_side(long_winded, tokenizer, tmp_path):
    pytest.importorskip("ctranslate2")
    long_winded.save_pretrained(tmp_path / "run")
    tokenizer.save_pretrained(tmp_path / "run")
    convert_to(tmp_path / "export", tmp_path / "run", tokenizer)
    model, _, _ = load(tmp_path / "export", exported=True, workers=2)
    scheduler = scheduling.Scheduler(model, tokenizer, most_waiting=9)
    began, other_ended = threading.Event(), threading.Event()
    in_time, ended = [], threading.Event()

    def tell_long(piece):
        if not began.is_set():
            began.set()
            in_time.append(other_ended.wait(30))
        if piece.finish_reason is not None:
            ended.set()

    def tell_short(piece):
        if piece.finish_reason is not None:
            other_ended.set()

    scheduler.submit(Job(["Hello, who is it?"], {}, tell_long))
    assert began.wait(30)
    options = {"max_new_tokens": 2, "min_new_tokens": 0}
    scheduler.submit(Job(["Hi!"], options, tell_short))
    assert ended.wait(30) and in_time == [True]
    scheduler.stop()
    wait_until(lambda: scheduler.has_ended)
