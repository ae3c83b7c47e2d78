"""The filter on what is said and answered: words, classifiers, and where it is asked for."""

import io
import re

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.run_folder import read_jsonl
from seq2seq_dialog.serve import chat
from seq2seq_dialog.serve.inference import Conversation, generate_response, generate_responses
from seq2seq_dialog.serve.reply import reply
from seq2seq_dialog.serve.safety import FALLBACK, Safety, safety_of


@pytest.fixture
def words(tmp_path):
    """`words(line, ...)`: a file of words."""

    def write(*lines):
        path = tmp_path / "words.txt"
        path.write_text("\ufeff# no animals\n\n" + "\n".join(lines) + "\n", encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def classifier(tokenizer, tmp_path):
    """A folder with a classifier that finds all texts toxic, by 0.95, and knows another label."""
    config = BertConfig(
        vocab_size=512, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=64, id2label={0: "fine", 1: "toxic"},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.classifier.weight.zero_()
        model.classifier.bias.copy_(torch.tensor([0.05, 0.95]).log())
    tokenizer.model_max_length = 10**30  # as of a tokenizer that does not know
    model.save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    return str(tmp_path / "classifier")


@pytest.mark.parametrize(
    ("word", "text", "refused"),
    [
        ("badger", "Look, a BADGER!", True),
        ("badger", "Look, badgers!", False),
        ("badger", "b4dger", False),
        ("badger", "bad\u00adger \u200b", True),  # a soft hyphen within
        ("Bad  Word", "a bad, word?", True),
        ("bad word", "bad sword", False),
        ("straße", "STRASSE 1", True),
        ("ｂａｄ", "bad", True),
        ("плохо", "Как плохо!", True),
        ("坏话", "这是坏话吗", True),
        ("ばか", "お前はばかだ", True),
        ("कल", "यह कला है", False),  # the mark after it makes another word
        ("कल", "कल।", True),
        ("🦡", "a 🦡\ufe0f!", True),
        ("c++", "C++.", True),
        ("c++", "c", False),
    ],
)
def test_a_word_is_found_as_a_whole_in_any_script(words, word, text, refused):
    safety = Safety(words=words("other", word))
    assert safety.check(text) == ("a word of the list" if refused else None)


def test_a_classifier_refuses_by_its_score(classifier, capsys):
    reason = Safety([f"{classifier}:toxic>=0.9"]).check("Hello, " + "you " * 500)
    assert reason == "toxic 0.95"
    safety = Safety([f"{classifier}:toxic >= .96"])
    assert safety.check("Hello") is None and safety.check("  ") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": ["user/model"]}, "safety is 'user/model'; it must be MODEL:label>=score"),
        ({"rules": ["user/model:toxic>=80"]}, "the score above 0 and at most 1"),
        ({"rules": ["{classifier}:hate>=0.5"]}, "the labels of that model are 'fine', 'toxic'"),
        ({"rules": ["./none:toxic>=0.5"]}, "There is no folder"),
        ({"words": "none.txt"}, "Cannot read the words in 'none.txt'"),
        ({"fallback": " "}, "fallback is empty"),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(classifier, options, message):
    if "{" in str(options.get("rules")):
        options = {"rules": [options["rules"][0].format(classifier=classifier)]}
    with pytest.raises(UsageError, match=message):
        Safety(**options)


def test_a_model_that_is_no_classifier_is_refused(saved):
    with pytest.raises(UsageError, match=r"Cannot load a classifier from .* its files lack"):
        Safety([f"{saved}:LABEL_1>=0.5"])


def test_a_list_without_words_is_refused(words):
    with pytest.raises(UsageError, match="holds no word"):
        Safety(words=words())
    with pytest.raises(UsageError, match=r"line 4 is '\?!', which holds no word"):
        Safety(words=words("badger", "?!"))


def test_the_options_of_a_verb(words):
    assert safety_of({"device": "cpu", "safety": None, "fallback": None}) is None
    options = {"device": "cpu", "safety_words": words("badger"), "fallback": "No."}
    assert safety_of(options).fallback == "No." and options == {"device": "cpu"}
    with pytest.raises(UsageError, match="fallback has an effect with --safety"):
        safety_of({"fallback": "No."})


def test_what_is_said_and_answered_is_filtered(model, tokenizer, words):
    model.eval()
    safety = Safety(words=words("badger"))
    call = {"model": model, "tokenizer": tokenizer}
    answer = generate_response("Hello", **call)
    assert generate_response("Hello", safety=safety, **call) == answer
    assert generate_response(["Hello", "Yes?", "A badger."], safety=safety, **call) == FALLBACK
    # A turn that was refused earlier is not read, nor what was answered to it.
    turns = ["Hello", "A badger!", FALLBACK, "Where is it?"]
    expected = generate_response(["Hello", "Where is it?"], **call)
    assert generate_response(turns, safety=safety, **call) == expected

    both = generate_responses(["A badger.", "Hello", turns], safety=safety, **call)
    assert both == [FALLBACK, answer, expected]
    several = generate_responses(
        ["A badger.", "Hello"], safety=safety, num_beams=2, num_return_sequences=2, **call
    )
    assert several[0] == [FALLBACK, FALLBACK] and len(several[1]) == 2


def test_a_reply_that_is_refused_is_not_given(make_rnn, tokenizer, words):
    safety = Safety(words=words("badger"), fallback="No.")
    answer = safety.guard(lambda turns, num_beams: f"{turns[0]} badger")
    assert answer("Hello", num_beams=2, streamer="shows words at once") == "No."
    model = make_rnn()
    said = re.findall(r"\w+", generate_response("Hello", model, tokenizer))
    safety = Safety(words=words(*said), fallback="No.")
    assert generate_responses(["Hello"], model, tokenizer, safety=safety) == ["No."]


def test_a_conversation_remembers_what_is_refused_but_the_model_does_not_read_it(
    model, tokenizer, words
):
    conversation = Conversation(model.eval(), tokenizer, Safety(words=words("badger")))
    assert conversation.say("A badger!") == FALLBACK
    assert conversation.turns == ["A badger!", FALLBACK]
    assert conversation.say("Hello") == generate_response("Hello", model, tokenizer)


def test_the_terminal_and_files_have_the_same_filter(saved, words, tmp_path, monkeypatch, capsys):
    options = {"safety_words": words("badger"), "fallback": "No.", "device": "cpu"}
    monkeypatch.setattr("sys.stdin", io.StringIO("A badger!\n"))
    chat.chat([str(saved)], **options)
    assert capsys.readouterr().out == "No.\n"

    (tmp_path / "contexts.txt").write_text("A badger!\nHello\n")
    output = str(tmp_path / "replies.jsonl")
    reply(str(saved), str(tmp_path / "contexts.txt"), output, **options)
    first, second = read_jsonl(tmp_path / "replies.jsonl")
    assert first["response"] == "No." != second["response"]
    with pytest.raises(UsageError, match=r"safety 1 words \(\w+\), fallback 'No.' \(now None\)"):
        reply(str(saved), str(tmp_path / "contexts.txt"), output, device="cpu")
