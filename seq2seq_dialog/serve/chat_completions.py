"""OpenAI's form of a chat: what a request may hold, and what is answered."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    model_validator,
)

from ..errors import nearest

MOST_NEW_TOKENS = 1000  # more would take minutes for each reply
MOST_CHOICES = 16
# Where a request says how to sample, beams and guidance that the model has saved do not hold: with
# either, no reply could be streamed.
PLAIN = {"num_beams": 1, "guidance_weight": 0.0}
# Options of OpenAI's that say nothing about the reply.
IGNORED = {
    "metadata",
    "moderation",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
}
# Options of OpenAI's that a request may spell out, with the values at which they change nothing,
# beside None. Without tools, it does not matter how they are chosen.
UNCHANGED = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "parallel_tool_calls": (True, False),
    "prediction": (),
    "presence_penalty": (0,),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
LEAST = 1e-3  # temperature or top_p; below, only the likeliest token is left


def refuse_half_characters(text: str) -> str:
    """Return a text; refuse half of a character, which JSON can spell."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            "half of a character (an escaped surrogate without its other half)"
        ) from error
    return text


Text = Annotated[str, AfterValidator(refuse_half_characters)]


class TextPart(BaseModel):
    """A part of a message; there is no other kind."""

    type: Literal["text"]
    text: Text


def as_parts(content, info: ValidationInfo):
    """Write plain text as a list of parts; of an assistant that called tools, there may be none."""
    if content is None and info.data.get("role") == "assistant":
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def as_list(stop):
    """Write one text as a list of texts, an empty one as none."""
    return list(filter(None, [stop])) if isinstance(stop, str) else stop


class Message(BaseModel):
    """A turn, or what stands before the dialogue. Other keys are ignored."""

    role: Literal["system", "developer", "user", "assistant", "persona", "knowledge"]
    content: Annotated[list[TextPart], BeforeValidator(as_parts)]

    def as_context(self) -> dict[str, str]:
        """Return the message as `portable.context.as_turns` takes it."""
        role = "system" if self.role == "developer" else self.role
        return {"role": role, "content": " ".join(part.text for part in self.content)}


class StreamOptions(BaseModel):
    """What a stream holds besides the reply. Other keys are ignored."""

    include_usage: bool = False


StopText = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ChatRequest(BaseModel):
    """The body of a request to `/v1/chat/completions`; None is the same as no value."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    model: str
    messages: list[Message] = Field(min_length=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST_CHOICES)
    max_tokens: int | None = Field(None, ge=1, le=MOST_NEW_TOKENS)
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST_NEW_TOKENS)
    stop: Annotated[list[StopText] | None, Field(max_length=4), BeforeValidator(as_list)] = None
    seed: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _refuse_other_options(self) -> ChatRequest:
        for name, value in self.model_extra.items():
            if value is None or name in IGNORED:
                continue
            if name not in UNCHANGED:
                known = {*ChatRequest.model_fields, *IGNORED, *UNCHANGED}
                raise ValueError(f"there is no option {name!r}.{nearest(name, known)}")
            if value not in UNCHANGED[name]:
                raise ValueError(f"{name} is {value!r}, but these models cannot do that.")
        return self

    def decoding(self) -> dict:
        """Return options of `generate()`: what the request sets, over the model's own settings."""
        options: dict = {}
        given = {"temperature": self.temperature, "top_p": self.top_p}
        given = {name: value for name, value in given.items() if value is not None}
        if any(value < LEAST for value in given.values()):
            options = PLAIN | {"do_sample": False}
        elif given:
            options = PLAIN | {"do_sample": True} | given
        longest = self.max_completion_tokens or self.max_tokens
        if longest is not None:
            options["max_new_tokens"] = longest
        return options


class Completion:
    """Writes the answer to a request: at once, or as the chunks of a stream."""

    def __init__(self, model: str, prompt_tokens: int):
        self.head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self.prompt_tokens = prompt_tokens

    def whole(self, replies: list[tuple[str, str]], tokens: int) -> dict:
        """Write an answer of texts with their finish reasons, of so many tokens together."""
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "refusal": None},
                "logprobs": None,
                "finish_reason": reason,
            }
            for index, (text, reason) in enumerate(replies)
        ]
        body = self.head | {"object": "chat.completion", "choices": choices}
        return body | {"usage": self.usage(tokens)}

    def chunk(self, index: int, delta: dict, finish_reason: str | None = None) -> dict:
        """Write a chunk of the reply `index`."""
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self.head | {"object": "chat.completion.chunk", "choices": [choice]}

    def last_chunk(self, tokens: int) -> dict:
        """Write the chunk that has the usage."""
        head = self.head | {"object": "chat.completion.chunk", "choices": []}
        return head | {"usage": self.usage(tokens)}

    def usage(self, tokens: int) -> dict[str, int]:
        """Count the tokens that the model has read, and those of its replies."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": tokens,
            "total_tokens": self.prompt_tokens + tokens,
        }


def error_body(message: str, status: int, code: str | None = None, param: str | None = None):
    """Write an error as OpenAI does."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}
