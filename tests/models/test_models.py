"""Tokenizers and models: checkpoints, new ones, decoding settings, clear refusals."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers.trainers import make_trainer
from transformers import (
    AutoModelForSeq2SeqLM,
)

from seq2seq_dialog.data.features import encode_rows
from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.method_settings import AdversarialArguments
from seq2seq_dialog.models.build import check_lengths, check_sizes, load_model
from seq2seq_dialog.models.tokenizer import load_tokenizer, train_tokenizer
from seq2seq_dialog.portable.context import encode_context, special_ids
from seq2seq_dialog.settings import DataArguments, DecodingArguments, ModelArguments

SIZES = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 2}


def test_a_trained_tokenizer_has_the_separator_and_reads_the_corpus(tokenizer, rows):
    assert len(tokenizer) == 501
    for row in rows.select(range(20)):
        ids = tokenizer(row["response"])["input_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == row["response"]
        assert tokenizer.unk_token_id not in ids


def test_a_small_corpus_gives_fewer_pieces_and_the_same_ones_each_time(tmp_path):
    for name in "ab":
        train_tokenizer(["one two three", "two one"], 8000, tmp_path / name)
    assert (tmp_path / "a/spiece.model").read_bytes() == (tmp_path / "b/spiece.model").read_bytes()


def test_a_new_model_has_the_sizes_asked_for_and_the_tokenizers_vocabulary(tokenizer):
    args = ModelArguments(new_model=json.dumps(SIZES | {"num_decoder_layers": 2}))
    model = load_model(args, tokenizer)
    assert model.config.d_model == 32 and len(model.decoder.block) == 2
    assert model.config.vocab_size == 512  # 501 rounded up
    assert model.config.decoder_start_token_id == tokenizer.pad_token_id


def test_t5_small_needs_no_new_row_for_the_separator(t5_tokenizer):
    args = ModelArguments(
        new_model=json.dumps(SIZES), tokenizer_name_or_path=t5_tokenizer.name_or_path
    )
    tokenizer = load_tokenizer(args, 512)
    assert len(tokenizer) == 32101
    assert load_model(args, tokenizer).config.vocab_size == 32128


def test_a_checkpoint_of_another_family_trains_and_answers(bart, rows, tmp_path):
    args = ModelArguments(model_name_or_path=bart)
    tokenizer = load_tokenizer(args, 128)
    assert special_ids(tokenizer) == ([0], [2])
    model = load_model(args, tokenizer)
    separator = tokenizer.convert_tokens_to_ids("__eou__")
    assert model.get_input_embeddings().num_embeddings > separator  # grown
    messages = [{"role": "user", "content": "Hi!"}, {"role": "user", "content": "You?"}]
    ids = encode_context(["Hi!", "You?"], tokenizer)
    assert ids == tokenizer.apply_chat_template(messages, return_dict=False)
    assert ids == tokenizer("Hi! __eou__ You?")["input_ids"]
    model.generation_config = generation_config(DecodingArguments(max_new_tokens=5), model)
    limits = DataArguments(max_source_length=128, max_target_length=64)
    features = encode_rows(rows, tokenizer, limits)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = make_trainer(model, tokenizer, features, tmp_path / "run", max_steps=3)
    trainer.train()
    assert not before["model.shared.weight"].equal(model.state_dict()["model.shared.weight"])
    assert len(trainer.predict(features.select(range(3))).predictions) == 3


def test_a_checkpoint_is_loaded_in_fp32(model, tokenizer, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_model(ModelArguments(model_name_or_path=str(tmp_path)), tokenizer)
    assert loaded.dtype == torch.float32


@pytest.mark.parametrize("load", [load_tokenizer, load_model])
def test_a_missing_checkpoint_gives_one_clear_message(load, tokenizer):
    args = ModelArguments(model_name_or_path="nobody/no-such-model")
    message = r"'nobody/no-such-model'.*google-t5/t5-small, and check the network"
    with pytest.raises(UsageError, match=message) as error:
        load(args, 64 if load is load_tokenizer else tokenizer)
    assert "\n" not in str(error.value)


def test_a_folder_that_is_no_model_gives_one_clear_message(tmp_path):
    with pytest.raises(UsageError, match="Cannot load the tokenizer"):
        load_tokenizer(ModelArguments(model_name_or_path=str(tmp_path)), 64)


@pytest.mark.parametrize(
    ("new_model", "message"),
    [
        ('{"model_type": "t6"}', "known model_type"),
        ('{"d_model": 8}', "known model_type"),
        ('{"model_type": "bert"}', "bert is no encoder-decoder model"),
        ("[1]", "must be a mapping"),
        ("{", "must be a mapping"),
        ('{"model_type": "t5", "d_modle": 8}', r"no 'd_modle'. Did you mean 'd_model'\?"),
        ('{"model_type": "bert", "d_model": 8}', "bert is no encoder-decoder model"),
        ('{"model_type": "t5", "d_model": 8, "d_model": 16}', "'d_model' is there twice"),
        ('{"model_type": "t5", "d_model": -1}', "d_model is -1; it must be at least 1"),
        ('{"model_type": "t5", "num_heads": 0}', "num_heads is 0; it must be at least 1"),
        ('{"model_type": "t5", "num_layers": 0}', "num_layers is 0; it must be at least 1"),
        ('{"model_type": "t5", "d_ff": 1.5}', "d_ff is 1.5; it must be a whole number"),
        ('{"model_type": "t5", "d_kv": true}', "d_kv is True; it must be a whole number"),
        ('{"model_type": "t5", "d_kv": null}', "d_kv is None; it must be a whole number"),
        ('{"model_type": "t5", "d_model": 10000000000000}', "it must be at most 2147483647"),
        ('{"model_type": "t5", "dropout_rate": 2}', "dropout_rate is 2; .* at least 0 and below 1"),
        ('{"model_type": "t5", "dropout_rate": .nan}', "the numbers in it must be finite"),
        ('{"model_type": "t5", "dropout_rate": "low"}', "dropout_rate is 'low'; .* a number"),
        ('{"model_type": "t5", "initializer_factor": -1}', "is -1; it must be at least 0"),
        ('{"model_type": "t5", "pad_token_id": -5}', "pad_token_id is -5; it must be at least 0"),
        ('{"model_type": "t5", "feed_forward_proj": "x"}', "no t5 can be made of .* no 'x'"),
        ('{"model_type": "t5", "use_cache": "x"}', "Field 'use_cache' expected bool"),
        ('{"model_type": "t5", "dtype": "x"}', "has no attribute 'x'"),
        ('{"model_type": "t5", "id2label": 5}', "new_model: 'int' object has no attribute"),
        ('{"model_type": "bart", "d_model": 65}', "no bart can be made of .* divisible"),
        ('{"model_type": "rnn_seq2seq", "hidden_size": 33}', "a bidirectional encoder halves it"),
        ('{"model_type": "rnn_seq2seq", "dropout": 1}', "at least 0 and below 1"),
    ],
)
def test_a_wrong_new_model_is_refused(new_model, message, tokenizer):
    with pytest.raises(UsageError, match=message):
        load_model(ModelArguments(new_model=new_model), tokenizer)
    early = SimpleNamespace(
        model=ModelArguments(new_model=new_model), adversarial=AdversarialArguments()
    )
    with pytest.raises(UsageError, match=message):  # before the data work, too
        check_sizes(early)


def test_a_whole_number_is_taken_for_a_fraction(tokenizer):
    sizes = json.dumps(SIZES | {"initializer_factor": 1, "dropout_rate": 0})
    assert load_model(ModelArguments(new_model=sizes), tokenizer).config.dropout_rate == 0


@pytest.mark.parametrize(
    ("data", "decoding", "message"),
    [
        ({"max_source_length": 257}, {}, "max_source_length must be at most 256"),
        ({"max_target_length": 300}, {}, "max_target_length must be at most 256"),
        ({}, {"max_new_tokens": 256}, "max_new_tokens must be at most 255"),
    ],
)
def test_lengths_beyond_the_positions_of_a_model_are_refused(bart, data, decoding, message):
    model = AutoModelForSeq2SeqLM.from_pretrained(bart)
    fitting = DataArguments(max_source_length=256, max_target_length=256)
    check_lengths(model, fitting, DecodingArguments(max_new_tokens=255))
    with pytest.raises(UsageError, match=message):
        sizes = {"max_source_length": 256} | data
        check_lengths(model, DataArguments(**sizes), DecodingArguments(**decoding))


def test_decoding_settings_are_explicit(model):
    greedy = generation_config(DecodingArguments(no_repeat_ngram_size=3), model)
    assert (greedy.max_new_tokens, greedy.num_beams, greedy.do_sample) == (128, 1, False)
    assert (greedy.no_repeat_ngram_size, greedy.decoder_start_token_id) == (3, 0)
    assert greedy.max_length is None and greedy.temperature is None
    sampled = generation_config(DecodingArguments(do_sample=True, top_p=0.9), model)
    assert (sampled.do_sample, sampled.top_p, sampled.temperature) == (True, 0.9, 1.0)


def test_loading_is_through_the_auto_class(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path)
    same = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    ids = torch.tensor([encode_context("How are you?", tokenizer)])
    start = torch.zeros((1, 1), dtype=torch.long)
    with torch.no_grad():
        logits = [m.eval()(input_ids=ids, decoder_input_ids=start).logits for m in (model, same)]
    assert logits[0].equal(logits[1])


@pytest.mark.parametrize("texts", [[], ["long " * 1000], ["\u200b", "\u3000"]])
def test_utterances_without_text_for_a_tokenizer_are_one_message(texts, tmp_path):
    with pytest.raises(UsageError, match=r"No tokenizer can be trained.*4,192 bytes.*existing"):
        train_tokenizer(texts, 100, tmp_path)
