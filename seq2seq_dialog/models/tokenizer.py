"""Tokenizers: a checkpoint's own, or a new one trained on the utterances."""

from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from transformers import AddedToken, T5Tokenizer

from ..errors import UsageError
from ..portable.context import TURN_SEPARATOR, chat_template
from ..settings import ModelArguments
from .build import load_pretrained
from .loading import load_tokenizer_files

MAX_BYTES = 4192  # of an utterance: sentencepiece's own limit; longer ones are left out


def train_tokenizer(utterances: Iterable[str], vocab_size: int, folder: str | Path) -> None:
    """Train a sentencepiece unigram tokenizer for T5 and save it, `spiece.model`, in `folder`.

    At most a million utterances are used; a small corpus may give fewer pieces than `vocab_size`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
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
                max_sentence_length=MAX_BYTES,
                minloglevel=2,
            )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"No tokenizer can be trained on these utterances ({reason}): none has text of at most "
            f"{MAX_BYTES:,} bytes. Give shorter ones, or an existing tokenizer as "
            "tokenizer_name_or_path."
        ) from error
    (folder / "spiece.tmp").replace(folder / "spiece.model")


def load_tokenizer(args: ModelArguments, max_source_length: int, trained: str | Path | None = None):
    """Load the tokenizer that `args` names, or the one in the folder `trained`."""
    name = args.tokenizer_name_or_path or args.model_name_or_path
    if name is None:
        tokenizer = T5Tokenizer.from_pretrained(trained, extra_ids=0)
    else:
        tokenizer = load_pretrained(load_tokenizer_files, "tokenizer", name, args)
    return prepare_tokenizer(tokenizer, max_source_length)


def prepare_tokenizer(tokenizer, max_source_length: int):
    """Make a tokenizer fit for dialogues: `__eou__` as one token, chat template, cut at the left.

    Args:
        tokenizer: is changed in place; its `separator_is_new` tells whether it had no `__eou__`.
        max_source_length: tokens of a context.

    Raises:
        UsageError: the tokenizer reads a turn differently after `__eou__` than at the start, so
            that turns cannot be tokenised one by one.
    """
    # M2M100's language codes may lie behind what transformers 5 counts: `__eou__` would be one.
    codes = getattr(tokenizer, "lang_token_to_id", {})
    codes = [AddedToken(c, special=True, normalized=False) for c in sorted(codes, key=codes.get)]
    tokenizer.add_tokens(codes, special_tokens=True)
    separator = AddedToken(TURN_SEPARATOR, lstrip=True, rstrip=True, special=True, normalized=False)
    tokenizer.separator_is_new = bool(tokenizer.add_tokens([separator], special_tokens=True))
    tokenizer.truncation_side = "left"
    tokenizer.model_max_length = max_source_length
    tokenizer.eos_token = tokenizer.eos_token or tokenizer.sep_token  # BERT names it otherwise
    for token, kind, reason in (
        (tokenizer.eos_token, "end", "no reply can end"),
        (tokenizer.pad_token, "padding", "no batch can be made"),
    ):
        if token is None:
            raise UsageError(
                f"The tokenizer {tokenizer.name_or_path!r} ({type(tokenizer).__name__}) has no "
                f"{kind} token, without which {reason}; choose a checkpoint with another tokenizer."
            )
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
