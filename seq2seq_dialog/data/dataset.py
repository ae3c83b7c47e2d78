"""Dialogues as a PyTorch Dataset, for a training loop of your own."""

from pathlib import Path

import torch

from ..errors import UsageError
from ..models.tokenizer import prepare_tokenizer
from ..settings import DataArguments
from .batching import DialogueCollator
from .features import encode_rows
from .formats import load_content
from .rows import load_rows


class DailyDialogDataset(torch.utils.data.Dataset):
    """Dialogues for a `DataLoader` and a training loop of your own.

        dataset = DailyDialogDataset(tokenizer, "dialogues_text.txt", max_length=512)
        loader = DataLoader(dataset, batch_size=8, shuffle=True)
        for batch in loader:
            loss = model(**batch).loss

    An item has `input_ids`, `attention_mask` and `labels`, tensors (length,) without padding. The
    items that a DataLoader fetches together are padded to the longest among them.

    Args:
        tokenizer: a T5-like tokenizer. It learns `__eou__` as a token (`prepare_tokenizer`): for a
            model without a spare embedding row, call `model.resize_token_embeddings`.
        data: a text file or any source that the run script takes; or dialogues in memory, a list
            of lists of strings or of messages, or a pandas DataFrame with the columns of a table.
        max_length: greatest context in tokens, cut from the left at whole turns.
        max_target_length: greatest reply in tokens.
        split: `train`, `validation` or `test`; all of them by default.
        detokenize: write natural text from spaced tokens.
    """

    def __init__(
        self,
        tokenizer,
        data,
        max_length: int = 512,
        max_target_length: int = 128,
        split: str | None = None,
        detokenize: bool = True,
    ):
        args = DataArguments(
            data=str(data) if isinstance(data, str | Path) else None,
            detokenize=detokenize,
            max_source_length=max_length,
            max_target_length=max_target_length,
        )
        rows, self.problems = load_rows(args) if args.data else load_content(data, args)
        if split is not None and split not in rows:
            raise UsageError(
                f"{args.data or 'data'} has no split {split!r}; it has {', '.join(rows)}."
            )
        prepare_tokenizer(tokenizer, max_length)
        parts = [encode_rows(rows[name], tokenizer, args) for name in rows if split in (None, name)]
        self.parts = torch.utils.data.ConcatDataset(
            [part.select_columns(["input_ids", "labels"]) for part in parts]
        )
        self.collate = DialogueCollator(tokenizer.pad_token_id)

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, torch.Tensor]]:
        batch = self.collate([self.parts[index] for index in indices])
        return [{name: tensor[i] for name, tensor in batch.items()} for i in range(len(indices))]
