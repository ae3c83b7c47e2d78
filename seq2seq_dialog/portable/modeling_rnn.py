"""Recurrent sequence-to-sequence models, without and with attention, for transformers 5 and 4.57.

The encoder runs cuDNN's fused kernels over packed sequences. Under teacher forcing the decoder does
so, too, where the input of each step is known beforehand:

    attention                          the input of step t              under teacher forcing
    none                               y[t-1]                           fused
    multiplicative                     y[t-1]                           fused, one attention for all
    multiplicative with input feeding  y[t-1], attentional vector t-1   step by step
    additive                           y[t-1], context of state t-1     step by step

In the last two, the cell needs what the attention computed at the step before, so that no kernel
can run all steps of the cell at once. Scoring the vocabulary, which is most of the arithmetic, is
done for all steps at once in each form.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import ModelOutput, Seq2SeqLMOutput

from .configuration_rnn import RnnSeq2SeqConfig

IGNORE = -100  # labels that are padding


def shift_right(labels: torch.Tensor, pad_token_id: int, start_token_id: int) -> torch.Tensor:
    """Make decoder inputs of labels: the start token, then all but the last. (batch, target_len)"""
    shifted = labels.new_full(labels.shape, start_token_id)
    shifted[:, 1:] = labels[:, :-1]
    return shifted.masked_fill(shifted == IGNORE, pad_token_id)


@dataclass
class RnnState:
    """What decoding keeps of the target so far."""

    state: torch.Tensor  # (batch, states, layers, hidden); a GRU has one, an LSTM hidden and cell
    feed: torch.Tensor | None  # (batch, embedding), the last attentional vector; input feeding only
    length: int  # tokens read

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the tokens read, the same in each layer; `generate()` asks for it."""
        return self.length

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the rows `beam_idx` (batch,), those of the beams that are continued."""
        self.state = self.state.index_select(0, beam_idx)
        if self.feed is not None:
            self.feed = self.feed.index_select(0, beam_idx)


@dataclass
class RnnEncoderOutput(ModelOutput):
    """What the decoder needs of the source, computed once."""

    last_hidden_state: torch.Tensor | None = None  # (batch, source_len, hidden), 0 at padding
    state: torch.Tensor | None = None  # (batch, states, layers, hidden), the decoder's first
    attention_keys: torch.Tensor | None = None  # (batch, source_len, hidden)


class VariationalDropout(nn.Dropout):
    """Dropout with one mask for all steps of a sequence (Gal & Ghahramani, 2016)."""

    def mask(self, batch_size: int, size: int, like: torch.Tensor) -> torch.Tensor | None:
        """Draw a mask (batch, size), scaled to keep the mean; None where nothing is dropped."""
        if not self.training or self.p == 0:
            return None
        return functional.dropout(like.new_ones(batch_size, size), self.p)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Drop the same features at each step of (batch, length, size)."""
        mask = self.mask(inputs.shape[0], inputs.shape[-1], inputs)
        return inputs if mask is None else inputs * mask.unsqueeze(1)


def _layers(config: RnnSeq2SeqConfig, input_size: int, hidden_size: int, bidirectional: bool):
    """Make a module for each layer, so that variational dropout can go between them."""
    rnn = nn.GRU if config.cell == "gru" else nn.LSTM
    sizes = [input_size] + [config.hidden_size] * (config.num_layers - 1)
    return nn.ModuleList(
        rnn(size, hidden_size, batch_first=True, bidirectional=bidirectional) for size in sizes
    )


def _full_precision(like: torch.Tensor):
    """Keep autocast out: it would run cuDNN's recurrent kernels in fp16 where bf16 is asked for."""
    return torch.autocast(like.device.type, enabled=False)


