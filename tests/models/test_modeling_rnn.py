"""Recurrent models: exact under padding and caching, decoding, attention, first values."""

import math

import pytest
import torch
from helpers.trainers import make_trainer
from safetensors.torch import load_file, save_file

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.portable import RnnSeq2SeqConfig
from seq2seq_dialog.portable.modeling_rnn import RnnState, VariationalDropout
from seq2seq_dialog.serve.inference import generate_response, load

FORMS = [
    {"attention": "none"},
    {"attention": "none", "cell": "lstm", "num_layers": 2, "bidirectional": False},
    {"attention": "multiplicative"},
    {"attention": "multiplicative", "cell": "lstm", "num_layers": 2},
    {"attention": "multiplicative", "input_feeding": True, "num_layers": 2},
    {"attention": "multiplicative", "input_feeding": True, "cell": "lstm"},
    {"attention": "additive", "tie_word_embeddings": True},
    {"attention": "additive", "cell": "lstm", "num_layers": 2},
]
every_form = pytest.mark.parametrize(
    "form", FORMS, ids=lambda form: "-".join(map(str, form.values()))
)


def batch(seed=0):
    """Three sources of 7, 4 and 1 tokens, and targets."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(3, 512, (3, 7), generator=generator)
    mask = torch.ones_like(input_ids)
    mask[1, 4:] = mask[2, 1:] = 0
    return {
        "input_ids": input_ids,
        "attention_mask": mask,
        "decoder_input_ids": torch.randint(3, 512, (3, 5), generator=generator),
    }


@every_form
@torch.no_grad()
def test_a_row_does_not_depend_on_its_neighbours_or_on_what_stands_in_its_padding(make_rnn, form):
    model, inputs = make_rnn(**form), batch()
    logits = model(**inputs).logits  # (batch, target_len, vocab)
    for row, length in enumerate((7, 4, 1)):
        alone = {name: tensor[row : row + 1] for name, tensor in inputs.items()}
        alone["input_ids"], alone["attention_mask"] = alone["input_ids"][:, :length], None
        torch.testing.assert_close(model(**alone).logits[0], logits[row], atol=1e-5, rtol=1e-5)
    other = inputs["input_ids"].where(inputs["attention_mask"].bool(), torch.tensor(9))
    assert model(**inputs | {"input_ids": other}).logits.equal(logits)
    assert not logits[1].allclose(logits[2], atol=1e-2)


@every_form
@torch.no_grad()
def test_decoding_step_by_step_equals_the_full_forward_pass(make_rnn, form):
    model, inputs = make_rnn(**form), batch()
    full = model(**inputs, output_attentions=True)
    encoder_outputs = model.get_encoder()(inputs["input_ids"], inputs["attention_mask"])
    state, logits, weights = None, [], []
    for t, ids in enumerate(inputs["decoder_input_ids"].split([2, 1, 1, 1], dim=1)):
        output = model(
            attention_mask=inputs["attention_mask"],
            encoder_outputs=encoder_outputs,
            decoder_input_ids=ids,
            past_key_values=state,
            output_attentions=True,
        )
        state = output.past_key_values
        assert state.get_seq_length() == t + 2
        logits.append(output.logits)
        weights += output.cross_attentions or ()
    torch.testing.assert_close(torch.cat(logits, 1), full.logits, atol=1e-5, rtol=1e-5)
    if form["attention"] != "none":
        weights = torch.cat(weights, dim=2)
        torch.testing.assert_close(weights, full.cross_attentions[0], atol=1e-5, rtol=1e-5)


@every_form
@torch.no_grad()
def test_attention_weights_are_a_distribution_over_real_tokens(make_rnn, form):
    model, inputs = make_rnn(**form), batch()
    output = model(**inputs, output_attentions=True)
    if form["attention"] == "none":
        assert output.cross_attentions is None
        return
    (weights,) = output.cross_attentions  # (batch, 1, target_len, source_len)
    assert weights.shape == (3, 1, 5, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 1, 5))
    padding = inputs["attention_mask"].eq(0)[:, None, None].expand_as(weights)
    assert weights[padding].eq(0).all() and weights[~padding].gt(0).all()
    assert model(**inputs).cross_attentions is None


def scores(model, inputs, output_ids):
    """Summed log-probability of each decoded sequence, by a full forward pass. (batch,)"""
    logits = model(**inputs, decoder_input_ids=output_ids[:, :-1]).logits
    logp = logits.log_softmax(-1).gather(-1, output_ids[:, 1:, None])[..., 0]
    return logp.sum(-1)


@every_form
@torch.no_grad()
def test_beams_and_greedy(make_rnn, form):
    model, inputs = make_rnn(**form), batch()
    del inputs["decoder_input_ids"]
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    greedy = model.generate(**inputs, **options, num_beams=1)
    by_hand = torch.zeros(3, 1, dtype=torch.long)  # the likeliest token again and again, no cache
    for _ in range(6):
        logits = model(**inputs, decoder_input_ids=by_hand).logits[:, -1]
        logits[:, model.config.eos_token_id] = -math.inf
        by_hand = torch.cat([by_hand, logits.argmax(-1, keepdim=True)], dim=1)
    assert greedy.tolist() == by_hand.tolist()
    wide = model.generate(**inputs, **options, num_beams=4)
    best, first = scores(model, inputs, wide), scores(model, inputs, greedy)
    assert best.mean() > first.mean()
    uncached = model.generate(**inputs, **options, num_beams=4, use_cache=False)
    assert uncached.tolist() == wide.tolist()


@torch.no_grad()
def test_sampling_and_no_repeated_ngrams(make_rnn):
    model, inputs = make_rnn(), batch()
    del inputs["decoder_input_ids"]
    torch.manual_seed(0)
    sampled = model.generate(**inputs, do_sample=True, num_return_sequences=20, top_k=0)
    assert len({tuple(ids) for ids in sampled.tolist()}) > 30
    ids = model.generate(**inputs, num_beams=3, no_repeat_ngram_size=1, min_new_tokens=12)
    assert all(len(set(row)) == len(row) for row in ids[:, 1:].tolist())


def test_a_state_keeps_the_rows_of_the_surviving_beams():
    state = RnnState(torch.arange(6.0).view(3, 1, 1, 2), torch.arange(3.0).view(3, 1), 4)
    state.reorder_cache(torch.tensor([2, 2, 0]))
    assert state.state[:, 0, 0].tolist() == [[4, 5], [4, 5], [0, 1]]
    assert state.feed[:, 0].tolist() == [2, 2, 0]


def test_variational_dropout_drops_the_same_features_at_each_step():
    dropout = VariationalDropout(0.5)
    torch.manual_seed(0)
    dropped = dropout(torch.ones(400, 3, 10))
    assert dropped[:, 0].equal(dropped[:, 1]) and dropped[:, 0].equal(dropped[:, 2])
    assert set(dropped.flatten().tolist()) == {0, 2}
    assert dropped.mean().item() == pytest.approx(1, abs=0.1)
    assert dropout.eval()(torch.ones(1, 1, 10)).equal(torch.ones(1, 1, 10))


def test_dropout_between_the_layers_of_the_encoder_is_one_mask_a_row(make_rnn):
    model, inputs = make_rnn(num_layers=2, dropout=0.5), batch()
    encoder, seen = model.get_encoder().train(), []
    lengths = inputs["attention_mask"].sum(-1)
    encoder.layers[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    encoder.layers[0].register_forward_hook(lambda _, args, out: seen.append(out[0]))
    encoder(inputs["input_ids"], inputs["attention_mask"])
    before, after = (torch.nn.utils.rnn.pad_packed_sequence(p, True)[0] for p in seen)
    kept = after / before  # 2 where kept, 0 where dropped
    for row, length in enumerate(lengths):
        assert kept[row, :length].eq(kept[row, 0]).all()
        assert set(kept[row, 0].tolist()) == {0, 2}
    assert not kept[0, 0].equal(kept[1, 0])


@every_form
def test_every_parameter_learns_and_the_loss_is_that_of_the_logits(make_rnn, form):
    model, inputs = make_rnn(**form).train(), batch()
    labels = inputs.pop("decoder_input_ids")
    labels[0, 3:] = -100
    torch.manual_seed(0)
    output = model(**inputs, labels=labels)
    output.loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())
    real = labels != -100
    nll = -output.logits.log_softmax(-1)[real].gather(1, labels[real][:, None])
    assert output.loss.item() == pytest.approx(nll.mean().item(), rel=1e-5)


@every_form
def test_bfloat16_autocast_trains(make_rnn, form):
    model, inputs = make_rnn(**form).train(), batch()
    inputs["labels"] = inputs.pop("decoder_input_ids")
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()
    assert loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())


def test_first_values(make_rnn):
    model = make_rnn(cell="lstm", initializer_range=0.1, embedding_size=64)
    lstm = model.model.decoder.layers[0]
    forget = slice(32, 64)
    assert lstm.bias_ih_l0[forget].eq(1).all() and lstm.bias_ih_l0.sum() == 32
    assert lstm.bias_hh_l0.eq(0).all()
    for gate in lstm.weight_hh_l0.split(32):
        torch.testing.assert_close(gate @ gate.T, torch.eye(32), atol=1e-5, rtol=1e-5)
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(0.1, rel=0.05)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"cell": "rnn"}, "cell is 'rnn'; it must be one of gru, lstm"),
        ({"attention": "dot"}, "attention is 'dot'; it must be none, additive, multiplicative"),
        ({"attention": "additive", "input_feeding": True}, "goes with multiplicative attention"),
        ({"hidden_size": 33}, "hidden_size is 33; a bidirectional encoder halves it"),
        ({"num_layers": 0}, "num_layers is 0; it must be a whole number of at least 1"),
        ({"embedding_size": 64.0}, "embedding_size is 64.0; it must be a whole number"),
        ({"hidden_size": "1e3"}, "hidden_size is '1e3'; it must be a whole number"),
        ({"dropout": 1.0}, "dropout is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_forms_that_do_not_exist_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        RnnSeq2SeqConfig(**sizes)


@pytest.mark.parametrize("row", [[0, 1, 1], [1, 0, 1], [0, 0, 0]], ids=str)
def test_padding_elsewhere_than_on_the_right_is_refused(make_rnn, row):
    mask = torch.tensor([[1, 1, 1], row])
    with pytest.raises(ValueError, match="must be ones, then zeros: pad on the right"):
        make_rnn().get_encoder()(torch.full((2, 3), 5), mask)


def test_what_a_checkpoint_holds_is_not_drawn_anew(make_rnn, tmp_path):
    model = make_rnn()
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    missing = "model.decoder.layers.0.bias_ih_l0"
    save_file({k: v for k, v in tensors.items() if k != missing}, tmp_path / "model.safetensors")
    loaded = type(model).from_pretrained(tmp_path).state_dict()
    assert all(loaded[name].equal(x) for name, x in tensors.items() if name != missing)
    assert loaded[missing].eq(0).all()


def test_it_trains_and_is_evaluated_like_any_model(make_rnn, tokenizer, features, tmp_path):
    model = make_rnn(initializer_range=0.1, dropout=0.0)
    trainer = make_trainer(
        model, tokenizer, features, tmp_path, max_steps=60, learning_rate=1e-2, warmup_steps=2
    )
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert losses[0] == pytest.approx(math.log(512), rel=0.05)  # a new model guesses
    assert sum(losses[-5:]) / 5 < losses[0] - 1
    metrics = trainer.predict(features.select(range(30))).metrics
    assert metrics["test_perplexity"] < 200 and metrics["test_reply_words"] > 0


def test_it_loads_here_without_trusting_the_code_in_its_folder(make_rnn, tokenizer, tmp_path):
    model = make_rnn()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, tokenizer, _ = load(tmp_path, "cpu")
    assert type(loaded) is type(model)
    reply = generate_response("How are you?", loaded, tokenizer)
    assert reply == generate_response("How are you?", model, tokenizer)


def test_activation_checkpointing_is_refused(make_rnn, tokenizer, features, tmp_path):
    with pytest.raises(UsageError, match="does not work for a rnn_seq2seq model; lower tokens"):
        make_trainer(make_rnn(), tokenizer, features, tmp_path, activation_checkpointing=True)
