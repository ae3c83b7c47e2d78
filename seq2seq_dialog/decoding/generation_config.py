"""The fields of `settings.DecodingArguments` as transformers keeps them: `GenerationConfig`."""

from transformers import GenerationConfig

from ..portable.options import EXTRA_OPTIONS
from ..settings import DecodingArguments


def bare_decoding(saved: GenerationConfig, temperature: float) -> GenerationConfig:
    """Make settings that sample from a model's own distribution; temperature 0 is greedy.

    Of the model's settings they keep special tokens and the greatest length. Put them in their
    place: given to `generate()`, what is unset here would be filled in from those.
    """
    tokens = ("decoder_start", "bos", "eos", "pad", "forced_bos", "forced_eos")
    settings = {f"{name}_token_id": getattr(saved, f"{name}_token_id", None) for name in tokens}
    longest = saved.max_new_tokens or saved.max_length or DecodingArguments.max_new_tokens
    settings |= {"max_new_tokens": longest, "num_beams": 1, "do_sample": temperature != 0}
    if temperature != 0:  # without top_k, generate() takes 50
        settings |= {"temperature": temperature, "top_k": 0, "top_p": 1.0}
    return GenerationConfig(**settings)


def changed_settings(config: GenerationConfig) -> set[str]:
    """Name the settings of decoding that are not the defaults of transformers, or ours."""
    settings = config.to_diff_dict()
    neutral = {
        name
        for name in settings.keys() & EXTRA_OPTIONS.keys()
        if settings[name] == EXTRA_OPTIONS[name]
    }
    return {name for name in settings if not name.endswith(("_id", "_version"))} - neutral


def end_token_ids(config: GenerationConfig) -> list[int]:
    """List the tokens that end a reply."""
    ends = config.eos_token_id
    return ends if isinstance(ends, list) else [ends]


def most_new_tokens(config: GenerationConfig) -> int:
    """Return how long a reply can be, in tokens without the start token, as `generate()` has it."""
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    if config.max_length in (None, GenerationConfig().max_length):  # a default of transformers 4
        return 20
    return config.max_length - 1


def finish_reason(config: GenerationConfig, length: int, has_end: bool) -> str:
    """Say why a reply of so many tokens, the end token included, has ended: "stop" or "length".

    Some models have the end token forced upon the last place. It ends no reply by itself.
    """
    is_forced = config.forced_eos_token_id is not None and length >= most_new_tokens(config)
    return "stop" if has_end and not is_forced else "length"


def generation_config(args: DecodingArguments, model) -> GenerationConfig:
    """Make the decoding settings saved with a model: all, for both lines of transformers."""
    settings = {name: value for name, value in vars(args).items() if not name.startswith("_")}
    if not args.do_sample:
        settings |= {"temperature": None, "top_p": None, "top_k": None}
    if args.num_beams == 1:
        settings["length_penalty"] = None
    settings["rerank"] = args.rerank_weights() or None
    off = {name for name, neutral in EXTRA_OPTIONS.items() if settings.get(name) in (neutral, None)}
    settings = {name: value for name, value in settings.items() if name not in off}
    ids = ("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    settings |= {name: getattr(model.config, name, None) for name in ids}
    return GenerationConfig(**settings)
