"""Attention maps: the weights of decoding itself, labelled with what they predicted."""

import numpy as np
import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration

from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models import artifact
from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.attention import attention, attention_map, draw_map, readable, save
from seq2seq_dialog.serve.inference import generate_response

TURNS = ["Hi, is the room still free?", "It is. Would you like to see it?"]
FORMS = [
    {"attention": "additive"},
    {"attention": "additive", "cell": "lstm", "num_layers": 2},
    {"attention": "multiplicative"},
    {"attention": "multiplicative", "input_feeding": True},
]


def by_steps(model, tokenizer):
    """The tokens of a greedy reply and the weights that generate() had at each of its steps."""
    ids = torch.tensor([encode_context(TURNS, tokenizer)])
    output = model.generate(input_ids=ids, output_attentions=True, return_dict_in_generate=True)
    steps = [layers[-1][0].mean(0) for layers in output.cross_attentions]  # (1, source_len) each
    ids = output.sequences[0, 1:].tolist()
    known = len(tokenizer)  # less than the model's rows
    tokens = [tokenizer.convert_ids_to_tokens(i) if i < known else f"<{i}>" for i in ids]
    return tokens, torch.cat(steps)


@pytest.mark.parametrize("sizes", FORMS, ids=str)
def test_the_map_is_what_decoding_saw_step_by_step(make_rnn, tokenizer, sizes):
    model = make_rnn(**sizes)
    source, target, weights = attention_map(TURNS, model, tokenizer)
    tokens, expected = by_steps(model, tokenizer)
    assert target == tokens
    assert source == tokenizer.convert_ids_to_tokens(encode_context(TURNS, tokenizer))
    assert weights.shape == (len(target), len(source))
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert np.abs(np.diff(weights, axis=0)).max() > 1e-4  # steps differ


def test_the_map_of_a_t5_is_the_mean_of_the_last_layers_heads(model, tokenizer):
    model.eval()
    assert model.config._attn_implementation == "sdpa"
    _, target, weights = attention_map(TURNS, model, tokenizer)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    tokens, expected = by_steps(model, tokenizer)
    assert target == tokens
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)


def test_a_reply_of_its_own_is_by_the_saved_decoding(model, tokenizer):
    model.eval().generation_config.guidance_weight = 0.8
    reply = generate_response("Hello there.", model, tokenizer, max_new_tokens=8)
    model.generation_config.max_new_tokens = 8
    target = attention_map("Hello there.", model, tokenizer)[1]
    ids = tokenizer.convert_tokens_to_ids(target)
    assert tokenizer.decode(ids, skip_special_tokens=True).strip() == reply
    assert reply != generate_response("Hello there.", model, tokenizer, guidance_weight=0.0)


@pytest.fixture
def tiny_bart():
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 2, "decoder_start_token_id": 0}
    sizes |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "encoder_attention_heads": 2}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None, "forced_eos_token_id": None}
    config = BartConfig(
        vocab_size=512, max_position_embeddings=64, decoder_attention_heads=2, **sizes, **ids
    )
    return BartForConditionalGeneration(config).eval()


def test_a_bart_has_a_map(tiny_bart, tokenizer):
    source, target, weights = attention_map(TURNS, tiny_bart, tokenizer, "Yes, please.")
    assert weights.shape == (len(target), len(source))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)


def test_a_reply_that_is_given_has_its_tokens_and_the_end_token(make_rnn, tokenizer):
    model = make_rnn(attention="additive")
    _, target, weights = attention_map("Hello!", model, tokenizer, "  Yes,\nplease. ")
    assert target == [*tokenizer.tokenize("Yes, please."), "</s>"]
    # Row t is of the step that predicts token t: what stands behind changes nothing.
    _, longer, more = attention_map("Hello!", model, tokenizer, "Yes, please. How are you?")
    assert longer[: len(target) - 1] == target[:-1]
    np.testing.assert_allclose(more[: len(target)], weights, atol=1e-6)


