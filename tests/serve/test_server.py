"""The server, asked by the openai package and by plain HTTP."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from helpers.corpus import ROOT, sample_dialogues
from helpers.markdown import blocks
from helpers.servers import NAME, lively_model, serving

from seq2seq_dialog.models.tokenizer import load_tokenizer
from seq2seq_dialog.serve.inference import generate_response, generate_responses
from seq2seq_dialog.settings import ModelArguments

openai = pytest.importorskip("openai")

GREEDY = {"model": NAME, "temperature": 0}
CONTEXTS = [turns[:t] for turns in sample_dialogues(10) for t in (1, 2)]


def messages(turns):
    """Write turns as messages, the last from the user."""
    roles = ("user", "assistant")
    count = len(turns)
    return [{"role": roles[(count - 1 - i) % 2], "content": turn} for i, turn in enumerate(turns)]


HELLO = messages(["Hello, who is it?"])


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return load_tokenizer(ModelArguments(), 64, tokenizer_folder)


@pytest.fixture(scope="module")
def model():
    model = lively_model()
    model.config.max_position_embeddings = 500
    return model


@pytest.fixture(scope="module")
def server(model, tokenizer):
    with serving(model, tokenizer) as (url, _):
        yield url


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(client, turns, **options):
    return client.chat.completions.create(messages=messages(turns), **(GREEDY | options))


@pytest.fixture(scope="module")
def greedy(model, tokenizer):
    """The replies of `generate_responses`."""
    replies = generate_responses(CONTEXTS, model, tokenizer, num_beams=1, do_sample=False)
    assert len(set(replies)) > 10
    return replies


def test_twenty_clients_at_once_get_the_replies_of_single_calls(client, tokenizer, greedy):
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda turns: ask(client, turns), CONTEXTS))
    assert [answer.choices[0].message.content for answer in answers] == greedy
    assert {answer.choices[0].finish_reason for answer in answers} == {"stop", "length"}
    for answer, turns in zip(answers, CONTEXTS, strict=True):
        assert answer.usage.prompt_tokens == len(tokenizer("__eou__".join(turns))["input_ids"])
        ended = answer.choices[0].finish_reason == "length"
        assert (answer.usage.completion_tokens == 12) == ended


def test_twenty_streams_at_once_are_the_same_in_pieces(server, greedy):
    async def stream(client, turns):
        events = await client.chat.completions.create(
            messages=messages(turns),
            stream=True,
            stream_options={"include_usage": True},
            **GREEDY,
        )
        return [event async for event in events]

    async def all_streams():
        async with openai.AsyncOpenAI(base_url=f"{server}/v1", api_key="none") as client:
            return await asyncio.gather(*(stream(client, turns) for turns in CONTEXTS))

    streams = asyncio.run(all_streams())
    for events, text in zip(streams, greedy, strict=True):
        *parts, usage = events
        assert "".join(part.choices[0].delta.content or "" for part in parts) == text
        assert parts[-1].choices[0].finish_reason in ("stop", "length")
        assert usage.choices == [] and usage.usage.total_tokens > usage.usage.prompt_tokens
        assert len({event.id for event in events}) == 1
    assert max(map(len, streams)) > 8


def test_the_saved_decoding_is_the_default_and_comes_whole(client, model, tokenizer):
    turns = CONTEXTS[3]
    expected = generate_response(turns, model, tokenizer)  # by beams
    options = {"model": NAME, "messages": messages(turns)}
    assert client.chat.completions.create(**options).choices[0].message.content == expected
    events = list(client.chat.completions.create(**options, stream=True))
    pieces = [event.choices[0].delta.content for event in events]
    assert [piece for piece in pieces if piece] == [expected]
    three = client.chat.completions.create(**options, n=3)
    best = generate_responses([turns], model, tokenizer, num_return_sequences=3)[0]
    assert [choice.message.content for choice in three.choices] == best


def test_sampling_follows_the_seed_alone(client):
    def sample(**options):
        answer = ask(client, CONTEXTS[0], temperature=1.5, top_p=0.9, n=3, **options)
        return [choice.message.content for choice in answer.choices]

    with ThreadPoolExecutor(4) as pool:  # in one batch, and alone
        together = list(pool.map(lambda seed: sample(seed=seed), [1, 1, 2, 3]))
    assert together[0] == together[1] == sample(seed=1)
    assert len(set(together[0])) > 1 and together[0] not in together[2:]
    assert sample() != sample()


def test_the_length_and_what_ends_a_reply(client):
    turns = CONTEXTS[0]
    whole = ask(client, turns).choices[0].message.content
    short = ask(client, turns, max_tokens=5)
    assert short.usage.completion_tokens == 5 and short.choices[0].finish_reason == "length"
    assert ask(client, turns, max_tokens=9, max_completion_tokens=5).usage == short.usage
    word = whole.split()[2]
    for stop in (word, ["nowhere", word]):
        cut = ask(client, turns, stop=stop)
        assert cut.choices[0].message.content == whole[: whole.index(word)].rstrip()
        assert cut.choices[0].finish_reason == "stop"
        assert cut.usage.completion_tokens < 12


def test_the_models_are_listed(client):
    (listed,) = client.models.list().data
    assert listed.id == NAME and client.models.retrieve(NAME) == listed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "another"}, "There is no model 'another' here, but 'tiny'"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "user", "content": " "}]}, "at least one turn that holds text"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role: Input should be"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half of a character"),
        ({"temperature": 2.5}, "temperature: Input should be less than"),
        ({"temperature": float("nan")}, "temperature: Input should be a finite number"),
        ({"max_tokens": 1001}, "max_tokens: Input should be less than"),
        ({"max_tokens": 500}, "500; it must be at most 499: the model has 500 positions"),
        ({"n": 17}, "n: Input should be less than"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "at most 4 items"),
        ({"presence_penalty": 1}, "presence_penalty is 1, but these models cannot do that"),
        ({"parallel_tool_calls": 1.5}, "parallel_tool_calls is 1.5, but these"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content: Input should be"),
        ({"temprature": 1}, "there is no option 'temprature'. Did you mean 'temperature'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_answered_is_refused_in_the_form_of_openai(server, change, words):
    body = json.dumps(GREEDY | {"messages": HELLO} | change)
    headers = {"Content-Type": "application/json"}
    response = httpx.Client(verify=False).post(
        f"{server}/v1/chat/completions", content=body, headers=headers
    )
    said = response.json()["error"]
    assert words in said["message"] and said["type"] == "invalid_request_error"
    assert response.status_code == (404 if "model" in change else 400)


@pytest.mark.parametrize(
    ("content", "headers", "words"),
    [
        (b'{"model": }', {"Content-Type": "application/json"}, "not JSON: Expecting value, at"),
        (b'{"model": "tiny"}', {}, "Send the body as `Content-Type: application/json`"),
        (b"[]", {"Content-Type": "application/json"}, "a JSON object"),
        (b"", {}, "Send the body as"),
    ],
)
def test_what_is_wrong_with_a_body_is_said(server, content, headers, words):
    url = f"{server}/v1/chat/completions"
    response = httpx.Client(verify=False).post(url, content=content, headers=headers)
    said = response.json()["error"]
    assert words in said["message"] and said["param"] is None and response.status_code == 400


def test_options_that_change_nothing_are_taken(client):
    plain = ask(client, ["Hi!"]).choices[0]
    unchanging = {
        "user": "someone", "store": True, "presence_penalty": 0, "logprobs": False, "stop": "",
        "top_logprobs": 0, "functions": [], "parallel_tool_calls": False, "tool_choice": "auto",
        "reasoning_effort": "none", "top_p": 0,
        "extra_body": {"prompt_cache_retention": "24h", "prompt_cache_options": {}},
    }  # fmt: skip
    assert ask(client, ["Hi!"], **unchanging).choices[0] == plain
    assert ask(client, ["Hi!"], temperature=1, top_p=0).choices[0] == plain
    after_tools = [{"role": "assistant", "content": None}, *messages(["Hi!"])]
    assert client.chat.completions.create(messages=after_tools, **GREEDY).choices[0] == plain
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hi!"}]}]
    assert client.chat.completions.create(messages=parts, **GREEDY).choices[0] == plain


def test_the_python_of_the_documentation_works(server, capsys):
    (block,) = (b for b in blocks(ROOT / "docs/how-to/serve.md") if b.language == "python")
    code = block.code.replace("http://127.0.0.1:8000", server).replace("starter", NAME)
    exec(compile(code, block.page, "exec"), {})
    reply, streamed = capsys.readouterr().out.split("\n", 1)
    assert reply and streamed