class RnnEncoder(nn.Module):
    """Source ids to states, their keys for attention, and the decoder's first state."""

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.embedding_size)
        self.dropout = VariationalDropout(config.dropout)
        directions = 2 if config.bidirectional else 1
        hidden_size = config.hidden_size // directions
        self.layers = _layers(config, config.embedding_size, hidden_size, config.bidirectional)
        states = 1 if config.cell == "gru" else 2
        self.bridge = nn.ModuleList(
            nn.Linear(config.hidden_size, config.hidden_size)
            for _ in range(states * config.num_layers)
        )
        self.key = None
        if config.attention != "none":
            self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, input_ids, attention_mask=None, **kwargs) -> RnnEncoderOutput:
        """Encode (batch, source_len) ids; padding, on the right, changes no state."""
        batch_size, source_len = input_ids.shape
        if attention_mask is None:
            lengths = torch.full((batch_size,), source_len)
        else:
            mask = attention_mask.cpu().bool()
            lengths = mask.sum(-1)
            if not mask[:, 0].all() or (mask[:, 1:] > mask[:, :-1]).any():
                raise ValueError(
                    "Each row of attention_mask must be ones, then zeros: pad on the right."
                )
        embedded = self.dropout(self.embedding(input_ids))
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        finals = []
        for i, layer in enumerate(self.layers):
            if i > 0:
                packed = self._drop(packed, batch_size)
            packed = packed._replace(data=packed.data.to(layer.weight_ih_l0.dtype))
            with _full_precision(packed.data):
                packed, final = layer(packed)
            final = torch.stack(final if isinstance(final, tuple) else (final,))
            # (states, directions, batch, size) -> (batch, states, directions * size)
            finals.append(final.permute(2, 0, 1, 3).flatten(2))
        hidden, _ = pad_packed_sequence(packed, batch_first=True, total_length=source_len)
        final = torch.stack(finals, dim=2)  # (batch, states, layers, hidden)
        flat = final.flatten(1, 2).unbind(1)  # (batch, hidden) of each state and layer
        bridged = [linear(x) for linear, x in zip(self.bridge, flat, strict=True)]
        state = torch.tanh(torch.stack(bridged, dim=1)).view_as(final)
        return RnnEncoderOutput(hidden, state, None if self.key is None else self.key(hidden))

    def _drop(self, packed: PackedSequence, batch_size: int) -> PackedSequence:
        mask = self.dropout.mask(batch_size, packed.data.shape[-1], packed.data)
        if mask is None:
            return packed
        # Step t holds the first batch_sizes[t] of the rows, sorted by length.
        rows = torch.cat([packed.sorted_indices[:size] for size in packed.batch_sizes.tolist()])
        return packed._replace(data=packed.data * mask[rows])


class RnnAttention(nn.Module):
    """Weights over the source from decoder states.

    Additive (Bahdanau et al., 2015): v . tanh(W s + U h); multiplicative (Luong et al., 2015,
    "general"): s . W h. The encoder has computed U h or W h already.
    """

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__()
        self.additive = config.attention == "additive"
        if self.additive:
            self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            self.energy = nn.Linear(config.hidden_size, 1, bias=False)

    def forward(self, states, encoded: RnnEncoderOutput, padding):
        """Return context and weights for states (batch, target_len, hidden).

        `padding` is (batch, 1, source_len), True where there is padding.
        """
        if self.additive:
            query = self.query(states).unsqueeze(2)  # (batch, target_len, 1, hidden)
            keys = encoded.attention_keys.unsqueeze(1)  # (batch, 1, source_len, hidden)
            scores = self.energy(torch.tanh(query + keys)).squeeze(-1)
        else:
            scores = states @ encoded.attention_keys.transpose(1, 2)
        # (batch, target_len, source_len)
        weights = scores.float().masked_fill(padding, -torch.inf).softmax(-1).to(scores.dtype)
        return weights @ encoded.last_hidden_state, weights  # (batch, target_len, hidden)


