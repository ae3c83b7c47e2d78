"""The configuration of a recurrent sequence-to-sequence model."""

from __future__ import annotations

from typing import ClassVar

from transformers import PretrainedConfig

CELLS = ("gru", "lstm")
ATTENTIONS = ("none", "additive", "multiplicative")


class RnnSeq2SeqConfig(PretrainedConfig):
    """Sizes and forms of an `RnnSeq2SeqForConditionalGeneration`.

    Args:
        vocab_size: rows of the embedding.
        embedding_size: size of a token's vector, and of the vector that scores the vocabulary.
        hidden_size: size of a decoder state, and of an encoder state (both directions together).
        num_layers: layers of the encoder, and as many of the decoder.
        cell: `gru` (Cho et al., 2014) or `lstm` (Hochreiter & Schmidhuber, 1997).
        bidirectional: the encoder reads both ways, with half of `hidden_size` each.
        attention: `none` (Sutskever et al., 2014: the decoder knows the source by its first state
            alone), `additive` (Bahdanau et al., 2015) or `multiplicative` (Luong et al., 2015,
            general score).
        input_feeding: the last attentional vector is input to the next step (Luong et al., 2015,
            section 3.3); with multiplicative attention only.
        dropout: probability of dropping a feature, by one mask for all steps of a sequence (Gal &
            Ghahramani, 2016).
        tie_word_embeddings: score the vocabulary with the input embedding.
        initializer_range: standard deviation of the embedding's first values.
    """

    model_type = "rnn_seq2seq"
    attribute_map: ClassVar = {"num_hidden_layers": "num_layers"}

    def __init__(
        self,
        vocab_size: int = 8000,
        embedding_size: int = 256,
        hidden_size: int = 512,
        num_layers: int = 1,
        cell: str = "gru",
        bidirectional: bool = True,
        attention: str = "multiplicative",
        input_feeding: bool = False,
        dropout: float = 0.2,
        tie_word_embeddings: bool = False,
        initializer_range: float = 0.1,
        pad_token_id: int | None = 0,
        eos_token_id: int | None = 1,
        bos_token_id: int | None = None,
        decoder_start_token_id: int | None = 0,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.embedding_size = embedding_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.cell = cell
        self.bidirectional = bidirectional
        self.attention = attention
        self.input_feeding = input_feeding
        self.dropout = dropout
        self.initializer_range = initializer_range
        if cell not in CELLS:
            raise ValueError(f"cell is {cell!r}; it must be one of {', '.join(CELLS)}.")
        if attention not in ATTENTIONS:
            raise ValueError(f"attention is {attention!r}; it must be {', '.join(ATTENTIONS)}.")
        if input_feeding and attention != "multiplicative":
            raise ValueError(
                f"input_feeding goes with multiplicative attention; attention is {attention!r}."
            )
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_layers"):
            size = getattr(self, name)
            if type(size) is not int or size < 1:
                raise ValueError(f"{name} is {size!r}; it must be a whole number of at least 1.")
        if bidirectional and hidden_size % 2:
            raise ValueError(f"hidden_size is {hidden_size}; a bidirectional encoder halves it.")
        if not isinstance(dropout, (int, float)) or not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout!r}; it must be at least 0 and below 1.")
        kwargs["is_encoder_decoder"] = True
        super().__init__(
            tie_word_embeddings=tie_word_embeddings,
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id,
            bos_token_id=bos_token_id,
            decoder_start_token_id=decoder_start_token_id,
            **kwargs,
        )


RnnSeq2SeqConfig.register_for_auto_class()
