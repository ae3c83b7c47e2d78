"""Tokenizer and model: a checkpoint to fine-tune, or new ones from a config."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
import yaml
from transformers import (
    AddedToken,
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    T5Tokenizer,
)

from .arguments import DataArguments, DecodingArguments, ModelArguments, UsageError, nearest
from .portable.configuration_rnn import RnnSeq2SeqConfig
from .portable.context import TURN_SEPARATOR, chat_template

logger = logging.getLogger(__name__)

# Training in fp16 gives inf and NaN: the activations of these models exceed 65,504.
FP16_UNSAFE = {"t5", "mt5", "umt5", "longt5", "switch_transformers"}


def train_tokenizer(utterances: Iterable[str], vocab_size: int, folder: str | Path) -> None:
    """Train a sentencepiece unigram tokenizer for T5 and save it, `spiece.model`, in `folder`.

    Args:
        utterances: training text; at most a million of them are used.
        vocab_size: pieces wanted; a small corpus may give fewer.
        folder: created where it is missing.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "spiece.tmp", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(utterances),
            model_writer=file,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=0.9999,
            input_sentence_size=1_000_000,
            shuffle_input_sentence=False,
            num_threads=1,  # more would make the pieces depend on the machine
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            pad_piece="<pad>",
            minloglevel=2,
        )
    (folder / "spiece.tmp").replace(folder / "spiece.model")


def load_tokenizer(args: ModelArguments, max_source_length: int, trained: str | Path | None = None):
    """Load the tokenizer that `args` names, or the one that `train_tokenizer` left in `trained`."""
    name = args.tokenizer_name_or_path or args.model_name_or_path
    if name is None:
        tokenizer = T5Tokenizer.from_pretrained(trained, extra_ids=0)
    else:
        tokenizer = _from_pretrained(AutoTokenizer, name, args)
    return prepare_tokenizer(tokenizer, max_source_length)


def prepare_tokenizer(tokenizer, max_source_length: int):
    """Teach a tokenizer a dialogue's form: `__eou__` as one token, chat template, left cut.

    Raises:
        UsageError: the tokenizer reads a turn differently behind `__eou__` than at the start, so
            that turns cannot be tokenised one by one.
    """
    separator = AddedToken(TURN_SEPARATOR, lstrip=True, rstrip=True, special=True, normalized=False)
    tokenizer.add_tokens([separator], special_tokens=True)
    tokenizer.truncation_side = "left"
    tokenizer.model_max_length = max_source_length
    turns = ["How are you?", "Fine, thanks!"]
    first, second = tokenizer(turns, add_special_tokens=False)["input_ids"]
    joined = tokenizer(f" {TURN_SEPARATOR} ".join(turns), add_special_tokens=False)["input_ids"]
    if joined != [*first, tokenizer.convert_tokens_to_ids(TURN_SEPARATOR), *second]:
        raise UsageError(
            f"The tokenizer {tokenizer.name_or_path!r} ({type(tokenizer).__name__}) reads a turn "
            f"differently after {TURN_SEPARATOR}; choose a checkpoint with another tokenizer."
        )
    tokenizer.chat_template = chat_template(tokenizer)
    return tokenizer


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


def bare_decoding(own: GenerationConfig, temperature: float) -> GenerationConfig:
    """Make settings that sample from a model's bare distribution; temperature 0 is greedy.

    Only special tokens and the greatest length remain of the model's `own` settings. To be put in
    their place, not given to `generate()`, which would fill in from them what is unset here. top_k
    is said, since `generate()` takes 50 where nothing is.
    """
    ids = ("decoder_start", "bos", "eos", "pad", "forced_bos", "forced_eos")
    settings = {f"{name}_token_id": getattr(own, f"{name}_token_id", None) for name in ids}
    longest = own.max_new_tokens or own.max_length or DecodingArguments.max_new_tokens
    settings |= {"max_new_tokens": longest, "num_beams": 1, "do_sample": temperature != 0}
    if temperature != 0:
        settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(**settings)


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


def generation_config(args: DecodingArguments, model) -> GenerationConfig:
    """Make the explicit decoding settings that are saved with a model.

    Every setting is written out, so that both lines of transformers decode alike.
    """
    settings = {name: value for name, value in vars(args).items() if not name.startswith("_")}
    if not args.do_sample:
        settings |= {"temperature": None, "top_p": None, "top_k": None}
    if args.num_beams == 1:
        settings["length_penalty"] = None
    ids = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    settings |= {name: getattr(model.config, name, None) for name in ids}
    return GenerationConfig(**settings)
