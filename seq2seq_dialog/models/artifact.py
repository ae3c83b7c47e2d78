"""What makes a saved model folder load everywhere: on transformers 5 and on 4.57.

After `save_model` a folder holds weights, config and tokenizer as transformers 5 writes them.
`finish` adds what the two lines need to give the same replies:

- transformers 5 has no text2text-generation task; `config.5.0.0.json`, which only it reads, names
  the pipeline in `pipeline.py` for that task and for text-generation. Callers pass
  `trust_remote_code=True`.
- transformers 4.57 reads `config.json`, where text-generation alone is ours: its own
  text2text-generation pipeline works, without trusting any code. That pipeline puts 4 beams and 256
  tokens over the model's generation config, and only `task_specific_params` over those: the
  decoding settings are repeated there, and one beam as well, which 4.57 itself does not save.
  It cannot choose among candidates, and gives one reply by the other settings.
- transformers 5 says of every T5 and mT5 that its output layer is the embedding, even where it is
  not and has weights of its own (FLAN-T5, mT5). transformers 4.57 believes it, so it is told
  better.
- A recurrent model brings its own code (`save_pretrained` has put it there), which has to be
  trusted on both lines; so both use our pipeline for both tasks.
- A tokenizer saved by transformers 5 does not load on 4.57 until its special tokens have the key
  and its class the name that both know.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors import safe_open

from ..portable.options import EXTRA_OPTIONS
from ..run_folder import read_json, write_json

PORTABLE = Path(__file__).parents[1] / "portable"
PIPELINE = {"impl": "pipeline.DialoguePipeline", "pt": ["AutoModelForSeq2SeqLM"], "type": "text"}
PIPELINE_CODE = ("context.py", "guidance.py", "options.py", "pipeline.py", "reranking.py")
V5_CONFIG = "config.5.0.0.json"
DECODING_FILE = "generation_config.json"
DECODING_FILES = (DECODING_FILE, "config.json", V5_CONFIG)  # which say how it decodes
WEIGHTS, OUTPUT_LAYER = "model.safetensors", "lm_head.weight"


def finish(folder: str | Path) -> None:
    """Make a folder written by `save_pretrained` of model and tokenizer load on both lines.

    Doing it twice changes nothing.
    """
    folder = Path(folder)
    for name in PIPELINE_CODE:
        shutil.copyfile(PORTABLE / name, folder / name)
    finish_config(folder)
    _finish_tokenizer(folder)


def finish_config(folder: Path) -> None:
    """Name the pipeline in a config for each line, and the decoding settings in that of 4.57."""
    config = read_json(folder / "config.json")
    config["custom_pipelines"] = {"text2text-generation": PIPELINE, "text-generation": PIPELINE}
    # Of an earlier call; and what Trainer switches off while it trains.
    for key in ("configuration_files", "task_specific_params", "use_cache"):
        config.pop(key, None)
    if _has_own_output_layer(folder, config):
        config["tie_word_embeddings"] = False
    write_json(folder / V5_CONFIG, config)
    if "auto_map" not in config:  # a model that transformers 4.57 knows without trusting any code
        config["custom_pipelines"] = {"text-generation": PIPELINE}
    decoding = read_json(folder / DECODING_FILE)
    decoding = {"num_beams": 1} | {
        key: value
        for key, value in decoding.items()
        if not key.endswith(("_id", "_version")) and key not in EXTRA_OPTIONS
    }
    config["task_specific_params"] = {"text2text-generation": decoding}
    write_json(folder / "config.json", config | {"configuration_files": [V5_CONFIG]})


def _finish_tokenizer(folder: Path) -> None:
    """Write the tokenizer's config as both lines read it."""
    tokenizer = read_json(folder / "tokenizer_config.json")
    for key in ("is_local", "local_files_only", "backend"):  # how it was loaded, not what it is
        tokenizer.pop(key, None)
    tokenizer["truncation_side"] = "left"  # the latest turns matter most; not saved by itself
    special = tokenizer.pop("extra_special_tokens", None)
    if isinstance(special, list):
        sentinels = [token for token in special if "<extra_id_" in token]
        if sentinels or tokenizer["tokenizer_class"] != "T5Tokenizer":
            tokenizer["additional_special_tokens"] = sentinels or special
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_json(folder / "tokenizer_config.json", tokenizer)


def _has_own_output_layer(folder: Path, config: dict) -> bool:
    """Tell whether a T5 whose output is not scaled has weights of its own for its output layer."""
    unscaled = config.get("scale_decoder_outputs") is False or config["model_type"] == "mt5"
    if not unscaled or not (folder / WEIGHTS).is_file():
        return False
    with safe_open(folder / WEIGHTS, "pt") as weights:
        return OUTPUT_LAYER in set(weights.keys())
