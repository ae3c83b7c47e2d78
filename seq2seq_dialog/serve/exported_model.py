"""An exported model: CTranslate2 answers on the CPU, by the options of `generate()`.

The folder that `export` writes holds a model in CTranslate2's form (model.bin, config.json,
shared_vocabulary.json), the tokenizer's files, generation_config.json, and export.json. The latter
identifies the weights that were exported, and compares the export with them.
"""

import hashlib
import logging
from collections.abc import Callable
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import GenerationConfig

from ..decoding.generation_config import changed_settings, end_token_ids, most_new_tokens
from ..errors import UsageError
from ..portable.options import EXTRA_OPTIONS
from ..run_folder import read_json

logger = logging.getLogger(__name__)
EXPORT_FOLDER = "ctranslate2"  # in a run folder
ABOUT = "export.json"
# What answering needs of a run besides its weights.
FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "source.spm",
    "target.spm",
    "vocab.json",
    "merges.txt",
)
# Options of `generate()`: the name of each in CTranslate2, and the value that stands for None.
SUPPORTED_OPTIONS = {
    "max_new_tokens": ("max_decoding_length", None),
    "min_new_tokens": ("min_decoding_length", 0),
    "num_beams": ("beam_size", 1),
    "num_return_sequences": ("num_hypotheses", 1),
    "length_penalty": ("length_penalty", 1.0),
    "no_repeat_ngram_size": ("no_repeat_ngram_size", 0),
    "repetition_penalty": ("repetition_penalty", 1.0),
}
SAMPLING = {
    "temperature": ("sampling_temperature", 1.0),
    "top_k": ("sampling_topk", 50),
    "top_p": ("sampling_topp", 1.0),
}
# Without early_stopping, transformers searches on while a longer reply may beat the best so far,
# CTranslate2 until it has `num_beams` times this many. With 2 it finds the reply of transformers,
# with 1 not always; more is only slower.
PATIENCE = 2


def is_export(folder: str | Path) -> bool:
    """Tell whether `export` has written a folder."""
    return (Path(folder) / ABOUT).is_file()


def start_token_id(config: GenerationConfig) -> int:
    """Return the token that replies begin with, as `generate()` chooses it."""
    start = config.decoder_start_token_id
    return config.bos_token_id if start is None else start


def check_start_token(config: GenerationConfig) -> None:
    """Refuse options that look at the start token where it is an end token, as with BART.

    In transformers the start token counts as one that the reply already has.
    """
    if start_token_id(config) not in end_token_ids(config):
        return
    for name, looks in (
        ("repetition_penalty", config.repetition_penalty not in (None, 1)),
        ("no_repeat_ngram_size", config.no_repeat_ngram_size == 1),
    ):
        if looks:
            raise UsageError(
                f"An export cannot take {name}={getattr(config, name)} as PyTorch does, since "
                "replies of this model begin with the end token: leave it, use --no-export, or "
                "load the run folder without exported=True."
            )


def require_ctranslate2() -> None:
    """Refuse to go on without CTranslate2."""
    if find_spec("ctranslate2") is None:
        raise UsageError(
            "An export needs CTranslate2, which is not installed: pip install ctranslate2"
        )


