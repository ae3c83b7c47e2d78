"""Loading by `from_pretrained`: one message for its many errors, and nothing made up in silence."""

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig
from transformers.utils import CONFIG_NAME

from ..errors import UsageError
from ..hub_errors import check_name
from ..portable.options import checked_options, extra_options
from ..run_folder import read_mapping
from .artifact import DECODING_FILE

ADAPTER_FILE = "adapter_config.json"  # of peft
PANIC = "PanicException"  # of the tokenizers' Rust, on files that it cannot be; no Exception


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
    except BaseException as error:  # damaged files raise what each library raises
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        reason = " ".join(str(error).split())[:400]
        raise UsageError(f"Cannot load {what}. {remedy} The reason given: {reason}") from error


def check_model_name(name: str) -> None:
    """Refuse a folder that is not there or holds no model, as that of an unfinished run."""
    check_name(name)
    folder = Path(name)
    if not folder.is_dir() or any((folder / f).is_file() for f in (CONFIG_NAME, ADAPTER_FILE)):
        return
    models = sorted(folder.glob(f"*/{CONFIG_NAME}"), key=lambda path: path.stat().st_mtime)
    way_out = "Give the output_dir of a finished run, or another folder with a saved model."
    if (folder / "config.yaml").is_file():
        way_out = "Its run is unfinished: the command that began it goes on with it."
    if models:
        way_out += f" There is a model in {str(models[-1].parent)!r}."
    raise UsageError(f"{str(name)!r} holds no model: it has no {CONFIG_NAME}. {way_out}")


def load_model_files(name: str, what: str, remedy: str, **options):
    """Load an encoder-decoder model; refuse one whose weights or saved decoding are damaged.

    Weights that are missing would be random, and transformers takes settings of its own in place of
    a file that it cannot read.
    """
    check_model_name(name)
    if (Path(name) / ADAPTER_FILE).is_file():
        return _load_adapted(name, what, remedy, **options)
    with loading(what, remedy):
        read_mapping(Path(name) / DECODING_FILE)
        model, report = AutoModelForSeq2SeqLM.from_pretrained(
            name, output_loading_info=True, **options
        )
        if not model.config.is_encoder_decoder:
            raise ValueError(f"a {model.config.model_type} model is no encoder-decoder.")
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(f"its files lack {len(missing)} of its weights ({_shown(missing)}).")
        broken = [name for name, weights in model.named_parameters() if not _is_finite(weights)]
        if broken:
            raise ValueError(
                f"{len(broken)} of its weights hold NaN or infinity ({_shown(broken)})."
            )
        try:
            checked_options(model.generation_config.to_dict(), model.config)
        except ValueError as error:
            raise ValueError(f"in its {DECODING_FILE}, {error}") from error
    return model


def reverse_model(model, options: Mapping) -> tuple | None:
    """Load what the criterion `reverse` needs, a model and its tokenizer, where it is asked for."""
    extra = extra_options(model, options)
    if not {"reverse", "reverse_sum"} & extra["rerank"].keys():
        return None
    return _load_reverse_model(extra["reverse_model"], model.device)


@lru_cache(1)
def _load_reverse_model(name: str, device: torch.device) -> tuple:
    """Load the model and the tokenizer for the criterion `reverse` of candidates, once."""
    what = f"the reverse_model {name!r}"
    remedy = "Give the run folder of a model that was trained with exchange_sides."
    tokenizer = load_tokenizer_files(name, what, remedy)
    model = load_model_files(name, what, remedy, dtype=torch.float32)
    return model.to(device).eval(), tokenizer


def _load_adapted(folder: str, what: str, remedy: str, **options):
    """Load the model that an adapter of peft is for, and merge both, in float32."""
    if not find_spec("peft"):
        raise UsageError(f"{str(folder)!r} holds an adapter, which needs peft: pip install peft.")
    from peft import PeftConfig, PeftModel

    with loading(what, remedy):
        read_mapping(Path(folder) / DECODING_FILE)
        config = PeftConfig.from_pretrained(folder)
        base, options["revision"] = config.base_model_name_or_path, config.revision
        tokens = len(AutoTokenizer.from_pretrained(folder))
        what_base = f"the model {base!r}, for which {str(folder)!r} holds an adapter"
        model = load_model_files(base, what_base, "Put it there again.", **options).float()
        if tokens > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(tokens, mean_resizing=False)
        adapted = PeftModel(model, config)
        missing = adapted.load_adapter(folder, adapted.active_adapter).missing_keys
        missing = [name for name in missing if "lora_" in name]  # the base's are no news
        if missing:
            raise ValueError(f"its adapter lacks {len(missing)} weights ({_shown(missing)}).")
        model = adapted.merge_and_unload(safe_merge=True)
        model.generation_config = GenerationConfig.from_pretrained(folder)
        model.name_or_path = str(folder)
    return model


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _is_finite(weights: torch.Tensor) -> bool:
    """Tell whether all numbers are finite; where FSDP leaves them to another process, they are."""
    if weights.is_meta or not weights.numel():
        return True
    extremes = torch.stack(torch.aminmax(weights.detach()))  # NaN is both
    return bool(torch.isfinite(extremes).all())


def hash_weights(model: torch.nn.Module, digest) -> None:
    """Update a hash, one of `hashlib` or `xxhash`, with each of a model's weights."""
    for weights in model.state_dict().values():
        digest.update(weights.cpu().reshape(-1).view(torch.uint8).numpy())


def check_reply_tokens(model) -> None:
    """Refuse a model for answering whose saved settings have impossible special tokens.

    A run that fine-tunes it takes those of its config and tokenizer instead.
    """
    saved, output = model.generation_config, model.get_output_embeddings()
    # The pieces that are written; a half of a pair may read others.
    vocab_size = (output or model.get_input_embeddings()).weight.shape[0]
    for name, value in saved.to_dict().items():
        if name.endswith("_token_id") and value is not None:
            ids = value if isinstance(value, list) else [value]
            if not ids or not all(type(i) is int and 0 <= i < vocab_size for i in ids):
                raise ValueError(
                    f"in its {DECODING_FILE}, {name} is {value!r}; it must be a token of the "
                    f"model, from 0 to {vocab_size - 1}."
                )
    if saved.decoder_start_token_id is None and saved.bos_token_id is None:
        raise ValueError(
            f"its {DECODING_FILE} has no decoder_start_token_id: replies cannot begin."
        )


def load_tokenizer_files(name: str, what: str, remedy: str, **options):
    """Load a tokenizer; refuse one without pieces, as transformers makes it where files lack."""
    check_name(name)
    with loading(what, remedy):
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        if len(tokenizer) - len(tokenizer.added_tokens_decoder) <= 1:
            raise ValueError("there is no file with the pieces, such as tokenizer.json.")
        most = tokenizer.model_max_length
        if not isinstance(most, int | float) or not most > 0:
            raise ValueError(f"its model_max_length is {most!r}; it must be a number above 0.")
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


def avoid_plans_for_shapes() -> None:
    """Keep this process from cuDNN's attention, which plans anew for each shape of a batch.

    PyTorch 2.11 and later prefer it on GPUs such as the H100. A plan takes tens of milliseconds.
    Batches of dialogues have a new shape nearly always, and a reply has one at each token.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)