class RnnDecoder(nn.Module):
    """Embedded target tokens to the vectors that score the vocabulary (see the table above)."""

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__()
        self.feeds = config.input_feeding
        self.dropout = VariationalDropout(config.dropout)
        additive = config.attention == "additive"
        self.by_step = additive or self.feeds
        self.lstm = config.cell == "lstm"
        input_size = config.embedding_size
        if self.by_step:  # the context or the attentional vector is input as well
            input_size += config.hidden_size if additive else config.embedding_size
        self.layers = _layers(config, input_size, config.hidden_size, False)
        self.attention = None if config.attention == "none" else RnnAttention(config)
        inputs = config.hidden_size * (1 if self.attention is None else 2)
        self.readout = nn.Linear(inputs, config.embedding_size)

    def forward(self, embedded, encoded: RnnEncoderOutput, padding, past: RnnState | None = None):
        """Decode (batch, target_len, embedding) from the source or from `past`.

        Returns vectors of that shape, the last state, and the weights of the attention or None.
        """
        state = encoded.state if past is None else past.state
        states = list(state.unbind(2))  # of each layer, (batch, states, hidden)
        embedded = self.dropout(embedded)
        if self.by_step:
            feed = embedded.new_zeros(embedded[:, 0].shape) if past is None else past.feed
            vectors, feed, weights = self._steps(embedded, encoded, padding, states, feed)
        else:
            hidden, feed = embedded, None
            for i, layer in enumerate(self.layers):
                hidden = self.dropout(hidden) if i > 0 else hidden
                first = states[i].transpose(0, 1).contiguous()  # (states, batch, hidden)
                first = first.to(layer.weight_ih_l0.dtype)
                hidden = hidden.to(layer.weight_ih_l0.dtype)
                with _full_precision(hidden):
                    hidden, final = layer(hidden, first.split(1) if self.lstm else first)
                states[i] = (torch.cat(final) if self.lstm else final).transpose(0, 1)
            vectors, weights = self._read(hidden, encoded, padding)
        length = embedded.shape[1] + (0 if past is None else past.length)
        return vectors, RnnState(torch.stack(states, dim=2), feed, length), weights

    def _read(self, hidden, encoded, padding):
        if self.attention is None:
            return torch.tanh(self.readout(hidden)), None
        context, weights = self.attention(hidden, encoded, padding)
        return torch.tanh(self.readout(torch.cat([hidden, context], dim=-1))), weights

    def _steps(self, embedded, encoded, padding, states, feed):
        """Run the forms whose cell needs a result of the attention; change `states` in place."""
        batch_size = embedded.shape[0]
        masks = [self.dropout.mask(batch_size, states[0].shape[-1], embedded) for _ in self.layers]
        hiddens, contexts, vectors, weights = [], [], [], []
        for step in embedded.unbind(1):
            if not self.feeds:
                context, weight = self.attention(states[-1][:, :1], encoded, padding)
                contexts.append(context)
                feed = context[:, 0]
            inputs = torch.cat([step, feed], dim=-1)
            for i, layer in enumerate(self.layers):
                if i > 0 and masks[i] is not None:
                    inputs = inputs * masks[i]
                inputs, states[i] = self._cell(layer, inputs, states[i])
            if self.feeds:
                vector, weight = self._read(inputs.unsqueeze(1), encoded, padding)
                vectors.append(vector)
                feed = vector[:, 0]
            else:
                hiddens.append(inputs)
            weights.append(weight)
        weights = torch.cat(weights, dim=1)
        if self.feeds:
            return torch.cat(vectors, dim=1), feed, weights
        read = torch.cat([torch.stack(hiddens, dim=1), torch.cat(contexts, dim=1)], dim=-1)
        return torch.tanh(self.readout(read)), None, weights

    def _cell(self, layer, inputs, state):
        """Run one step of a layer: (batch, input), (batch, states, hidden) -> hidden, state."""
        weights = (layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0)
        if self.lstm:
            hidden, cell = torch.lstm_cell(inputs, tuple(state.unbind(1)), *weights)
            return hidden, torch.stack([hidden, cell], dim=1)
        hidden = torch.gru_cell(inputs, state[:, 0], *weights)
        return hidden, hidden.unsqueeze(1)


class RnnSeq2SeqPreTrainedModel(PreTrainedModel):
    """Initialises the weights."""

    config_class = RnnSeq2SeqConfig
    base_model_prefix = "model"
    _is_stateful = True  # a state cannot go back, so there is no assisted decoding

    def _init_weights(self, module):
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, (nn.GRU, nn.LSTM)):
            for name, parameter in module.named_parameters():
                if getattr(parameter, "_is_hf_initialized", False):
                    continue  # it is loaded already
                if name.startswith("bias"):
                    nn.init.zeros_(parameter)
                    if isinstance(module, nn.LSTM) and name.startswith("bias_ih"):
                        # The forget gate starts open (Jozefowicz et al., 2015).
                        nn.init.ones_(parameter.data[module.hidden_size : 2 * module.hidden_size])
                else:
                    init = nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_
                    for gate in parameter.data.split(module.hidden_size):
                        init(gate)


