"""LoRA (Hu et al., 2022) by peft: a pair of small matrices beside each frozen one is trained.

The matrices are in float32, whatever the frozen weights are. While a model trains it is a
`PeftModel`, and its checkpoints hold the adapter alone; `merge` makes one model of both again, of
which nobody needs to know how it was trained. No row of an embedding is trained: `__eou__` keeps
the one that it begins with.
"""

from ..errors import UsageError
from ..portable.configuration_rnn import RnnSeq2SeqConfig
from ..settings import LoraArguments


def add_adapter(model, args: LoraArguments):
    """Freeze a model and add the matrices that are trained; the model is changed in place."""
    from peft import LoraConfig, PeftModel  # optional

    if model.config.model_type == RnnSeq2SeqConfig.model_type:
        raise UsageError(
            f"lora_r is {args.lora_r}, but a recurrent model has hardly a layer that LoRA could "
            "adapt: take lora_r out."
        )
    names = [name.strip() for name in args.lora_target_modules.split(",")]
    config = LoraConfig(
        task_type="SEQ_2_SEQ_LM",
        base_model_name_or_path=model.name_or_path,
        r=args.lora_r,
        lora_alpha=2 * args.lora_r if args.lora_alpha is None else args.lora_alpha,
        lora_dropout=args.lora_dropout,
        target_modules="all-linear" if names == ["all-linear"] else names,
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


def merge(model):
    """Make one model, in float32, of frozen weights and adapter."""
    return model.float().merge_and_unload(safe_merge=True)
