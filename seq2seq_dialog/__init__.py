"""Train a dialogue response generator from dialogues, and use it.

The way of the data: `dataset_script/dialogues.py` (text to rows), `data` (all other forms to rows,
rows to batches) -> `models`, `training` -> `evaluation` -> `report` (the run folder) -> `serve`
(answering), `hub`.
"""

import os
import sys
from importlib import import_module

from .shipped import IN_CHECKOUT, ROOT

__version__ = "0.1.0"

if IN_CHECKOUT:  # dataset_script/ stands beside the package, a wheel holds it inside
    __path__.append(str(ROOT))
if sys.argv[:1] == ["-m"] and sys.path[0] == os.getcwd():
    # `python -m seq2seq_dialog` puts the current folder before the installed packages: a file of
    # the name datasets.py there would be taken for the library. It comes last instead.
    sys.path.append(sys.path.pop(0))

_MODULES = {
    "Conversation": "serve.inference",
    "DailyDialogDataset": "data.dataset",
    "DialogueCollator": "data.batching",
    "DialogueTrainer": "training.trainer",
    "DialogueTrainingArguments": "training_settings",
    "ReplyMetric": "evaluation.metrics",
    "Safety": "serve.safety",
    "candidates": "serve.inference",
    "generate_response": "serve.inference",
    "generate_responses": "serve.inference",
    "load": "serve.inference",
    "prepare_tokenizer": "models.tokenizer",
}
__all__ = list(_MODULES)


def __getattr__(name: str):
    # Imported on first use: `python -m seq2seq_dialog --help` must not wait for torch.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