class RnnSeq2SeqModel(RnnSeq2SeqPreTrainedModel):
    """Encoder and decoder, without a vocabulary to score."""

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__(config)
        self.encoder = RnnEncoder(config)
        self.decoder = RnnDecoder(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.encoder.embedding

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.encoder.embedding = value

    def forward(self, input_ids, attention_mask, decoder_input_ids, encoded=None, past=None):
        """Run both; return what `RnnDecoder.forward` does, and the encoder's output."""
        if encoded is None:
            encoded = self.encoder(input_ids, attention_mask)
        if attention_mask is None:
            attention_mask = encoded.last_hidden_state.new_ones(encoded.last_hidden_state.shape[:2])
        padding = attention_mask.eq(0).unsqueeze(1)
        embedded = self.encoder.embedding(decoder_input_ids)
        return (*self.decoder(embedded, encoded, padding, past), encoded)


class RnnSeq2SeqForConditionalGeneration(RnnSeq2SeqPreTrainedModel, GenerationMixin):
    """A recurrent encoder-decoder with a language head, for `generate()`.

    Cho et al. (2014), Sutskever et al. (2014); attention of Bahdanau et al. (2015) or Luong et al.
    (2015). The vocabulary is scored from an attentional vector tanh(W [state; context]) as in Luong
    et al. (2015, eq. 5), but of `embedding_size`.
    """

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__(config)
        self.model = RnnSeq2SeqModel(config)
        self.dropout = VariationalDropout(config.dropout)
        self.lm_head = None
        if not config.tie_word_embeddings:
            self.lm_head = nn.Linear(config.embedding_size, config.vocab_size, bias=False)
        self.post_init()

    def get_encoder(self, *args, **kwargs) -> RnnEncoder:
        """Return the encoder, which `generate()` runs once."""
        return self.model.encoder

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Make decoder inputs of labels, (batch, target_len)."""
        return shift_right(labels, self.config.pad_token_id, self.config.decoder_start_token_id)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        encoder_outputs: RnnEncoderOutput | None = None,
        past_key_values: RnnState | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Seq2SeqLMOutput:
        """Score the vocabulary at each target position.

        Args:
            input_ids, attention_mask: (batch, source_len), padded on the right.
            decoder_input_ids: (batch, target_len); by default the labels shifted to the right.
            past_key_values: the state so far; then only the tokens after it are given.
            labels: (batch, target_len), -100 where there is padding; `loss` is the mean over them.
            output_attentions: return the attention weights, as one layer of one head.
            output_hidden_states: return what scores the vocabulary, as one layer of the decoder.
        """
        if decoder_input_ids is None and labels is not None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        vectors, state, weights, encoded = self.model(
            input_ids, attention_mask, decoder_input_ids, encoder_outputs, past_key_values
        )
        vectors = self.dropout(vectors)
        head = self.get_input_embeddings() if self.lm_head is None else self.lm_head
        logits = functional.linear(vectors, head.weight)  # (batch, target_len, vocab)
        loss, attentions = None, None
        if labels is not None:
            loss = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        if output_attentions and weights is not None:
            attentions = (weights.unsqueeze(1),)  # (batch, 1, target_len, source_len)
        use_cache = not self.training if use_cache is None else use_cache
        output = Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=state if use_cache else None,
            decoder_hidden_states=(vectors,) if output_hidden_states else None,
            cross_attentions=attentions,
            encoder_last_hidden_state=encoded.last_hidden_state,
        )
        return output.to_tuple() if return_dict is False else output

    # Generation

    def prepare_inputs_for_generation(self, input_ids, past_key_values=None, **kwargs):
        """Give the next step the tokens that the state has not read."""
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        names = ("encoder_outputs", "attention_mask", "use_cache", "output_attentions")
        inputs = {name: kwargs.get(name) for name in names}
        inputs["decoder_input_ids"] = input_ids[:, seen:]
        return inputs | {"past_key_values": past_key_values}

    def _prepare_cache_for_generation(self, *args, **kwargs):
        """Make no cache beforehand: the first step returns its state."""


RnnSeq2SeqForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
