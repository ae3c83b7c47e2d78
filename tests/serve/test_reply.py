"""Answering many contexts: in Python, and from a file to a file."""

import csv
import gzip
import json

import pytest
import torch
from helpers.corpus import sample_dialogues
from helpers.runs import finish, start

from seq2seq_dialog import generate_response, generate_responses, load
from seq2seq_dialog.errors import Stopped, UsageError
from seq2seq_dialog.serve import reply as module
from seq2seq_dialog.serve.export import convert
from seq2seq_dialog.serve.exported_model import ExportedModel
from seq2seq_dialog.serve.inference import TOKENS_PER_BATCH, Conversation
from seq2seq_dialog.serve.reply import reply
from seq2seq_dialog.settings import DecodingArguments
from seq2seq_dialog.verbs import DECODING_FLAGS, VERBS

CONTEXTS = [turns[:t] for turns in sample_dialogues(12) for t in (1, 2, 4)]
IDS = torch.tensor([[5, 1]])
SAMPLING = {"do_sample": True, "top_k": 0}


@pytest.fixture
def t5(saved):
    return load(saved, "cpu")[0]


@pytest.fixture
def rnn(make_rnn):
    return make_rnn(attention="multiplicative")


@pytest.fixture
def export(saved, tokenizer, tmp_path):
    pytest.importorskip("ctranslate2")
    convert(saved, tokenizer, tmp_path / "export", "float32")
    return ExportedModel(tmp_path / "export")


# In Python