def run_fingerprint(folder: str | Path) -> str:
    """Hash `FILES` of a run folder and samples of its weights, to see whether they have changed."""
    digest = hashlib.blake2b(digest_size=8)
    for name in FILES:
        path = Path(folder) / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    for path in sorted(Path(folder).glob("*.safetensors")):
        size = path.stat().st_size
        with open(path, "rb") as file:
            for start in range(0, size, max(4096, size // 64)):
                file.seek(start)
                digest.update(file.read(4096))
    return digest.hexdigest()


def find_export(name: str | Path, device: torch.device, wanted: bool) -> Path | None:
    """Find the export that answers for a model: the folder itself, or the one in a run folder."""
    folder = Path(name)
    if is_export(folder):
        if device.type != "cpu" or not wanted:
            wish = "by PyTorch" if device.type == "cpu" else f"on {device}"
            raise UsageError(
                f"{str(folder)!r} is an export, which answers on the CPU by CTranslate2: to answer "
                f"{wish}, give the run folder it was made of; in Python, exported=True loads it."
            )
        require_ctranslate2()
        return folder
    export = folder / EXPORT_FOLDER
    if device.type != "cpu" or not wanted or not is_export(export):
        return None
    if find_spec("ctranslate2") is None:
        logger.warning("%s is not used: pip install ctranslate2", export)
        return None
    if read_json(export / ABOUT)["weights"] != run_fingerprint(folder):
        logger.warning("%s is not used: %s has changed since; export it again", export, folder)
        return None
    return export


def _hand_over(streamer, row: int, token_id: int, is_last: bool) -> bool:
    """Give a streamer a token that CTranslate2 has made; True would end the reply."""
    streamer.put(torch.tensor([token_id]))
    return False


class ExportedModel:
    """A model that answers by CTranslate2, on the CPU, as the transformers one does it.

    It has what answering needs of a transformers model: `generate`, `generation_config`, `device`,
    `num_parameters`, `name_or_path`, and of `config` how long a reply can be. Sampling is seeded as
    it is made, once, from torch's seed.

    Args:
        folder: that `export` has written.
        workers: batches that are computed side by side, each by its share of the threads. More than
            one is for a caller with several threads: one reply is then slower, all together faster.
    """

    def __init__(self, folder: str | Path, workers: int = 1):
        import ctranslate2

        folder = Path(folder)
        self.name_or_path = str(folder)
        self.about = read_json(folder / ABOUT)
        self.config = SimpleNamespace(max_position_embeddings=self.about.get("positions"))
        self.device = torch.device("cpu")
        self.generation_config = GenerationConfig.from_pretrained(folder)
        self._tokens = read_json(folder / "shared_vocabulary.json")
        self._ids = {token: i for i, token in enumerate(self._tokens)}
        # CTranslate2 reads the seed when it first samples, and has no later way to set it.
        ctranslate2.set_random_seed(torch.initial_seed() % 2**32)
        self.workers = workers
        self._translator = ctranslate2.Translator(
            str(folder),
            device="cpu",
            inter_threads=workers,
            intra_threads=max(1, torch.get_num_threads() // workers),
        )

    def num_parameters(self) -> int:
        """Return those of the model that was exported."""
        return self.about["parameters"]

    def generate(
        self,
        input_ids,
        attention_mask=None,
        streamer=None,
        on_token: Callable[[int, int, bool], bool] | None = None,
        **options,
    ) -> torch.Tensor:
        """Reply to contexts, as a transformers model's `generate` does.

        Up to rounding, replies are those of transformers: greedy ones, and with beams those of
        `early_stopping=True`; without it, nearly all. With beams, `no_repeat_ngram_size` and
        `min_new_tokens` work as with `renormalize_logits=True`, and `repetition_penalty` changes
        logits, where transformers changes their log-softmax.

        Options are those of `SUPPORTED_OPTIONS` and `SAMPLING`, `do_sample`, `early_stopping` (a
        boolean) and `max_length`; the saved settings by default.

        `on_token(row, token_id, is_last)` is called with each token where there are no beams; the
        reply of a row ends where it returns True. A `streamer` gets the tokens of one reply.
        """
        pad = self.generation_config.pad_token_id
        start = start_token_id(self.generation_config)
        mask = input_ids.ne(pad) if attention_mask is None else attention_mask.bool()
        sources = [
            [self._tokens[i] for i in ids[keep].tolist()]
            for ids, keep in zip(input_ids, mask, strict=True)
        ]
        options = self._ctranslate2_options(options)
        if streamer is not None:
            streamer.put(torch.tensor([start]))
            on_token = partial(_hand_over, streamer)
        first = self.generation_config.forced_bos_token_id
        prefixes = None if first is None else [[self._tokens[first]]] * len(sources)
        if on_token is not None:
            options["callback"] = lambda step: on_token(step.batch_id, step.token_id, step.is_last)
        try:
            results = self._translator.translate_batch(sources, prefixes, **options)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"CTranslate2 does not take {options}: {reason}") from error
        if streamer is not None:
            streamer.end()
        replies = [
            torch.tensor([start, *(self._ids[token] for token in tokens)])
            for result in results
            for tokens in result.hypotheses
        ]
        return pad_sequence(replies, batch_first=True, padding_value=pad)  # (replies, target_len)

    def _ctranslate2_options(self, generate_options: dict) -> dict:
        """Turn options of `generate()`, over the saved settings, into those of CTranslate2."""
        config = deepcopy(self.generation_config)
        saved = changed_settings(config)
        generate_options = {
            name: value
            for name, value in generate_options.items()
            if name not in EXTRA_OPTIONS or value != EXTRA_OPTIONS[name]
        }
        known = {*SUPPORTED_OPTIONS, *SAMPLING, "do_sample", "early_stopping", "max_length"}
        unknown = sorted((saved | generate_options.keys()) - known)
        if unknown:
            raise UsageError(
                f"An export does not know {', '.join(unknown)}, but {', '.join(sorted(known))}. "
                "PyTorch may: use --no-export, or load the run folder without exported=True."
            )
        config.update(**generate_options)
        config.max_new_tokens = most_new_tokens(config)
        check_start_token(config)
        names = SUPPORTED_OPTIONS | SAMPLING if config.do_sample else SUPPORTED_OPTIONS
        options = {
            "max_input_length": 0,
            "max_batch_size": self.about.get("max_batch_size", 0),
            "return_end_token": True,
            "end_token": end_token_ids(config),
        }
        for name, (ctranslate2_name, default) in names.items():
            value = getattr(config, name)
            options[ctranslate2_name] = default if value is None else value
        if config.do_sample:
            if options["beam_size"] > 1:
                raise UsageError(
                    f"An export cannot sample with num_beams={config.num_beams}: set "
                    "do_sample=False or num_beams=1."
                )
            if not options["sampling_temperature"] > 0:
                raise UsageError(f"temperature is {config.temperature}; it must be above 0.")
            options["sampling_topk"] = min(options["sampling_topk"], len(self._tokens))
        elif options["beam_size"] > 1 and not config.early_stopping:
            if not 0 <= options["length_penalty"] <= 1:
                raise UsageError(
                    f"An export cannot search with length_penalty={config.length_penalty} as long "
                    "as PyTorch does: set early_stopping=True, or a value from 0 to 1."
                )
            options["patience"] = PATIENCE
        if config.forced_eos_token_id is not None:  # which is the last token there is room for
            options["max_decoding_length"] -= 1
        return options
