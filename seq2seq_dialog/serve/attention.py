"""Where a reply looks: attention maps in the manner of Bahdanau et al. (2015), figure 3."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from transformers.utils.logging import disable_progress_bar

from ..data.features import encode
from ..errors import UsageError
from ..models.loading import reverse_model
from ..portable.context import encode_context
from ..portable.options import LARGEST_INT
from ..portable.reranking import generate
from ..run_folder import free_path
from .inference import load

CELL = 0.22  # inches, room for a token's letters
LAST_LAYER = "attention of the last layer, mean of its heads"


@torch.no_grad()
def attention_map(
    context: str | Sequence, model, tokenizer, reply: str | None = None
) -> tuple[list[str], list[str], np.ndarray]:
    """Weigh the source tokens at each token of a reply.

    One forward pass under teacher forcing: row t holds the weights with which token t of the reply
    was predicted from the tokens before it. Of several layers it is the last, of several heads the
    mean. Without a text, the reply is the model's own, by its saved decoding settings.

    Returns:
        tokens of the source, tokens of the reply (with the end token, unless the reply reached its
        greatest length without one), and weights (target_len, source_len) whose rows sum to one.
    """
    try:
        ids = encode_context(context, tokenizer)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if reply is not None and not reply.split():
        raise UsageError(f"A reply needs text; got {reply!r}. Without one, the model replies.")
    input_ids = torch.tensor([ids], device=model.device)  # (1, source_len)
    try:
        labels = _reply_ids(reply, input_ids, model, tokenizer)  # (1, target_len)
        outputs = _with_weights(model, input_ids, labels)
    except IndexError as error:
        raise UsageError(
            f"The context has {len(ids):,} tokens, and {model.name_or_path!r} has no positions for "
            "as many or for as long a reply: give shorter ones."
        ) from error
    layers = getattr(outputs, "cross_attentions", None)  # each (1, heads, target_len, source_len)
    if not layers or layers[-1] is None:
        raise UsageError(
            f"{model.name_or_path or type(model).__name__!r} has no attention to draw; train a "
            "model that has: a new_model with attention: additive or multiplicative, T5, BART, ..."
        )
    weights = layers[-1][0].float().mean(0).cpu().numpy()  # (target_len, source_len)
    return _tokens(input_ids[0], tokenizer), _tokens(labels[0], tokenizer), weights


def _with_weights(model, input_ids: torch.Tensor, labels: torch.Tensor):
    """Run a model so that it returns its weights of attention, too."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")  # the fused kernels of others return no weights
    try:
        return model(input_ids=input_ids, labels=labels, output_attentions=True)
    finally:
        model.set_attn_implementation(before)


def _reply_ids(reply: str | None, input_ids: torch.Tensor, model, tokenizer) -> torch.Tensor:
    """Encode a reply as one that is learnt; without a text, generate it."""
    if reply is None:
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        once = {"num_return_sequences": 1}
        return generate(model, tokenizer, inputs, once, reverse_model(model, {}))[:, 1:]
    pair = {"context": [[reply]], "response": [reply]}
    (ids,) = encode(pair, tokenizer, LARGEST_INT, LARGEST_INT)["labels"]
    return torch.tensor([ids], device=model.device)


def _tokens(ids, tokenizer) -> list[str]:
    """Return the tokens of ids (length,); a model may have more ids than its tokenizer tokens."""
    ids = ids.tolist()
    pairs = zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)
    return [f"<{i}>" if token is None else token for i, token in pairs]


def readable(tokens: list[str], tokenizer) -> list[str]:
    """Write tokens as text: `▁Hello` or `ĠHello` as `Hello`, special tokens as they are."""
    return [tokenizer.convert_tokens_to_string([token]).strip() or token for token in tokens]


def draw_map(source: list[str], target: list[str], weights: np.ndarray, title: str = "") -> Figure:
    """Draw weights (target_len, source_len): source along the top, reply down the side."""
    rows, columns = weights.shape
    figure = Figure(figsize=(columns * CELL, rows * CELL))
    axes = figure.add_axes((0, 0, 1, 1))  # the labels stand outside; "tight" makes room for them
    cells = axes.pcolormesh(weights, cmap="Blues", vmin=0, edgecolors="white", linewidth=0.8)
    axes.invert_yaxis()  # the reply's first token is on top
    text = {"fontsize": 9, "parse_math": False}  # a "$" is a token like any other
    axes.set_xticks(np.arange(columns) + 0.5, source, rotation=90, **text)
    axes.set_yticks(np.arange(rows) + 0.5, target, **text)
    axes.tick_params(top=True, bottom=False, labeltop=True, labelbottom=False, length=0)
    axes.spines[:].set_color("0.8")
    height = max(1, 6 / rows)  # of the scale, in heights of the map: at least six cells
    scale = axes.inset_axes((1 + 0.6 / columns, 1 - height, 0.5 / columns, height))
    bar = figure.colorbar(cells, cax=scale)
    bar.set_label("weight", fontsize=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, color="0.5")
    axes.set_title(title, loc="left", pad=10, **text)
    return figure


def save(figure: Figure, path: str | Path) -> None:
    """Write a picture; the ending of its path chooses the format: png, pdf, svg."""
    dpi = min(150, 2**15 / max(figure.get_size_inches()))  # matplotlib ends at 2**16 pixels
    try:
        figure.savefig(path, dpi=dpi, bbox_inches="tight", pad_inches=0.15)
    except (OSError, ValueError) as error:
        raise UsageError(f"Cannot write the picture {str(path)!r}: {error}.") from error


def attention(
    folder: str,
    text: str,
    reply: str | None = None,
    output: str = "attention.png",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Draw where the model in `folder` looks as it replies to `text`; print reply and path.

    Where there is a file at `output`, the picture gets a number: attention-2.png.
    """
    disable_progress_bar()
    model, tokenizer, device = load(folder, device, trust_remote_code)
    source, target, weights = attention_map(text, model, tokenizer, reply)
    recurrent = model.config.model_type == "rnn_seq2seq"
    kind = f"{model.config.attention} attention" if recurrent else LAST_LAYER
    labels = readable(source, tokenizer), readable(target, tokenizer)
    path = free_path(output)
    save(draw_map(*labels, weights, f"{Path(folder).name}: {kind}"), path)
    ids = tokenizer.convert_tokens_to_ids(target)
    print(tokenizer.decode(ids, skip_special_tokens=True).strip())
    print(path)
