"""One textual form: training, generate_response, chat template and pipeline agree on the ids."""

import copy

import pytest
from transformers import AutoTokenizer

from seq2seq_dialog.data.features import encode
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models.tokenizer import prepare_tokenizer
from seq2seq_dialog.portable.context import (
    as_turns,
    count_background,
    encode_context,
    encode_texts,
    join_turns,
)
from seq2seq_dialog.portable.pipeline import DialoguePipeline

TURNS = ["Hi  there!", "Hello. Who is it?", "It's Ann.\nFrom the third floor."]


@pytest.mark.parametrize(
    "context",
    [
        TURNS,
        " __eou__ ".join(TURNS),
        "__eou__".join(TURNS) + " __eou__",
        [{"role": "user", "content": turn} for turn in TURNS],
        [{"role": "user", "content": [{"type": "text", "text": turn}]} for turn in TURNS],
    ],
)
def test_every_form_of_a_context_gives_the_same_turns(context):
    assert as_turns(context) == [
        "Hi there!",
        "Hello. Who is it?",
        "It's Ann. From the third floor.",
    ]


@pytest.mark.parametrize("context", ["", "  ", [], ["", " "], "__eou__"])
def test_a_context_without_text_is_refused(context):
    with pytest.raises(ValueError, match="at least one turn that holds text"):
        as_turns(context)


def test_half_of_a_character_is_refused():
    with pytest.raises(ValueError, match="half of a character"):
        as_turns(["Hi", "\ud83d there"])


@pytest.mark.parametrize(
    "context", [5, None, [3], [{"role": "user"}], {}, {"role": "user"}, {"a": "b"}, {"a", "b"}]
)
def test_a_context_of_another_form_is_refused(context):
    with pytest.raises(TypeError, match="a string, a list of turns or a list of messages"):
        as_turns(context)


def test_training_chat_template_generation_and_pipeline_read_the_same_ids(tokenizer, model):
    batch = {"context": [TURNS], "response": ["Come in!"]}
    trained = encode(batch, tokenizer, 64, 24)["input_ids"][0]
    messages = [{"role": "user", "content": turn} for turn in TURNS]
    templated = tokenizer.apply_chat_template(messages, return_dict=False)
    in_parts = [{"role": "user", "content": [{"type": "text", "text": turn}]} for turn in TURNS]
    assert templated == tokenizer.apply_chat_template(in_parts, return_dict=False)
    pipe = DialoguePipeline(model=model, tokenizer=tokenizer, device="cpu")
    piped = pipe.preprocess("__eou__".join(TURNS))["input_ids"][0].tolist()
    assert trained == encode_context(TURNS, tokenizer) == templated == piped
    assert trained.count(tokenizer.convert_tokens_to_ids("__eou__")) == 2
    # The plain call of older libraries: a text through the tokenizer.
    assert trained == tokenizer(" __eou__ ".join(TURNS))["input_ids"]
    assert tokenizer("How are you?")["input_ids"] == encode_context("How are you?", tokenizer)


def test_the_real_t5_tokenizer_has_a_spare_row_for_the_separator(t5_tokenizer):
    prepare_tokenizer(t5_tokenizer, 512)
    assert t5_tokenizer.convert_tokens_to_ids("__eou__") == 32100
    ids = encode_context(TURNS, t5_tokenizer)
    assert ids == t5_tokenizer("__eou__".join(TURNS))["input_ids"]
    assert ids.count(32100) == 2 and ids[-1] == 1


SPECIAL = ["</s>", "<pad>", "<unk>", "<extra_id_0>", "__eou__"]


@pytest.mark.parametrize("fixture", ["tokenizer", "t5_tokenizer", "bart"])
def test_special_tokens_in_a_text_are_text(fixture, request):
    tokenizer = request.getfixturevalue(fixture)
    if fixture == "bart":
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    prepare_tokenizer(tokenizer, 64)
    unknown, special = tokenizer.unk_token_id, set(tokenizer.added_tokens_decoder)
    for token in SPECIAL:
        ids, label = encode_texts([f"I write{token}{token} you", f"{token}"], tokenizer)
        assert not special - {unknown} & {*ids, *label}, token
        parted = f"{token[0]} {token[1:]}" if token in tokenizer.get_added_vocab() else token
        assert [ids, label] == encode_texts([f"I write{parted}{parted} you", parted], tokenizer)
    batch = {"context": [SPECIAL], "response": [" ".join(SPECIAL)]}
    columns = encode(batch, tokenizer, 512, 512)
    (context,), (label,) = columns["input_ids"], columns["labels"]
    assert context == encode_context(SPECIAL, tokenizer)
    messages = [{"role": "user", "content": token} for token in SPECIAL]
    assert context == tokenizer.apply_chat_template(messages, return_dict=False)[-64:]
    assert context.count(tokenizer.convert_tokens_to_ids("__eou__")) == len(SPECIAL) - 1
    assert label.index(tokenizer.eos_token_id) == len(label) - 1
    assert tokenizer.pad_token_id not in label


