"""Exports of each family of encoder-decoders: they reply as PyTorch does, or are refused."""

import pytest
import torch
from helpers.exports import CONTEXTS, batch, convert_to, replies
from tokenizers import processors
from transformers import CONFIG_MAPPING, AutoModelForSeq2SeqLM, set_seed

from seq2seq_dialog.decoding.generation_config import generation_config
from seq2seq_dialog.errors import UsageError
from seq2seq_dialog.models import artifact
from seq2seq_dialog.models.tokenizer import prepare_tokenizer
from seq2seq_dialog.run_folder import read_json
from seq2seq_dialog.serve.inference import generate_response, load
from seq2seq_dialog.settings import DecodingArguments

pytest.importorskip("ctranslate2")
from seq2seq_dialog.serve.conversion import LOADERS, check_convertible, make_spec

PAD, END, LANGUAGE = 0, 1, 502  # of the tokenizer below, which begins texts with 501, <s>
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
BART = {"d_model": 32, "max_position_embeddings": 80}
for side in ("encoder", "decoder"):
    BART |= {f"{side}_layers": 2, f"{side}_attention_heads": 4, f"{side}_ffn_dim": 64}
GEMMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "query_pre_attn_scalar": 30,  # not head_dim
    "attn_logit_softcapping": None,
    "final_logit_softcapping": 5.0,
    "vocab_size": 512,
    "pad_token_id": PAD,
    "eos_token_id": END,
    "bos_token_id": 501,
}
T5GEMMA = {"vocab_size": 512, "encoder": GEMMA, "decoder": GEMMA}
UNTIED = GEMMA | {
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
}
T5GEMMA_2 = {
    "encoder": {
        "text_config": GEMMA | {"layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": {
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
        },
    },
    "decoder": GEMMA,
    "image_token_index": 511,
}
MODELS = [
    ("t5", T5),
    ("mt5", T5 | {"feed_forward_proj": "gated-gelu"}),
    ("umt5", T5),
    ("bart", BART),
    ("bart", BART | {"scale_embedding": True}),
    ("mbart", BART),
    ("plbart", BART),
    ("blenderbot", BART),
    ("pegasus", BART),
    ("marian", BART),
    ("m2m_100", BART),
    ("t5gemma", T5GEMMA),
    ("t5gemma", T5GEMMA | {"encoder": UNTIED, "decoder": UNTIED, "tie_word_embeddings": False}),
    ("t5gemma2", T5GEMMA_2),
]
# Replies as families begin and end them: BART with </s>, mBART with a language, ...
TOKENS = [
    ("bart", {"decoder_start_token_id": END, "forced_eos_token_id": END}),
    ("bart", {"eos_token_id": [END, *range(2, 256)]}),
    ("mbart", {"decoder_start_token_id": LANGUAGE}),
    ("marian", {"decoder_start_token_id": PAD}),
    ("m2m_100", {"decoder_start_token_id": PAD}),
    ("m2m_100", {"decoder_start_token_id": END, "forced_bos_token_id": LANGUAGE}),
]


@pytest.fixture
def tokenizer(tokenizer):
    """A tokenizer with `<s>` and a language before a text, and `</s>` after it."""
    special = {"bos_token": "<s>", "additional_special_tokens": ["en_XX"]}
    tokenizer.add_special_tokens(special)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> en_XX $A </s>", special_tokens=[("<s>", 501), ("en_XX", LANGUAGE), ("</s>", 1)]
    )
    return prepare_tokenizer(tokenizer, 64)


def make(kind, sizes):
    """A model whose random weights make replies depend on contexts and end now and then."""
    ids = {"pad_token_id": PAD, "eos_token_id": END, "bos_token_id": 501}
    if "gemma" not in kind:
        ids |= {"vocab_size": 512, "decoder_start_token_id": 501}
    config = CONFIG_MAPPING[kind](**ids | sizes)
    set_seed(2)
    model = AutoModelForSeq2SeqLM.from_config(config)
    std = 0.3 if kind == "umt5" or "gemma" in kind else 0.7
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and parameter.requires_grad:
                parameter.normal_(0, std / 3 if "embed" in name and "gemma" in kind else std)
            elif parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
        if getattr(model, "final_logits_bias", None) is not None:
            model.final_logits_bias.normal_(0, 0.5)
        model.get_output_embeddings().weight[END] *= 4
    model.generation_config = generation_config(DecodingArguments(max_new_tokens=12), model)
    return model.eval()


