"""Encoder-decoders of transformers as CTranslate2 specs.

CTranslate2's own loaders, with what they miss of the models as transformers has them.
"""

import numpy as np
import torch
from ctranslate2.converters.transformers import (
    BartLoader,
    M2M100Loader,
    T5Gemma2Loader,
    T5GemmaLoader,
    T5Loader,
    UMT5Loader,
)
from ctranslate2.specs.model_spec import OPTIONAL

from ..errors import UsageError
from .exported_model import start_token_id


class ExactVocabulary:
    """What all loaders share: one token a row, and the special tokens of `generate`."""

    max_batch_size = 0  # contexts that are answered at once; 0 for all

    def get_vocabulary(self, model, tokenizer):
        # CTranslate2 gives rows without a token names of real ones, such as <extra_id_0>.
        tokens = {row: token for token, row in tokenizer.get_vocab().items()}
        rows = range(model.get_input_embeddings().num_embeddings)
        return [tokens.get(row, f"<unused_{row}>") for row in rows]

    def set_config(self, config, model, tokenizer):
        super().set_config(config, model, tokenizer)
        start = start_token_id(model.generation_config)
        start_token = self.get_vocabulary(model, tokenizer)[start]
        config.bos_token = config.decoder_start_token = start_token
        config.unk_token = tokenizer.unk_token or start_token
        if hasattr(model.config, "layer_norm_epsilon"):
            config.layer_norm_epsilon = model.config.layer_norm_epsilon


class ExactT5Loader(ExactVocabulary, T5Loader):
    """T5 and mT5, whose output is scaled only if their config says so."""

    def get_model_spec(self, model):
        spec = super().get_model_spec(model)
        # CTranslate2 looks at tie_word_embeddings, which transformers 5 sets for every T5.
        is_umt5 = model.config.model_type == "umt5"
        if not getattr(model.config, "scale_decoder_outputs", is_umt5):
            spec.decoder.scale_outputs = OPTIONAL
        return spec


class ExactUMT5Loader(ExactT5Loader, UMT5Loader):
    """UMT5, mended as T5 is."""


class ExactBartLoader(ExactVocabulary, BartLoader):
    """BART, and what has its layers; where they normalize, the modules say."""

    def get_model_spec(self, model):
        encoder = model.get_encoder()
        model.config.normalize_before = hasattr(encoder, "layer_norm")
        model.config.normalize_embedding = hasattr(encoder, "layernorm_embedding")
        return super().get_model_spec(model)


class ExactM2M100Loader(ExactBartLoader, M2M100Loader):
    """M2M100, whose table of positions begins with what padding has."""

    def set_position_encodings(self, spec, module):
        first = module.padding_idx + 1
        last = first + module.num_positions
        spec.encodings = module.get_embedding(last, module.embedding_dim)[first:]

    def set_decoder(self, spec, decoder):
        super().set_decoder(spec, decoder)
        if self.starts_with_padding:  # which has no position in transformers
            spec.position_encodings.encodings[0] = 0

    def get_model_spec(self, model):
        self.starts_with_padding = (
            start_token_id(model.generation_config) == model.config.pad_token_id
        )
        return super().get_model_spec(model)


class ExactGemmaLoader(ExactVocabulary):
    """Both T5Gemma; CTranslate2 has no attn_logit_softcapping, and loses it."""

    def get_model_spec(self, model):
        head = model.get_output_embeddings()
        spec = super().get_model_spec(model)
        self.set_linear(spec.decoder.projection, head)
        encoder, decoder = model.config.encoder.get_text_config(), model.config.decoder
        for side, config in ((spec.encoder, encoder), (spec.decoder, decoder)):
            scale = np.float32(config.query_pre_attn_scalar**-0.5)
            for layer in side.layer:
                layer.self_attention.queries_scale = scale
                if hasattr(layer, "attention"):
                    layer.attention.queries_scale = scale
        if decoder.final_logit_softcapping is not None:
            spec.decoder.final_logit_softcapping = np.float32(decoder.final_logit_softcapping)
        return spec


class ExactT5GemmaLoader(ExactGemmaLoader, T5GemmaLoader):
    """T5Gemma, whose config has the positions and the window of each side."""

    def get_model_spec(self, model):
        for side in (model.config.encoder, model.config.decoder):
            side.rope_theta = side.rope_parameters["rope_theta"]  # where CTranslate2 looks for it
        model.config.sliding_window = model.config.encoder.sliding_window
        return super().get_model_spec(model)


class ExactT5Gemma2Loader(ExactGemmaLoader, T5Gemma2Loader):
    """T5Gemma 2, a context at a time."""

    max_batch_size = 1  # CTranslate2 attends to the padding of a batch


LOADERS = {
    "t5": ExactT5Loader,
    "mt5": ExactT5Loader,
    "umt5": ExactUMT5Loader,
    "bart": ExactBartLoader,
    "mbart": ExactBartLoader,
    "plbart": ExactBartLoader,
    "blenderbot": ExactBartLoader,
    "pegasus": ExactBartLoader,
    "marian": ExactBartLoader,
    "m2m_100": ExactM2M100Loader,
    "t5gemma": ExactT5GemmaLoader,
    "t5gemma2": ExactT5Gemma2Loader,
}


def check_convertible(model, tokenizer) -> None:
    """Refuse a model for which there is no conversion."""
    kind = model.config.model_type
    if kind == "rnn_seq2seq":
        raise UsageError(
            "A recurrent model has no CTranslate2 form, and decodes fast enough without: answer "
            "with the run folder itself."
        )
    if kind not in LOADERS:
        raise UsageError(
            f"A {kind} model cannot be exported, only {', '.join(LOADERS)}: answer with the run "
            "folder itself."
        )
    if "gemma" in kind:
        check_window(model, tokenizer)


def check_window(model, tokenizer) -> None:
    """Refuse a T5Gemma whose contexts may be longer than what a token of it attends to."""
    window = model.config.encoder.get_text_config().sliding_window
    if window is not None and tokenizer.model_max_length > window // 2:
        raise UsageError(
            f"A T5Gemma with a sliding_window of {window} can be exported for contexts of at most "
            f"{window // 2} tokens, but max_source_length is {tokenizer.model_max_length}: answer "
            "with the run folder itself."
        )


@torch.no_grad()
def make_spec(model, tokenizer, quantization: str):
    """Turn a model into a CTranslate2 spec, which `save` writes; the model is used up."""
    kind = model.config.model_type
    try:
        spec = LOADERS[kind]()(model, tokenizer)
        spec.validate()
        spec.optimize(quantization)
    except Exception as error:  # of any kind, from the depth of a loader
        raise UsageError(
            f"CTranslate2 cannot convert this {kind} model ({type(error).__name__}: {error}): "
            "answer with the run folder itself."
        ) from error
    return spec
