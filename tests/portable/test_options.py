"""Options of decoding: refused by name on every way to a reply, and those of older pipelines."""

import math

import pytest

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.portable.options import OPTION_BOUNDS, checked_options
from seq2seq_dialog.portable.pipeline import DialoguePipeline
from seq2seq_dialog.serve.inference import Conversation, generate_response, load
from seq2seq_dialog.settings import DecodingArguments


def make_pipe(model, tokenizer, **options):
    return DialoguePipeline(model=model.eval(), tokenizer=tokenizer, device="cpu", **options)


@pytest.fixture
def pipe(model, tokenizer):
    return make_pipe(model, tokenizer)


WRONG = {
    "num_beams": (0, -1, 1.5, "2", True, math.nan, 10**20),
    "max_new_tokens": (0, -5, 1.5, "5", math.inf),
    "max_length": (0, -1),
    "min_new_tokens": (-1,),
    "min_length": (-1,),
    "num_return_sequences": (0, -1),
    "temperature": (0.0, -1.0, math.nan, math.inf, "hot", True),
    "top_p": (0, -0.1, 2, 2.0, math.nan, math.inf, "all"),
    "top_k": (-1, 1.5, "5"),
    "min_p": (-1.0, 2.0),
    "typical_p": (0.0, 2.0),
    "epsilon_cutoff": (-1.0, 1.0),
    "eta_cutoff": (1.0, math.nan),
    "repetition_penalty": (0.0, -1.0, math.nan, math.inf),
    "length_penalty": (math.nan, math.inf, -math.inf, "long"),
    "no_repeat_ngram_size": (-1, 1.5),
    "do_sample": ("yes", "no", 1, 0),
    "return_dict_in_generate": (True, "yes"),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_option_is_refused_on_every_way(pipe, name, value):
    refused_on_every_way(pipe, name, value, rf"{name} is {value!r}".replace("+", r"\+"))


@pytest.mark.parametrize(("name", "most"), [("max_new_tokens", 63), ("max_length", 64)])
def test_a_reply_that_the_model_has_no_positions_for_is_refused_on_every_way(pipe, name, most):
    pipe.model.config.max_position_embeddings = 64
    message = f"{name} is {most + 1}; it must be at most {most}: the model has 64 positions"
    refused_on_every_way(pipe, name, most + 1, message)
    assert checked_options({name: most}, pipe.model.config) == {name: most}


def refused_on_every_way(pipe, name, value, message):
    for answer in (
        lambda **options: pipe("Hi!", **options),
        lambda **options: make_pipe(pipe.model, pipe.tokenizer, **options),
        lambda **options: generate_response("Hi!", pipe.model, pipe.tokenizer, **options),
        lambda **options: Conversation(pipe.model, pipe.tokenizer, **options).say("Hi!"),
    ):
        with pytest.raises(ValueError, match=message):
            answer(**{name: value})


def test_every_decoding_setting_is_checked():
    others = {"do_sample", "rerank", "reverse_model"}
    numbers = set(DecodingArguments.__dataclass_fields__) - others
    assert numbers <= OPTION_BOUNDS.keys()


def test_whole_numbers_do_for_fractions_and_none_for_the_models_own(pipe):
    plain = pipe("How are you?", repetition_penalty=2.0)
    assert pipe("How are you?", repetition_penalty=2, top_p=None) == plain
    assert pipe("How are you?", do_sample=True, temperature=1, top_p=1)


def test_options_of_the_constructor_hold_unless_a_call_has_its_own(model, tokenizer):
    plain = make_pipe(model, tokenizer)
    options = {"num_beams": 2, "num_return_sequences": 2, "max_length": 4}
    made = make_pipe(model, tokenizer, **options)
    assert made("How are you?") == plain("How are you?", **options)
    assert len(made("How are you?")) == 2
    assert made("How are you?", num_return_sequences=1, max_new_tokens=9) == plain(
        "How are you?", num_beams=2, max_new_tokens=9
    )


@pytest.mark.parametrize(
    "options",
    [
        {"return_full_text": False},
        {"truncation": True},
        {"truncation": "longest_first"},
        {"return_text": True},
        {"clean_up_tokenization_spaces": False},
    ],
    ids=str,
)
def test_what_older_pipelines_took_is_taken_where_it_asks_for_what_is_done(pipe, options):
    assert pipe("How are you?", **options) == pipe("How are you?")


def test_spaces_are_cleaned_up_on_request(pipe, monkeypatch):
    asked = []
    decode = pipe.tokenizer.batch_decode
    monkeypatch.setattr(
        pipe.tokenizer, "batch_decode", lambda *a, **k: asked.append(k) or decode(*a, **k)
    )
    pipe("How are you?", clean_up_tokenization_spaces=True)
    assert asked[0]["clean_up_tokenization_spaces"] is True


def test_rows_of_a_data_set_are_contexts_and_strings_may_stop(pipe):
    rows = [{"context": ["How are you?"]}, {"context": ["Is it far?"]}]
    replies = pipe(rows)
    assert replies == [pipe(row["context"])[0] for row in rows]
    reply = replies[0]["generated_text"]
    (stopped,) = pipe("How are you?", stop_strings=[reply[:2]])
    assert len(stopped["generated_text"]) < len(reply)


def test_token_ids_come_instead_of_text(pipe):
    (reply,) = pipe("How are you?", return_tensors=True, return_text=False)
    assert set(reply) == {"generated_token_ids"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"return_full_text": True}, "return_full_text does not work .* join them yourself"),
        ({"truncation": False}, "truncation does not work .* model_max_length: set that"),
        ({"truncation": "do_not_truncate"}, "truncation does not work"),
        ({"return_text": False}, "return_text does not work .* set return_tensors=True"),
        ({"return_type": 1}, "return_type does not work .* set return_tensors=True"),
        ({"stop_sequence": "a"}, "stop_sequence does not work .* set stop_strings"),
        ({"prefix": "a"}, "prefix does not work .* put it into the context"),
        ({"handle_long_generation": "hole"}, "a long context is always cut"),
        ({"num_beam": 2}, "num_beam"),
    ],
    ids=str,
)
def test_other_wishes_are_refused_with_what_to_do(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe("How are you?", **options)


def test_one_message_is_a_context(pipe):
    message = {"role": "user", "content": "How are you?"}
    whole = generate_response("How are you?", pipe.model, pipe.tokenizer)
    assert generate_response(message, pipe.model, pipe.tokenizer) == whole
    assert pipe(message) == [{"generated_text": whole}] == pipe({"context": ["How are you?"]})
    assert Conversation(pipe.model, pipe.tokenizer).say(message) == whole
    assert pipe(["Hi!", message]) == [pipe("Hi!")[0], {"generated_text": whole}]


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ([], ValueError, "list of contexts is empty"),
        ([[]], ValueError, "at least one turn that holds text"),
        ([""], ValueError, "at least one turn that holds text"),
        ({}, TypeError, "A context is a string"),
        ({"role": "user"}, TypeError, "A context is a string"),
        ({"text": "Hi!"}, TypeError, "A context is a string"),
        ({"role": "user", "content": None}, TypeError, "A context is a string"),
        ({"Hi!"}, TypeError, "A context is a string"),
        ([5], TypeError, "A context is a string"),
        (None, TypeError, "A context is a string"),
    ],
    ids=str,
)
def test_what_is_no_context_is_refused(pipe, inputs, error, message):
    with pytest.raises(error, match=message):
        pipe(inputs)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "", "CPU", -1, 1.5, ["cpu"], True])
def test_a_device_that_is_not_there_is_refused(model, tokenizer, device):
    with pytest.raises(UsageError, match=r"The device .* cannot be used"):
        generate_response("Hi!", model, tokenizer, device)


@pytest.mark.parametrize("name", [None, 5, ["a"], b"a"])
def test_what_names_no_model_is_refused(name):
    with pytest.raises(UsageError, match="it must be a folder or the name of a model on the Hub"):
        load(name, "cpu")


def test_a_tokenizer_in_place_of_the_model_is_refused(model, tokenizer):
    with pytest.raises(TypeError, match="a model comes first, then its tokenizer"):
        generate_response("Hi!", tokenizer, model)