def export_of(model, tokenizer, folder):
    """Save a model as a run does, and convert it."""
    model.save_pretrained(folder / "run")
    tokenizer.save_pretrained(folder / "run")
    artifact.finish(folder / "run")
    return convert_to(folder / "export", folder / "run", tokenizer)


@pytest.mark.parametrize(("kind", "sizes"), MODELS)
def test_a_float32_export_gives_the_same_replies(tokenizer, tmp_path, kind, sizes):
    model = make(kind, sizes)
    exported = export_of(model, tokenizer, tmp_path)
    for options in ({}, {"num_beams": 4, "early_stopping": True}):
        expected = replies(model, tokenizer, **options)
        assert replies(exported, tokenizer, **options) == expected
        assert len({*map(tuple, expected)}) > 2
    assert exported.num_parameters() == model.num_parameters()


def test_every_family_is_in_the_table():
    assert {kind for kind, _ in MODELS} == LOADERS.keys()


@pytest.mark.parametrize(("kind", "tokens"), TOKENS)
def test_replies_begin_and_end_as_in_pytorch(tokenizer, tmp_path, kind, tokens):
    model = make(kind, BART)
    before = replies(model, tokenizer)
    model.generation_config.update(**tokens)
    exported = export_of(model, tokenizer, tmp_path)
    assert replies(exported, tokenizer) == replies(model, tokenizer) != before


def test_an_export_of_a_family_answers_by_its_folder(tokenizer, tmp_path):
    export_of(make("m2m_100", BART), tokenizer, tmp_path)
    model, exported = (load(tmp_path / name, "cpu", exported=True) for name in ("run", "export"))
    texts = [generate_response(context, *exported) for context in CONTEXTS]
    assert texts == [generate_response(context, *model) for context in CONTEXTS]
    tokens = read_json(tmp_path / "export" / "shared_vocabulary.json")
    assert len({*tokens}) == len(tokens) == 512


@pytest.mark.parametrize("options", [{"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 1}])
def test_options_that_look_at_an_end_token_before_the_reply_are_refused(
    tokenizer, tmp_path, options
):
    model = make("bart", BART)
    exported = export_of(model, tokenizer, tmp_path)
    assert replies(exported, tokenizer, **options) == replies(model, tokenizer, **options)
    exported.generation_config.decoder_start_token_id = END
    with pytest.raises(UsageError, match="since replies of this model begin with the end token"):
        exported.generate(**batch(tokenizer), **options)


def test_a_reply_longer_than_the_positions_is_refused(tokenizer, tmp_path):
    exported = export_of(make("bart", BART), tokenizer, tmp_path)
    with pytest.raises(UsageError, match="No position encodings are defined for positions >= 80"):
        exported.generate(**batch(tokenizer), max_new_tokens=90, min_new_tokens=90)
    with pytest.raises(ValueError, match="it must be at most 79: the model has 80 positions"):
        generate_response("Hi!", exported, tokenizer, max_new_tokens=90)


def test_models_that_cannot_be_exported_are_refused(make_rnn, tokenizer):
    with pytest.raises(UsageError, match="no CTranslate2 form, and decodes fast enough without"):
        check_convertible(make_rnn(), tokenizer)
    with pytest.raises(UsageError, match=r"A longt5 model cannot be exported, only t5, .*t5gemma2"):
        check_convertible(make("longt5", T5), tokenizer)
    model = make("t5gemma", T5GEMMA)
    check_convertible(model, tokenizer)
    model.config.encoder.sliding_window = 100
    with pytest.raises(UsageError, match="of 100 can be exported for contexts of at most 50 token"):
        check_convertible(model, tokenizer)
    with pytest.raises(UsageError, match=r"cannot convert this bart model \(KeyError: 'tanh'\)"):
        make_spec(make("bart", BART | {"activation_function": "tanh"}), tokenizer, "float32")