@pytest.mark.parametrize("kind", ["t5", "rnn", "export"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=str)
def test_replies_are_those_of_single_calls(kind, options, tokenizer, request):
    model = request.getfixturevalue(kind)
    expected = [generate_response(context, model, tokenizer, **options) for context in CONTEXTS]
    assert len(set(expected)) > 10
    for budget in (1, 300, 10_000):
        done = []
        replies = generate_responses(
            CONTEXTS, model, tokenizer, tokens_per_batch=budget, progress=done.append, **options
        )
        assert replies == expected
        assert sum(done) == len(CONTEXTS)
        assert (len(done) == len(CONTEXTS)) == (budget == 1) and (len(done) == 1) == (budget > 300)


@pytest.mark.parametrize("kind", ["t5", "rnn"])
def test_samples_follow_the_seed_and_not_the_batches(kind, tokenizer, request):
    model = request.getfixturevalue(kind)

    def sample(seed, **options):
        torch.manual_seed(seed)
        return generate_responses(CONTEXTS, model, tokenizer, **SAMPLING, **options)

    once = sample(1)
    assert once == sample(1, tokens_per_batch=100) != sample(2)
    torch.manual_seed(1)
    first, second = (generate_responses(["Hi!"] * 2, model, tokenizer, **SAMPLING) for _ in "12")
    assert first != second and first[0] != first[1]
    several = sample(1, num_return_sequences=3)
    assert several == sample(1, num_return_sequences=3, tokens_per_batch=100)
    assert {len(replies) for replies in several} == {3} and several[0][0] != several[0][1]


def test_several_replies_to_each_context(t5, tokenizer):
    options = {"num_beams": 4, "num_return_sequences": 2}
    replies = generate_responses(CONTEXTS, t5, tokenizer, **options)
    assert [len(set(several)) for several in replies] == [2] * len(CONTEXTS)
    assert [several[0] for several in replies] == generate_responses(
        CONTEXTS, t5, tokenizer, num_beams=4
    )
    for one in (
        lambda: generate_response("Hi!", t5, tokenizer, **options),
        lambda: Conversation(t5, tokenizer, **options).say("Hi!"),
    ):
        with pytest.raises(UsageError, match=r"num_return_sequences is 2, .*generate_responses"):
            one()
    # What a model has saved does not keep it from chatting.
    t5.generation_config.update(**options)
    assert generate_response(CONTEXTS[0], t5, tokenizer) == replies[0][0]
    assert generate_responses(CONTEXTS, t5, tokenizer) == replies


@pytest.mark.parametrize("option", [{"suppress_tokens": [5]}, {"prompt_lookup_num_tokens": 2}])
def test_what_our_loops_cannot_do_is_left_to_transformers(t5, tokenizer, monkeypatch, option):
    asked, generate = [], t5.generate
    monkeypatch.setattr(
        t5, "generate", lambda **options: asked.append(options) or generate(input_ids=IDS)
    )
    generate_responses(["Hi!"], t5, tokenizer)
    generate_responses(["Hi!"], t5, tokenizer, **option)
    assert "custom_generate" in asked[0] and "custom_generate" not in asked[1]


@pytest.mark.parametrize(
    ("contexts", "options", "message"),
    [
        ("How are you?", {}, r"contexts is 'How are you\?'; it must be a list"),
        (["Hi!", "  "], {}, r"contexts\[1\]: A context needs at least one turn"),
        (["Hi!", 5], {}, r"contexts\[1\]: A context is a string"),
        (["Hi!"], {"tokens_per_batch": 0}, "tokens_per_batch is 0; it must be at least 1"),
        (["Hi!"], {"num_beams": 0}, "num_beams is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_answered_is_named(t5, tokenizer, contexts, options, message):
    with pytest.raises(ValueError, match=message):
        generate_responses(contexts, t5, tokenizer, **options)


def test_no_contexts_have_no_replies(t5, tokenizer):
    assert generate_responses([], t5, tokenizer) == []


# From a file to a file


@pytest.fixture
def answer(saved, tmp_path, monkeypatch):
    """Reply to the lines of a file, in chunks of 4: `answer(lines, **options)`; return the text."""
    monkeypatch.setattr(module, "CHUNK", 4)

    def run(lines=None, output=tmp_path / "replies.jsonl", **options):
        if lines is not None:
            (tmp_path / "contexts.jsonl").write_text("\n".join(lines), encoding="utf-8")
        options = {"device": "cpu", "exported": False} | options
        reply(str(saved), str(tmp_path / "contexts.jsonl"), str(output), **options)
        return output.read_text(encoding="utf-8")

    return run


@pytest.fixture
def answered(monkeypatch):
    """The contexts that are answered; the run is stopped before number `stop_at` of the chunks."""

    class Answered(list):
        stop_at = None

    seen = Answered()

    def counted(contexts, **options):
        if contexts != ["Hello"]:
            if seen.stop_at == len(seen):
                raise KeyboardInterrupt
            seen.append(contexts)
        return generate_responses(contexts, **options)

    monkeypatch.setattr(module, "generate_responses", counted)
    return seen


LINES = [json.dumps({"id": i, "context": context}) for i, context in enumerate(CONTEXTS[:14])]


def test_records_keep_what_they_hold_and_get_a_reply(answer, saved):
    model, tokenizer, _ = load(saved, "cpu")
    records = [
        {"id": "é", "context": "Hi! __eou__ Where are you?", "deep": {"a": [1, None]}},
        {"context": ["Hi!", "Where are you?"], "response": "Here.", "id": 2},
        {"context": [{"role": "user", "content": "Hi!"}, {"role": "a", "content": "Where?"}]},
    ]
    written = answer([*map(json.dumps, records), "", "  "]).split("\n")
    assert written.pop() == "" and "é" in written[0]
    texts = [generate_response(record["context"], model, tokenizer) for record in records]
    assert [json.loads(line)["response"] for line in written] == texts
    records[1]["reference"] = records[1].pop("response")
    kept = [{k: v for k, v in json.loads(line).items() if k != "response"} for line in written]
    assert kept == records
    assert answer(num_return_sequences=2, num_beams=2, output=saved / "2.jsonl").count("responses")


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_text_has_a_context_a_line(answer, saved, tmp_path, packed):
    text = "\ufeffHi! __eou__ Where are you?\r\n\n{not} the first character\n[laughs] Yes.\n"
    text = text.replace("{not}", "Not {}")
    pack = gzip.compress if packed else bytes
    (tmp_path / "contexts.jsonl").write_bytes(pack(text.encode()))
    records = [json.loads(line) for line in answer().splitlines()]
    contexts = ["Hi! __eou__ Where are you?", "Not {} the first character", "[laughs] Yes."]
    assert [record["context"] for record in records] == contexts
    model, tokenizer, _ = load(saved, "cpu")
    assert [record["response"] for record in records] == [
        generate_response(context, model, tokenizer) for context in contexts
    ]


def test_a_pipe_has_replies_alone(saved):
    said = "Hi!\nWhere are you?\n"
    done = finish(
        [start("-m", "seq2seq_dialog", "reply", str(saved), "--device", "cpu", input=said)]
    )
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["context"] for record in records] == said.split("\n")[:-1]
    assert "2/2" in done.stderr and "contexts/s" in done.stderr


@pytest.mark.parametrize("options", [{}, {"num_beams": 2}, SAMPLING], ids=str)
@pytest.mark.parametrize("torn", ["", '{"id": 8, "resp', LINES[8] + "\n"], ids=["", "torn", "part"])
def test_an_interrupted_file_is_completed(answer, answered, tmp_path, options, torn):
    whole = answer(LINES, output=tmp_path / "whole.jsonl", **options)
    assert [len(chunk) for chunk in answered] == [4, 4, 4, 2]
    answered.clear()
    answered.stop_at = 2
    with pytest.raises(Stopped, match="The same command goes on"):
        answer(**options)
    with open(tmp_path / "replies.jsonl", "a") as file:
        file.write(torn)
    answered.stop_at = None
    assert answer(**options) == whole
    assert [len(chunk) for chunk in answered] == [4, 4, 4, 2]
    assert answer(**options) == whole and len(answered) == 4  # finished: nothing is answered


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lines": [*LINES[:13], LINES[0]]}, "of another input. Choose another --output"),
        ({"num_beams": 2}, r"of num_beams None \(now 2\)|of num_beams 1 \(now 2\)"),
        ({"max_new_tokens": 3, "seed": 7}, r"of max_new_tokens 12 \(now 3\)\."),
        ({"model": True}, "of another model"),
    ],
    ids=["input", "beams", "length", "model"],
)
def test_what_was_begun_otherwise_is_refused(answer, saved, change, message):
    before = answer(LINES)
    if change.pop("model", False):
        model, _, _ = load(saved, "cpu")
        model.shared.weight.data[7] += 1
        model.save_pretrained(saved)
    with pytest.raises(UsageError, match=message):
        answer(**change)
    assert (saved.parent / "replies.jsonl").read_text(encoding="utf-8") == before


def test_the_seed_counts_where_it_draws(answer):
    assert answer(LINES, seed=1) == answer(seed=2)
    with pytest.raises(UsageError, match=r"do_sample .* \(now True\), seed None \(now 1\)"):
        answer(seed=1, **SAMPLING)


@pytest.mark.parametrize("about", [None, "{", "[]", "{}"])
def test_a_file_of_something_else_is_not_touched(answer, tmp_path, about):
    (tmp_path / "replies.jsonl").write_text("mine\n")
    if about is not None:
        (tmp_path / "replies.about.json").write_text(about)
    with pytest.raises(UsageError, match=r"replies.about.json, .*missing or damaged"):
        answer(LINES)
    assert (tmp_path / "replies.jsonl").read_text() == "mine\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON .*jq -c"),
        ("nonsense", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ("7", "line 2 has no 'context'"),
        ('{"text": "Hi!"}', "line 2 has no 'context', but .* Mend it"),
        ('{"context": " "}', "line 2: A context needs at least one turn .* Mend it"),
        ('{"context": [1]}', "line 2: A context is a string"),
        ('{"context": [{"role": "user"}]}', "line 2: A context is a string"),
        ('{"context": "\\ud83d"}', "line 2: A context has half of a character"),
        ('{"context": "a", "id": "\\ud83d"}', "line 2 has half of a character"),
        ('{"context": "a", "responses": []}', "line 2 has a column that is to be written"),
        ('{"context": "a", "response": "b", "reference": "c"}', "line 2 has a column"),
    ],
    ids=lambda text: text[:20],
)
def test_a_line_that_cannot_be_answered_is_named(answer, answered, tmp_path, line, message):
    with pytest.raises(UsageError, match=message):
        answer([LINES[0], line, LINES[1]])
    assert not answered and not (tmp_path / "replies.jsonl").exists()


