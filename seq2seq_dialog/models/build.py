"""Models: a checkpoint to fine-tune, or a new one from a config."""

import math

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForSeq2SeqLM, EncoderDecoderModel

from ..errors import UsageError, nearest
from ..hub_errors import check_name
from ..portable.configuration_rnn import RnnSeq2SeqConfig
from ..portable.context import TURN_SEPARATOR, special_ids
from ..portable.options import Bounds, positions
from ..settings import DataArguments, DecodingArguments, ModelArguments, Settings
from ..shipped import find_model
from .loading import check_model_name, check_vocabulary, load_model_files

# Training in fp16 gives inf and NaN: the activations of these models exceed 65,504.
FP16_UNSAFE = {"t5", "mt5", "umt5", "longt5", "switch_transformers"}
EMBEDDING_ROWS = 64  # the rows of an embedding are a multiple of it: faster matrix products
# Families that take a mask of the source in four dimensions, with the same gradient.
MASKED_IN_4D = {
    "bart", "blenderbot", "blenderbot-small", "m2m_100", "marian", "mbart", "mt5", "pegasus", "t5",
    "umt5",
}  # fmt: skip


def load_pretrained(load, what: str, name: str, args: ModelArguments, **options):
    """Load a checkpoint to train with: its model or tokenizer, `what`, by a function `load`."""
    remedy = (
        "Give a folder with a saved model, starter, or the name of a public model on the Hub such "
        "as google-t5/t5-small, and check the network (for a private one, log in with `hf auth "
        "login`)."
    )
    options |= {"revision": args.model_revision, "trust_remote_code": args.trust_remote_code}
    return load(find_model(name), f"the {what} {name!r}", remedy, **options)


def check_names(args: ModelArguments) -> None:
    """Refuse folders that are not there or hold no model, before the data work."""
    if args.model_name_or_path is not None:
        check_model_name(find_model(args.model_name_or_path))
    if args.tokenizer_name_or_path is not None:
        check_name(find_model(args.tokenizer_name_or_path))


def load_model(args: ModelArguments, tokenizer, dtype: str = "float32"):
    """Load the checkpoint to fine-tune, or make the new model that `args` describes.

    In float32 an optimizer updates the weights; autocast does the rest. A `dtype` of fewer bits is
    for weights that stay as they are. The embedding grows only where the checkpoint has no spare
    row for `__eou__` (T5 has 28).
    """
    if args.model_name_or_path is None:
        model = _new_model(_new_config(args, tokenizer))
    else:
        name, what = args.model_name_or_path, "encoder-decoder checkpoint"
        model = load_pretrained(load_model_files, what, name, args, dtype=dtype)
        check_vocabulary(model, tokenizer, spare=1)  # __eou__
        _check_one_vocabulary(model)
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        # A slow tokenizer (ByT5's, Marian's) may fail to decode a row that no token has.
        _grow_embedding(model, _rows(tokenizer) if tokenizer.is_fast else len(tokenizer))
    _complete_special_tokens(model.config, tokenizer)
    return model


def _check_one_vocabulary(model) -> None:
    """Refuse a model that writes with other pieces than it reads: what it said is read again."""
    output = model.get_output_embeddings()
    rows = model.get_input_embeddings().num_embeddings
    shared = getattr(model.config, "share_encoder_decoder_embeddings", True)  # of Marian
    if not shared or (output is not None and len(output.weight) != rows):
        raise UsageError(
            f"{model.name_or_path!r} reads with one vocabulary and writes with another, but what "
            "is said in a dialogue is read afterwards: choose a checkpoint with a single one."
        )


def _rows(tokenizer) -> int:
    return math.ceil(len(tokenizer) / EMBEDDING_ROWS) * EMBEDDING_ROWS


def _grow_embedding(model, rows: int) -> None:
    """Give input and output embedding as many rows; a pair of models has those of both."""
    parts = [model]
    if isinstance(model, EncoderDecoderModel):
        parts = [model.encoder, model.decoder]
    for part in parts:
        try:
            part.resize_token_embeddings(rows)
        except NotImplementedError as error:
            raise UsageError(
                f"{TURN_SEPARATOR} needs a row of its own in the embedding, but a "
                f"{type(model).__name__} cannot grow one; choose another checkpoint."
            ) from error
    halves = [getattr(model.config, name, None) for name in ("encoder", "decoder")]
    for config in (model.config, *halves):  # resizing does not keep all of T5Gemma's up to date
        if hasattr(config, "vocab_size"):
            config.vocab_size = rows


def _complete_special_tokens(config, tokenizer) -> None:
    """Fill in from the tokenizer which special tokens a checkpoint's config leaves open.

    Decoding then starts with the language code where the tokenizer puts one last (mBART), else with
    the token that begins a text (`<bos>` of T5Gemma, `[CLS]` of BERT).
    """
    last = special_ids(tokenizer)[1][-1:]
    code = last[0] if last and last[0] != tokenizer.eos_token_id else None
    first = tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    from_tokenizer = {
        "pad_token_id": tokenizer.pad_token_id,
        "decoder_start_token_id": first if code is None else code,
    }
    for name, token_id in from_tokenizer.items():
        if getattr(config, name, None) is None:
            setattr(config, name, token_id)
    ends = getattr(config, "eos_token_id", None)  # several in T5Gemma
    if tokenizer.eos_token_id not in (ends if isinstance(ends, list) else [ends]):
        config.eos_token_id = tokenizer.eos_token_id


