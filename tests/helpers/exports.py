"""Exports without measuring, and the replies that are compared."""

from helpers.corpus import sample_dialogues

from seq2seq_dialog.portable.context import encode_context
from seq2seq_dialog.serve.export import convert
from seq2seq_dialog.serve.exported_model import ExportedModel

CONTEXTS = [turns[:t] for turns in sample_dialogues(8) for t in (1, 2)]


def convert_to(output, folder, tokenizer, quantization="float32"):
    """Convert without measuring."""
    convert(folder, tokenizer, output, quantization)
    return ExportedModel(output)


def batch(tokenizer):
    """The contexts as padded ids and mask, (batch, source_len)."""
    ids = [encode_context(context, tokenizer) for context in CONTEXTS]
    padded = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
    return {name: padded[name] for name in ("input_ids", "attention_mask")}


def replies(model, tokenizer, **options):
    """Ids of each reply, without padding and start and end tokens."""
    output_ids = model.generate(**batch(tokenizer), **options).tolist()
    special = {tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id}
    return [[i for i in row if i not in special] for row in output_ids]
