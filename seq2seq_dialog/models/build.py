"""Models: a checkpoint to fine-tune, or a new one from a config."""

from __future__ import annotations

import logging
from pathlib import Path

import yaml
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from ..errors import UsageError, nearest
from ..portable.configuration_rnn import RnnSeq2SeqConfig
from ..portable.context import TURN_SEPARATOR
from ..settings import DataArguments, DecodingArguments, ModelArguments

logger = logging.getLogger(__name__)
# Training in fp16 gives inf and NaN: the activations of these models exceed 65,504.
FP16_UNSAFE = {"t5", "mt5", "umt5", "longt5", "switch_transformers"}


def load_model(args: ModelArguments, tokenizer):
    """Load the checkpoint to fine-tune, or make the new model that `args` describes.

    The embedding grows only where the checkpoint has no spare row for `__eou__` (T5 has 28).
    """
    if args.model_name_or_path is None:
        config = _new_config(args.new_model, tokenizer)
        try:
            model = AutoModelForSeq2SeqLM.from_config(config)
        except ValueError as error:
            raise UsageError(
                f"new_model: {config.model_type} is no encoder-decoder model with a language head; "
                "take t5, bart, ..."
            ) from error
    else:
        model = _from_pretrained(AutoModelForSeq2SeqLM, args.model_name_or_path, args)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        try:
            model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=64)
        except NotImplementedError as error:
            raise UsageError(
                f"{TURN_SEPARATOR} needs a row of its own in the embedding, but a "
                f"{type(model).__name__} cannot grow one; choose another checkpoint."
            ) from error
    return model


def from_hub(data: DataArguments, args: ModelArguments, model) -> dict[str, str | None]:
    """Tell which settings name something on the Hub, not a folder, and the commit where known."""
    given = {"dataset_name": data.dataset_name}
    given |= {n: getattr(args, n) for n in ("model_name_or_path", "tokenizer_name_or_path")}
    commits = {"model_name_or_path": getattr(model.config, "_commit_hash", None)}
    return {n: commits.get(n) for n, x in given.items() if x is not None and not Path(x).exists()}


def check_lengths(model, data: DataArguments, decoding: DecodingArguments) -> None:
    """Refuse lengths for which a model has no positions (BART has 1,024, Blenderbot 128).

    T5's positions are relative and know no limit.

    Raises:
        UsageError: names the setting, its value and the limit.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None:
        return
    lengths = {name: getattr(data, name) for name in ("max_source_length", "max_target_length")}
    lengths["max_new_tokens"] = decoding.max_new_tokens + 1  # behind the start token
    for name, length in lengths.items():
        if length > limit:
            most = limit - 1 if name == "max_new_tokens" else limit
            raise UsageError(f"{name} must be at most {most}: the model has {limit} positions.")


def _new_config(new_model: str, tokenizer):
    """Make the config of a new model; its vocabulary and special tokens are the tokenizer's."""
    try:
        sizes = yaml.safe_load(new_model)
        model_type = sizes.pop("model_type")
        config = AutoConfig.for_model(model_type)
    except (yaml.YAMLError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UsageError(
            f"new_model is {new_model!r}; it must be a mapping with a known model_type and sizes, "
            "for example {model_type: t5, d_model: 256, num_layers: 4}."
        ) from error
    for key in sizes:
        if not hasattr(config, key):
            known = config.to_dict()
            raise UsageError(
                f"new_model: a {model_type} config has no {key!r}.{nearest(key, known)}"
            )
    vocab_size = -(-len(tokenizer) // 64) * 64  # rounded up: faster matrix products
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    start = tokenizer.pad_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    ids |= {"bos_token_id": tokenizer.bos_token_id, "decoder_start_token_id": start}
    try:
        return AutoConfig.for_model(model_type, **{"vocab_size": vocab_size, **ids, **sizes})
    except (ValueError, TypeError) as error:
        raise UsageError(f"new_model: {error}") from error


def discriminator_config(sizes: str | None, generator) -> RnnSeq2SeqConfig:
    """Make the config of a discriminator for the vocabulary of `generator`.

    Raises:
        UsageError: `sizes` is no mapping, or has what a recurrent model has not.
    """
    known = {"embedding_size", "hidden_size", "num_layers", "cell", "bidirectional", "attention"}
    known |= {"input_feeding", "dropout"}
    try:
        sizes = dict(yaml.safe_load(sizes or "{}"))
        for key in sizes:
            if key not in known:
                raise ValueError(f"there is no {key!r}.{nearest(key, known)}")
        ids = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
        ids = {name: getattr(generator.config, name) for name in ids}
        vocab_size = generator.get_input_embeddings().num_embeddings
        defaults = {"embedding_size": 128, "hidden_size": 256}
        return RnnSeq2SeqConfig(vocab_size=vocab_size, **ids, **(defaults | sizes))
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise UsageError(
            f"discriminator: {error} It takes sizes, for example "
            "{embedding_size: 128, hidden_size: 256, num_layers: 1}."
        ) from error


def _from_pretrained(auto_class, name: str, args: ModelArguments):
    """Load `name`, or say in one message why that cannot be done and what to do."""
    options = {"revision": args.model_revision, "trust_remote_code": args.trust_remote_code}
    if auto_class is AutoModelForSeq2SeqLM:
        options["dtype"] = "float32"  # the weights an optimizer updates; autocast does the rest
    try:
        return auto_class.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError) as error:
        what = "tokenizer" if auto_class is AutoTokenizer else "encoder-decoder checkpoint"
        reason = " ".join(str(error).split())
        raise UsageError(
            f"Cannot load the {what} {name!r}. Give a folder with a saved model or the name of a "
            "public model on the Hub such as google-t5/t5-small, and check the network (for a "
            f"private one, log in with `hf auth login`). The reason given: {reason[:400]}"
        ) from error
