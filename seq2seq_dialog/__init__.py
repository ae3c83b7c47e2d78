"""Train a dialogue response generator from a text file of dialogues, and use it.

The way of the data: `dataset_script/dialogues.py` (text to rows) -> `data` (rows to batches) ->
`models`, `trainer` (training) -> `artifact`, `report` (the run folder) -> `inference` (answering).
"""

from importlib import import_module
from pathlib import Path

# A wheel holds dataset_script/ and configs/ inside the package; in a checkout they stand beside it.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "run_seq2seq_dialog.py").is_file():
    __path__.append(str(_checkout))

_HOME = {
    "Conversation": "serve.inference",
    "DailyDialogDataset": "data.dataset",
    "DialogueCollator": "data.batching",
    "DialogueTrainer": "training.trainer",
    "DialogueTrainingArguments": "settings",
    "ReplyMetric": "evaluation.metrics",
    "generate_response": "serve.inference",
    "load": "serve.inference",
    "prepare_tokenizer": "models.tokenizer",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    # Imported on first use: `python -m seq2seq_dialog --help` must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