def check_lengths(model, data: DataArguments, decoding: DecodingArguments) -> None:
    """Refuse lengths for which a model has no positions; T5's are relative, without a limit."""
    source, target = positions(model.config)
    lengths = {
        "max_source_length": (data.max_source_length, source, source),
        "max_target_length": (data.max_target_length, target, target),
        "max_new_tokens": (decoding.max_new_tokens, target - 1, target),  # after the start token
    }
    for name, (length, most, limit) in lengths.items():
        if length > most:
            raise UsageError(f"{name} must be at most {most}: the model has {limit} positions.")


def check_sizes(settings: Settings) -> None:
    """Refuse sizes that make no model, before the data work; it takes no memory."""
    if settings.model.new_model is not None:
        sizes = settings.model.new_model_sizes()
        with torch.device("meta"):
            _new_model(_make_config("new_model", sizes.pop("model_type"), sizes, {}))
    if settings.adversarial.is_on:
        discriminator = settings.adversarial.discriminator_mapping()
        if "form" in discriminator:
            check_model_name(find_model(discriminator["model_name_or_path"]))
        else:
            _make_config("discriminator", RnnSeq2SeqConfig.model_type, discriminator, {})


def _new_model(config):
    """Make a model with random weights, of a config that the person has set."""
    try:
        return AutoModelForSeq2SeqLM.from_config(config)
    except Exception as error:  # of any kind, from the depth of a model's layers
        raise UsageError(
            f"new_model: no {config.model_type} can be made of these values: {_reason(error)}."
        ) from error


def _reason(error: Exception) -> str:
    """Word an error of a library, on one line."""
    words = " ".join(str(error).split()).rstrip(".")
    return f"there is no {words}" if isinstance(error, KeyError) else words


def _new_config(args: ModelArguments, tokenizer):
    """Make the config of a new model; its vocabulary and special tokens are the tokenizer's."""
    sizes = args.new_model_sizes()
    bos, pad = tokenizer.bos_token_id, tokenizer.pad_token_id
    from_tokenizer = {
        "vocab_size": _rows(tokenizer),
        "pad_token_id": pad,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": bos,
        "decoder_start_token_id": pad if bos is None else bos,
    }
    fixed = {key: value for key, value in from_tokenizer.items() if key not in sizes}
    return _make_config("new_model", sizes.pop("model_type"), sizes, fixed)


def discriminator_config(sizes: dict, generator) -> RnnSeq2SeqConfig:
    """Make the config of a recurrent discriminator, for the generator's vocabulary."""
    special = ("pad_token_id", "eos_token_id", "decoder_start_token_id")
    fixed = {key: getattr(generator.config, key) for key in special}
    fixed["vocab_size"] = generator.get_input_embeddings().num_embeddings
    return _make_config("discriminator", RnnSeq2SeqConfig.model_type, sizes, fixed)


def _make_config(setting: str, model_type: str, sizes: dict, fixed: dict):
    """Make a config of what the person set, `sizes`, and of what must not be set, `fixed`."""
    try:
        known = AutoConfig.for_model(model_type)
    except ValueError as error:
        hint = nearest(model_type, CONFIG_MAPPING)
        raise UsageError(
            f"{setting}: there is no known model_type {model_type!r}.{hint}"
        ) from error
    # Some of the mapping are language models that hear.
    if type(known) not in AutoModelForSeq2SeqLM._model_mapping or not known.is_encoder_decoder:
        raise UsageError(
            f"{setting}: {model_type} is no encoder-decoder model with a language head; take t5, "
            "bart, ..."
        )
    for key, value in sizes.items():
        default = getattr(known, key, None)
        if not hasattr(known, key) or key in fixed:
            hint = nearest(key, known.to_dict().keys() - fixed)
            raise UsageError(f"{setting}: a {model_type} config has no {key!r}.{hint}")
        if type(default) in (int, float):
            if rule := _size_bounds(key, default).broken_by(value):
                raise UsageError(f"{setting}: {key} is {value!r}; it must be {rule}.")
            sizes[key] = type(default)(value)  # a config takes no 1 for 1.0
    try:
        return AutoConfig.for_model(model_type, **fixed, **sizes)
    except Exception as error:  # those of configs have no common kind
        raise UsageError(f"{setting}: {_reason(error)}.") from error


def _size_bounds(key: str, default) -> Bounds:
    """Return what a number of a config may be, by its name and its default."""
    if type(default) is int:
        return Bounds(0 if key.endswith("_id") or default < 1 else 1, whole=True)
    if "dropout" in key or "layerdrop" in key:
        return Bounds(0, below=1)
    return Bounds(0)