@pytest.mark.parametrize("text", ["＜／ｓ＞ hi", "<\x01/s>", "a ＜pad＞", "＜／ｓ＞"])
def test_no_special_token_comes_of_what_a_normalizer_does(tokenizer, text):
    (ids,) = encode_texts([text], tokenizer)
    assert not {tokenizer.eos_token_id, tokenizer.pad_token_id} & set(ids)


def test_only_a_plain_string_is_cut_at_the_separator():
    assert as_turns("a __eou__ b") == ["a", "b"]
    text = "a __eou__ b"
    assert as_turns([text]) == as_turns([{"role": "user", "content": text}]) == [text]


# turns of 3, 2 and 4 ids; 1 special id behind; separator 99
@pytest.mark.parametrize(
    ("max_length", "ids", "cut"),
    [
        (12, [1, 2, 3, 99, 4, 5, 99, 6, 7, 8, 9, 0], 0),
        (11, [4, 5, 99, 6, 7, 8, 9, 0], 1),
        (8, [4, 5, 99, 6, 7, 8, 9, 0], 1),
        (7, [6, 7, 8, 9, 0], 2),
        (5, [6, 7, 8, 9, 0], 2),
        (4, [7, 8, 9, 0], 3),
        (2, [9, 0], 3),
    ],
)
def test_the_source_is_cut_from_the_left_at_whole_turns(max_length, ids, cut):
    turn_ids = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert join_turns(turn_ids, 99, ([], [0]), max_length) == (ids, cut)


@pytest.mark.parametrize(
    ("max_length", "ids", "cut"),
    [
        (12, [1, 2, 3, 99, 4, 5, 99, 6, 7, 8, 9, 0], 0),
        (11, [1, 2, 3, 99, 6, 7, 8, 9, 0], 1),
        (9, [1, 2, 3, 99, 6, 7, 8, 9, 0], 1),
        (8, [1, 2, 99, 6, 7, 8, 9, 0], 2),
        (7, [1, 99, 6, 7, 8, 9, 0], 2),
        (6, [6, 7, 8, 9, 0], 2),
        (4, [7, 8, 9, 0], 3),
    ],
)
def test_what_stands_before_the_dialogue_is_cut_last(max_length, ids, cut):
    turn_ids = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert join_turns(turn_ids, 99, ([], [0]), max_length, background=1) == (ids, cut)


def test_a_system_message_stands_before_the_dialogue_on_every_way(tokenizer, model):
    said = ["instruction: Be kind.", "persona: I sell bread.", *as_turns(TURNS)]
    assert count_background(said) == 2
    assert count_background(["persona: I sell bread."]) == 0  # the turn to answer
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "persona", "content": "I sell bread."},
        *({"role": "user", "content": turn} for turn in TURNS),
    ]
    assert as_turns(messages) == said
    batch = {"context": [said], "response": ["Come in!"]}
    tokenizer = copy.deepcopy(tokenizer)
    for length in (48, 512):
        tokenizer.model_max_length = length
        (trained,) = encode(batch, tokenizer, length, 24)["input_ids"]
        assert trained == encode_context(messages, tokenizer) == encode_context(said, tokenizer)
        assert len(trained) <= length
        (first,) = encode_texts(said[:1], tokenizer)
        assert trained[: len(first)] == first
    assert trained == tokenizer.apply_chat_template(messages, return_dict=False)


@pytest.mark.parametrize(
    ("messages", "turns"),
    [
        (["user:Hi!", "system:Be kind."], ["instruction: Be kind.", "Hi!"]),
        (
            [
                "knowledge:It rains.",
                "system:Be kind.",
                "user:Hi!",
                "system: Be  brief.",
                "user:Yes?",
            ],
            ["instruction: Be kind. Be brief.", "knowledge: It rains.", "Hi!", "Yes?"],
        ),
        (["system: ", "persona:", "user:Hi!", "assistant:"], ["Hi!"]),
        (["system:Be kind.</s>"], ["instruction: Be kind.</s>"]),  # the turn to answer
    ],
)
def test_a_system_message_may_be_anywhere(tokenizer, messages, turns):
    messages = [
        {"role": role, "content": content}
        for role, content in (message.split(":", 1) for message in messages)
    ]
    assert as_turns(messages) == turns
    templated = tokenizer.apply_chat_template(messages, return_dict=False)
    assert templated == encode_context(turns, tokenizer)


def test_no_room_for_text_is_refused():
    with pytest.raises(ValueError, match="max_length is 1, but 2 is the least"):
        join_turns([[1]], 99, ([], [0]), 1)


class _JoiningTokenizer:
    """A tokenizer that takes the place of a text into account, as some do."""

    eos_token, pad_token = "</s>", "<pad>"

    name_or_path = "joining"

    def add_tokens(self, tokens, special_tokens):
        pass

    def __call__(self, text, add_special_tokens=True):
        ids = [len(text)] if isinstance(text, str) else [[len(t)] for t in text]
        return {"input_ids": ids}

    def convert_tokens_to_ids(self, token):
        return 7


def test_a_tokenizer_that_reads_turns_differently_after_the_separator_is_refused():
    with pytest.raises(UsageError, match=r"'joining'.*differently after __eou__"):
        prepare_tokenizer(_JoiningTokenizer(), 64)
