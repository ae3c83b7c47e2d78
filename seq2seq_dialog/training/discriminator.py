"""The discriminators of adversarial training, which tell human replies from generated ones.

Each scores a reply after each of its tokens: the logit of the reply so far being human. And each
says, before a token, which reward that token will have on the average, its baseline.
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import torch_pad_and_concatenate

from ..data.batching import IGNORE
from ..errors import UsageError
from ..method_settings import AdversarialArguments
from ..models.build import discriminator_config, load_model
from ..models.tokenizer import load_tokenizer
from ..portable.modeling_rnn import RnnSeq2SeqModel
from ..settings import ModelArguments
from .evaluating import token_nll


class Classifier(nn.Module):
    """Scores the states of an encoder-decoder that reads the context, then the reply.

    Its state after a token gives the score of the reply so far; its state before gives the baseline
    of that token's reward.
    """

    def __init__(self, body: PreTrainedModel):
        super().__init__()
        self.body = body
        self.score = nn.Linear(body.get_input_embeddings().embedding_dim, 1)
        self.baseline = _make_baseline(body)

    def forward(self, input_ids, attention_mask, replies):
        """Score replies (batch, target_len) and all their prefixes.

        Returns scores (batch, target_len), logits of the reply up to a token being human, and
        baselines (batch, target_len) of the token's reward. Their gradient does not reach what the
        scores are computed from.
        """
        outputs = _read(self.body, input_ids, attention_mask, replies)
        states = _states(outputs)  # (batch, 1 + target_len, size)
        scores = self.score(states[:, 1:]).squeeze(-1)
        return scores, self.baseline(states[:, :-1].detach()).squeeze(-1)

    def losses(self, inputs, sampled, of_prefixes: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Judge human replies (`labels`), sampled ones, and human ones after another's context.

        Whole, or (`of_prefixes`) after each token. Human replies weigh as much as both others.

        Returns the mean cross-entropy in nats, and which share of the positions of each human
        reply, then of each sampled one, was recognised, (2 * batch,).
        """
        human = inputs["labels"]
        kinds = [human, sampled, human] if len(human) > 1 else [human, sampled]
        replies = human
        for kind in kinds[1:]:
            replies = torch_pad_and_concatenate(replies, kind, padding_index=IGNORE)
        contexts = (
            torch.cat([inputs[name], inputs[name], inputs[name].roll(1, 0)])[: len(replies)]
            for name in ("input_ids", "attention_mask")
        )
        scores, _ = self(*contexts, replies)  # (kinds * batch, target_len)
        weights = replies.ne(IGNORE).float()
        if not of_prefixes:
            weights = weights * (weights.cumsum(1) == weights.sum(1, keepdim=True))
        weights = weights / weights.sum(1, keepdim=True)
        is_human = torch.arange(len(replies), device=replies.device)[:, None] < len(human)
        targets = is_human.float().expand_as(scores)
        losses = functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
        losses = (losses * weights).sum(1).view(len(kinds), -1).mean(1)  # of each kind
        recognised = (weights * ((scores > 0) == is_human)).sum(1)[: 2 * len(human)]
        return (losses[0] + losses[1:].mean()) / 2, recognised


class LikelihoodRatio(nn.Module):
    """Scores a reply by its likelihood under a language model over that under the generator.

    The sum over tokens of log p(y[t]) under the one less that under the other is the logit of the
    best discriminator there is, if the model writes as people do (Goodfellow et al., 2014, prop.
    1). The model stays as it is, and the ratio follows the generator without being trained.
    """

    def __init__(self, body: PreTrainedModel, generator_nll: Callable[..., torch.Tensor]):
        super().__init__()
        self.body = body.requires_grad_(False)
        self.baseline = _make_baseline(body)
        self.generator_nll = generator_nll

    def forward(self, input_ids, attention_mask, replies):
        """Score replies (batch, target_len) and all their prefixes, as `Classifier.forward`."""
        with torch.no_grad():
            outputs = _read(self.body, input_ids, attention_mask, replies)
            nll = token_nll(outputs.logits[:, :-1], replies)  # (batch, target_len)
            ratios = self.generator_nll(input_ids, attention_mask, replies) - nll
        return ratios.cumsum(1), self.baseline(_states(outputs)[:, :-1]).squeeze(-1)


def make_discriminator(
    settings: AdversarialArguments, generator, tokenizer, generator_nll: Callable[..., torch.Tensor]
) -> Classifier | LikelihoodRatio:
    """Make the discriminator that `settings` describe.

    Args:
        generator_nll: computes the generator's negative log-likelihood of each token in nats, of
            `input_ids`, `attention_mask` and replies (batch, target_len).
    """
    mapping = settings.discriminator_mapping()
    if "form" not in mapping:
        return Classifier(RnnSeq2SeqModel(discriminator_config(mapping, generator)))
    args = ModelArguments(model_name_or_path=mapping["model_name_or_path"])
    own = load_tokenizer(args, tokenizer.model_max_length)
    if own.get_vocab() != tokenizer.get_vocab():
        raise UsageError(
            f"The discriminator {args.model_name_or_path!r} has another tokenizer than the "
            "generator, but it judges the generator's tokens one by one. Train the generator with "
            f"tokenizer_name_or_path {args.model_name_or_path}, or choose a discriminator with "
            "the generator's."
        )
    body = load_model(args, own)
    if mapping["form"] == "ratio":
        return LikelihoodRatio(body, generator_nll)
    return Classifier(body.base_model)  # T5's is the whole


def at_last_token(
    values: torch.Tensor, replies: torch.Tensor, of_first: int | None = None
) -> torch.Tensor:
    """Take the value at each reply's last token, or at the last `of_first` its first tokens.

    (batch, target_len), twice -> (batch,).
    """
    lengths = replies.ne(IGNORE).sum(-1, keepdim=True)
    if of_first is not None:
        lengths = lengths.clamp(max=of_first)
    return values.gather(1, lengths - 1).squeeze(1)


def _make_baseline(body: PreTrainedModel) -> nn.Linear:
    baseline = nn.Linear(body.get_input_embeddings().embedding_dim, 1)
    nn.init.zeros_(baseline.weight)
    nn.init.constant_(baseline.bias, 0.5)
    return baseline


def _read(body: PreTrainedModel, input_ids, attention_mask, replies):
    """Run an encoder-decoder over contexts, and over the start token and replies."""
    ids = functional.pad(replies, (1, 0), value=body.config.decoder_start_token_id)
    ids = ids.masked_fill(ids == IGNORE, body.config.pad_token_id)
    options = {} if isinstance(body, RnnSeq2SeqModel) else {"output_hidden_states": True}
    return body(
        input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=ids, **options
    )


def _states(outputs) -> torch.Tensor:
    """Return the decoder's last states, (batch, 1 + target_len, size)."""
    return outputs[0] if isinstance(outputs, tuple) else outputs.decoder_hidden_states[-1]
