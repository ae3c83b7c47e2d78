"""The discriminator of adversarial training: it tells human replies from generated ones."""

import torch
from torch import nn
from torch.nn import functional
from transformers.trainer_pt_utils import torch_pad_and_concatenate

from ..data.batching import IGNORE
from ..portable.configuration_rnn import RnnSeq2SeqConfig
from ..portable.modeling_rnn import RnnSeq2SeqModel


class Discriminator(nn.Module):
    """Tells human replies from generated ones, after each of their tokens.

    A recurrent encoder-decoder reads the context, then the reply. Its vector after a token gives
    the score of the reply so far; its vector before gives the baseline of that token's reward.
    """

    def __init__(self, config: RnnSeq2SeqConfig):
        super().__init__()
        self.config = config
        self.body = RnnSeq2SeqModel(config)
        self.score = nn.Linear(config.embedding_size, 1)
        self.baseline = nn.Linear(config.embedding_size, 1)
        nn.init.zeros_(self.baseline.weight)
        nn.init.constant_(self.baseline.bias, 0.5)

    def forward(self, input_ids, attention_mask, replies):
        """Score replies (batch, target_len) and all their prefixes.

        Returns scores (batch, target_len), logits of the reply up to a token being human, and
        baselines (batch, target_len) of the token's reward. Their gradient does not reach what the
        scores are computed from.
        """
        ids = functional.pad(replies, (1, 0), value=self.config.decoder_start_token_id)
        ids = ids.masked_fill(ids == IGNORE, self.config.pad_token_id)
        vectors = self.body(input_ids, attention_mask, ids)[0]  # (batch, 1 + target_len, embedding)
        scores = self.score(vectors[:, 1:]).squeeze(-1)
        return scores, self.baseline(vectors[:, :-1].detach()).squeeze(-1)

    def losses(self, inputs, sampled, of_prefixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Judge human replies (`labels`) and sampled ones once each, whole or up to a random token.

        Returns the cross-entropies (2 * batch,) of human and then of sampled replies, in nats, and
        whether each was recognised (2 * batch,), 0 or 1.
        """
        replies = torch_pad_and_concatenate(inputs["labels"], sampled, padding_index=IGNORE)
        lengths = replies.ne(IGNORE).sum(-1)
        last = lengths - 1
        if of_prefixes:
            last = (torch.rand(lengths.shape, device=lengths.device) * lengths).long()
        is_human = torch.arange(len(replies), device=replies.device) < len(sampled)
        contexts = (inputs[name].repeat(2, 1) for name in ("input_ids", "attention_mask"))
        scores = self(*contexts, replies)[0].gather(1, last[:, None]).squeeze(1)
        losses = functional.binary_cross_entropy_with_logits(
            scores, is_human.float(), reduction="none"
        )
        return losses, ((scores > 0) == is_human).float()


def at_last_token(values: torch.Tensor, replies: torch.Tensor) -> torch.Tensor:
    """Take the value at each reply's last token: (batch, target_len), twice -> (batch,)."""
    return values.gather(1, replies.ne(IGNORE).sum(-1, keepdim=True) - 1).squeeze(1)
