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


class DialoguePipeline(Pipeline):
    """Replies to a context: a string, a list of messages, or a list of either.

    Options of `generate()` are passed on; `return_tensors=True` returns token ids instead of text.
    The result is what transformers gives: a list of `{"generated_text": ...}`, the replies to one
    context or one reply to each of a list; with `num_return_sequences`, a list for each.
    """

    _load_processor = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_tokenizer = True
    _pipeline_calls_generate = True

    def __call__(self, inputs, **kwargs):
        if isinstance(inputs, list) and inputs and isinstance(inputs[0], Mapping):
            return super().__call__([inputs], **kwargs)[0]  # one list of messages is one context
        replies = super().__call__(inputs, **kwargs)
        if isinstance(inputs, list) and all(len(answers) == 1 for answers in replies):
            return [answers[0] for answers in replies]
        return replies

    def _sanitize_parameters(self, return_tensors=None, max_length=None, **generate_kwargs):
        # max_length is the greatest length of a reply, as in the pipelines of transformers.
        if max_length is not None:
            generate_kwargs.setdefault("max_new_tokens", max_length)
        postprocess = {} if return_tensors is None else {"return_tensors": return_tensors}
        return {}, generate_kwargs, postprocess

    def preprocess(self, inputs):
        """Encode one context. Shapes: (1, source_len)."""
        inputs = getattr(inputs, "messages", inputs)  # transformers wraps lists of messages
        if isinstance(inputs, Mapping):  # an example of a data set
            inputs = inputs["context"]
        input_ids = torch.tensor([encode_context(inputs, self.tokenizer)])
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}

    def _forward(self, model_inputs, **generate_kwargs):
        batch_size = model_inputs["input_ids"].shape[0]
        output_ids = self.model.generate(**model_inputs, **generate_kwargs)
        # (batch, replies per context, target_len)
        return {"output_ids": output_ids.reshape(batch_size, -1, output_ids.shape[-1])}

    def postprocess(self, model_outputs, return_tensors=False):
        """Decode the replies to one context: `[{"generated_text": ...}, ...]`."""
        replies = model_outputs["output_ids"][0]
        if return_tensors:
            return [{"generated_token_ids": ids} for ids in replies]
        texts = self.tokenizer.batch_decode(replies, skip_special_tokens=True)
        return [{"generated_text": text.strip()} for text in texts]
