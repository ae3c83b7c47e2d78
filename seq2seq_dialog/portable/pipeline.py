"""The text2text-generation pipeline of a dialogue model, for transformers 5 and 4.57.

transformers 5 has no such task, and its text-generation pipeline takes the reply of an
encoder-decoder model for a continuation of the prompt and cuts it. So this file travels with the
model:

    pipeline("text2text-generation", model="user/name", trust_remote_code=True)("How are you?")
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import Pipeline

from .context import encode_context

# Of a folder, transformers 4.57 copies the files that this one names, and none that those name.
from .guidance import ContextFreeGuidance  # noqa: F401
from .options import checked_options
from .reranking import generate

# Arguments of the pipelines that transformers 5 has removed, and what to do instead.
REPLACED = {
    "handle_long_generation": "a long context is always cut, from the left at whole turns",
    "prefix": "put it into the context",
    "return_type": "set return_tensors=True for token ids",
    "stop_sequence": "set stop_strings",
}


class DialoguePipeline(Pipeline):
    """Replies to a context: a string, a list of messages, or a list of either.

    Options of `generate()` are passed on, those of the constructor in every call that has none of
    its own; `return_tensors=True` returns token ids instead of text. `clean_up_tokenization_spaces`
    is for decoding. `truncation`, `return_text` and `return_full_text` are taken where they ask for
    what is done: long contexts are always cut, and a reply never repeats its context.
    `candidates`, `rerank` and the like are those of `reranking`, without the criterion `reverse`.
    The result is what transformers gives: a list of `{"generated_text": ...}`, the replies to one
    context or one reply to each of a list; with `num_return_sequences`, a list for each.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    # Else transformers sets options that the constructor gets aside, unchecked.
    _pipeline_calls_generate = False

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, list) and not inputs:
            raise ValueError("The list of contexts is empty; give at least one.")
        is_chat = isinstance(inputs, list) and isinstance(inputs[0], Mapping)
        if is_chat and "context" not in inputs[0]:
            return super().__call__([inputs], **kwargs)[0]  # one list of messages is one context
        replies = super().__call__(inputs, **kwargs)
        if isinstance(inputs, list) and all(len(answers) == 1 for answers in replies):
            return [answers[0] for answers in replies]
        return replies

    def _sanitize_parameters(
        self,
        return_tensors=None,
        return_text=None,
        return_full_text=None,
        truncation=None,
        clean_up_tokenization_spaces=None,
        **generate_kwargs,
    ):
        instead = {name: REPLACED[name] for name in REPLACED.keys() & generate_kwargs.keys()}
        if return_full_text:
            instead["return_full_text"] = (
                "a reply does not continue its context; join them yourself"
            )
        if truncation is False or truncation == "do_not_truncate":
            instead["truncation"] = (
                "a long context is always cut, from the left at whole turns, to the tokenizer's "
                "model_max_length: set that"
            )
        if return_text is False and not return_tensors:
            instead["return_text"] = "set return_tensors=True for token ids"
        for name, reason in instead.items():
            raise ValueError(f"{name} does not work with this pipeline: {reason}.")
        options = checked_options(generate_kwargs, self.model.config)
        # max_length is the greatest length of a reply, as in the pipelines of transformers.
        max_length = options.pop("max_length", None)
        if max_length is not None:
            options.setdefault("max_new_tokens", max_length)
        postprocess = {
            "return_tensors": return_tensors,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
        }
        return {}, options, {k: v for k, v in postprocess.items() if v is not None}

    def preprocess(self, inputs):
        """Encode one context. Shapes: (1, source_len)."""
        inputs = getattr(inputs, "messages", inputs)  # transformers wraps lists of messages
        if isinstance(inputs, Mapping) and "context" in inputs:  # an example of a data set
            inputs = inputs["context"]
        input_ids = torch.tensor([encode_context(inputs, self.tokenizer)])
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def _forward(self, model_inputs, **generate_kwargs):
        batch_size = model_inputs["input_ids"].shape[0]
        output_ids = generate(self.model, self.tokenizer, model_inputs, generate_kwargs)
        # (batch, replies per context, target_len)
        return {"output_ids": output_ids.reshape(batch_size, -1, output_ids.shape[-1])}

    def postprocess(self, model_outputs, return_tensors=False, **decode_options):
        """Decode the replies to one context: `[{"generated_text": ...}, ...]`."""
        replies = model_outputs["output_ids"][0]
        if return_tensors:
            return [{"generated_token_ids": ids} for ids in replies]
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=True, **decode_options)
        return [{"generated_text": text.strip()} for text in texts]
