"""Loading by `from_pretrained`: one message for its many errors, and nothing made up in silence."""

from contextlib import contextmanager
from pickle import UnpicklingError

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from ..errors import UsageError


@contextmanager
def loading(what: str, remedy: str):
    """Turn the errors of `from_pretrained` into one, on one line; `remedy` is a sentence."""
    try:
        yield
    except UsageError:
        raise
    except UnpicklingError as error:  # its own advice is to run what is in the file
        raise UsageError(
            f"Cannot load {what}. {remedy} The reason given: its weights are a pickle that is "
            "damaged or holds more than tensors; model.safetensors is safe to load."
        ) from error
    except Exception as error:  # damaged files raise what each library raises
        reason = " ".join(str(error).split())[:400]
        raise UsageError(f"Cannot load {what}. {remedy} The reason given: {reason}") from error


def load_model_files(name: str, what: str, remedy: str, **options):
    """Load an encoder-decoder model; refuse one that lacks weights, which would be random."""
    with loading(what, remedy):
        model, report = AutoModelForSeq2SeqLM.from_pretrained(
            name, output_loading_info=True, **options
        )
        if not model.config.is_encoder_decoder:
            raise ValueError(f"a {model.config.model_type} model is no encoder-decoder.")
        missing = sorted(report["missing_keys"])
        if missing:
            shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
            raise ValueError(f"its files lack {len(missing)} of its weights ({shown}).")
    return model


def load_tokenizer_files(name: str, what: str, remedy: str, **options):
    """Load a tokenizer; refuse one without pieces, as transformers makes it where files lack."""
    with loading(what, remedy):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        if len(tokenizer) - len(tokenizer.added_tokens_decoder) <= 1:
            raise ValueError("there is no file with the pieces, such as tokenizer.json.")
    return tokenizer


def check_vocabulary(model, tokenizer, spare: int = 0) -> None:
    """Refuse a tokenizer of more tokens than a model knows, `spare` aside."""
    rows = model.get_input_embeddings().num_embeddings
    if len(tokenizer) - spare > rows:
        raise UsageError(
            f"The tokenizer {tokenizer.name_or_path!r} has {len(tokenizer)} tokens, the model "
            f"{model.name_or_path!r} only {rows}: it is another model's, or one of its files is "
            "missing. Give a folder where both are whole and belong together."
        )