@pytest.mark.parametrize("array", ["[{}]", "[\n{}\n]"], ids=["line", "lines"])
def test_an_array_is_not_taken_for_text(answer, array):
    with pytest.raises(UsageError, match=r"line 1 (is not JSON|has no 'context')"):
        answer([array])


@pytest.mark.parametrize("kept", [0, 3, 4, 6])
def test_a_table_is_answered_as_a_table_and_completed(answer, answered, tmp_path, kept):
    rows = [f'{i},"Tea, or\n{i}?"' for i in range(10)]
    table = ["id,question", *rows]
    whole = answer(table, output=tmp_path / "replies.csv")
    read = list(csv.reader(whole.splitlines(keepends=True)))
    assert read[0] == ["id", "question", "response"] and len(read) == 11
    assert all(row[1] == f"Tea, or\n{row[0]}?" and row[2] for row in read[1:])
    begun = "".join(line for line in whole.splitlines(keepends=True)[: 1 + 2 * kept])
    (tmp_path / "replies.csv").write_text(begun + '9,"Tea', encoding="utf-8")
    answered.clear()
    assert answer(output=tmp_path / "replies.csv") == whole
    assert sum(map(len, answered)) == 10 - kept // 4 * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams is 0"),
        ({"num_return_sequences": 2}, "The model does not reply so: .*num_return_sequences"),
        ({"tokens_per_batch": 0}, "tokens_per_batch is 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_first(answer, answered, tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        answer(LINES, **options)
    assert not answered and not (tmp_path / "replies.jsonl").exists()


def test_files_that_cannot_be_are_refused(saved, tmp_path):
    (tmp_path / "empty").touch()
    with pytest.raises(UsageError, match="There is no file 'nowhere'"):
        reply(str(saved), "nowhere")
    with pytest.raises(UsageError, match="empty holds no context"):
        reply(str(saved), str(tmp_path / "empty"))
    with pytest.raises(UsageError, match=r"must end in \.jsonl"):
        reply(str(saved), str(tmp_path / "empty"), str(tmp_path / "replies.txt"))


def test_an_export_does_not_sample_a_file(export, tmp_path):
    (tmp_path / "contexts").write_text("Hi!\n")
    with pytest.raises(UsageError, match=r"An export samples by .* Set --no-export"):
        reply(export.name_or_path, str(tmp_path / "contexts"), **SAMPLING)


def test_the_verb_has_a_flag_for_each_decoding_setting():
    flags = {names[0].removeprefix("--") for names, _ in DECODING_FLAGS}
    assert flags == set(DecodingArguments.__dataclass_fields__)
    arguments = {names[0]: options for names, options in VERBS["reply"].arguments}
    assert "--num_return_sequences" in arguments
    assert arguments["--tokens_per_batch"]["default"] == TOKENS_PER_BATCH