def test_a_typed_end_token_is_text(make_rnn, tokenizer):
    _, target, _ = attention_map("Hi!", make_rnn(attention="additive"), tokenizer, "Yes</s> no")
    assert target.index("</s>") == len(target) - 1


@pytest.mark.parametrize("reply", [None, "no " * 90], ids=["context", "reply"])
def test_what_a_model_has_no_positions_for_is_refused(tiny_bart, tokenizer, reply):
    tokenizer.model_max_length = 10_000
    context = "Hi!" if reply else "no " * 90
    with pytest.raises(UsageError, match=r"The context has [\d,]+ tokens, and .*give shorter ones"):
        attention_map(context, tiny_bart, tokenizer, reply)


def test_tokens_become_readable(tokenizer):
    tokens = ["▁Hello", "ing", "▁", ",", "</s>", "__eou__", "<unk>"]
    assert readable(tokens, tokenizer) == ["Hello", "ing", "▁", ",", "</s>", "__eou__", "<unk>"]


def test_empty_text_is_refused(make_rnn, tokenizer):
    model = make_rnn(attention="additive")
    with pytest.raises(UsageError, match="at least one turn that holds text"):
        attention_map(" __eou__ ", model, tokenizer)
    with pytest.raises(UsageError, match="A reply needs text; got ' '"):
        attention_map("Hello!", model, tokenizer, " ")


def test_a_model_without_attention_is_refused(make_rnn, tokenizer):
    model = make_rnn(attention="none")
    with pytest.raises(UsageError, match=r"'RnnSeq2Seq.*no attention to draw; train a model that"):
        attention_map("Hello!", model, tokenizer)


@pytest.mark.parametrize("shape", [(1, 1), (2, 12), (14, 3)])
def test_cells_are_square_and_all_labels_stand(tmp_path, shape):
    rows, columns = shape
    source, target = [f"s{i}" for i in range(columns)], ["$x$"] * rows
    figure = draw_map(source, target, np.full(shape, 1 / columns), "a title")
    save(figure, tmp_path / "map.png")
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == source
    assert [label.get_text() for label in axes.get_yticklabels()] == target
    cell = axes.transData.transform([[0, 0], [1, 1]])
    width, height = np.abs(cell[1] - cell[0])
    assert width == pytest.approx(height) and width > 15  # pixels at screen resolution
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_a_very_long_source_still_fits_into_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "seq2seq_dialog.serve.attention.CELL", 5
    )  # inches; 100 of them: 75,000 pixels
    save(draw_map(["x"] * 100, ["y"], np.full((1, 100), 0.01)), tmp_path / "map.png")
    assert (tmp_path / "map.png").stat().st_size > 0


@pytest.mark.parametrize("path", ["none/map.png", "map.word"])
def test_a_picture_that_cannot_be_written_is_refused(tmp_path, path):
    with pytest.raises(UsageError, match=rf"Cannot write the picture '.*{path}': .*(No such|not )"):
        save(draw_map(["a"], ["b"], np.ones((1, 1))), tmp_path / path)


def test_the_verb_draws_and_prints(make_rnn, tokenizer, tmp_path, capsys):
    folder, output = tmp_path / "rnn", tmp_path / "map.png"
    model = make_rnn(attention="additive")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    artifact.finish(folder)
    attention(str(folder), TURNS[0], output=str(output), device="cpu")
    assert output.read_bytes().startswith(b"\x89PNG")
    expected = generate_response(TURNS[0], model, tokenizer)
    assert capsys.readouterr().out.splitlines() == [expected, str(output)]
    first = output.read_bytes()
    attention(str(folder), TURNS[0], "Yes, please.", str(output), "cpu")
    assert capsys.readouterr().out.splitlines() == ["Yes, please.", str(tmp_path / "map-2.png")]
    assert output.read_bytes() == first != (tmp_path / "map-2.png").read_bytes()
    attention(str(folder), TURNS[0], "Yes, please.", str(tmp_path / "map.pdf"), "cpu")
    assert capsys.readouterr().out.splitlines() == ["Yes, please.", str(tmp_path / "map.pdf")]
