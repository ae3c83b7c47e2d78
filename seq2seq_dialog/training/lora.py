"""LoRA (Hu et al., 2022) by peft: a pair of small matrices beside each frozen one is trained.

The matrices are in float32, whatever the frozen weights are. While a model trains it is a
`PeftModel`, and its checkpoints hold the adapter alone; `merge` makes one model of both again, of
which nobody needs to know how it was trained. Of the embedding, the row of a new `__eou__` is
trained, which the adapter holds, too.
"""

import os
from pathlib import Path

from ..errors import UsageError
from ..method_settings import LoraArguments
from ..models.loading import ADAPTER_FILE
from ..portable.configuration_rnn import RnnSeq2SeqConfig
from ..portable.context import TURN_SEPARATOR

# Of the first, peft does not see that encoder and decoder share the embedding; that of the second,
# a pair of models, is not grown as a model is loaded.
MERGED_ONLY = ("marian", "encoder-decoder")


def add_adapter(model, args: LoraArguments, tokenizer, revision: str | None = None):
    """Freeze a model and add the matrices that are trained; the model is changed in place.

    Args:
        tokenizer: of the model, as `prepare_tokenizer` returns it.
        revision: of the checkpoint on the Hub.
    """
    from peft import LoraConfig, PeftModel  # optional

    if model.config.model_type == RnnSeq2SeqConfig.model_type:
        raise UsageError(
            f"lora_r is {args.lora_r}, but a recurrent model has hardly a layer that LoRA could "
            "adapt: take lora_r out."
        )
    if model.config.model_type in MERGED_ONLY and not args.lora_merge:
        raise UsageError(
            f"lora_merge is false, but an adapter for a {model.config.model_type} model would lack "
            "the row of the embedding that __eou__ needs: take lora_merge out."
        )
    names = [name.strip() for name in args.lora_target_modules.split(",")]
    base, separator = model.name_or_path, tokenizer.convert_tokens_to_ids(TURN_SEPARATOR)
    has_new_row = tokenizer.separator_is_new and model.config.model_type != "marian"
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM",
        base_model_name_or_path=os.path.abspath(base) if os.path.isdir(base) else base,
        revision=revision,
        r=args.lora_r,
        lora_alpha=2 * args.lora_r if args.lora_alpha is None else args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules="all-linear" if names == ["all-linear"] else names,
        trainable_token_indices=[separator] if has_new_row else None,
    )
    try:
        return PeftModel(model, config)
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise UsageError(
            f"lora_target_modules is {args.lora_target_modules!r}, which does not work for a "
            f"{model.config.model_type} model: {reason}"
        ) from error


def has_adapter(model) -> bool:
    """Tell whether a model is one with an adapter."""
    return hasattr(model, "merge_and_unload")


def holds_adapter(folder: Path) -> bool:
    """Tell whether a folder holds an adapter, not a model."""
    return (folder / ADAPTER_FILE).is_file()


def merge(model):
    """Make one model, in float32, of frozen weights and adapter."""
    return model.float().merge_and_unload(safe_merge=True)
