"""Train a dialogue response generator from a text file of dialogues, and use it.

The way of the data: `dataset_script/dialogues.py` (text to rows) -> `data` (rows to batches) ->
`models`, `trainer` (training) -> `artifact`, `report` (the run folder) -> `inference` (answering).
"""

from importlib import import_module

_HOME = {
    "Conversation": "inference",
    "DailyDialogDataset": "data",
    "DialogueCollator": "data",
    "DialogueTrainer": "trainer",
    "DialogueTrainingArguments": "arguments",
    "ReplyMetric": "metrics",
    "generate_response": "inference",
    "load": "inference",
    "prepare_tokenizer": "models",
}
__all__ = list(_HOME)


def __getattr__(name: str):
    # Imported on first use: `python -m seq2seq_dialog --help` must not wait for torch.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOME[name]}", __name__), name)
