"""Tiny checkpoints of each family of encoder-decoders, in folders as the Hub has them."""

import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import torch
import transformers as hf
from helpers.corpus import sample_dialogues
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from tokenizers import pre_tokenizers
from transformers.models.m2m_100.tokenization_m2m_100 import FAIRSEQ_LANGUAGE_CODES

T5_SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
GATED = {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
BART_SIZES = {
    "d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
BERT_SIZES = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 64,
}  # fmt: skip
GEMMA_SIZES = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"], "max_position_embeddings": 64,
}  # fmt: skip
T5_IDS = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
FAIRSEQ_IDS = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}
BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


@cache
def letters() -> list[str]:
    """List what the sample corpus is written with, in lower case."""
    texts = (text for turns in sample_dialogues(400) for text in turns)
    return sorted(set("".join(texts).lower()) - {" "})


# Tokenizers, each made in a folder of its own


def train_pieces(path: Path, **options) -> list[str]:
    """Train sentencepiece on a few dialogues; return the pieces."""
    texts = [text for turns in sample_dialogues(60) for text in turns]
    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            **{"vocab_size": 200, "hard_vocab_limit": False, "minloglevel": 2} | options,
        )
    model = SentencePieceProcessor(model_file=str(path))
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def write_vocabulary(path: Path, pieces: Iterable[str]) -> None:
    """Write pieces with their ids, as JSON."""
    path.write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}), encoding="utf-8")


def t5_tokenizer(folder):
    train_pieces(folder / "spiece.model", **T5_IDS)
    return hf.T5Tokenizer.from_pretrained(folder, extra_ids=20)


def byt5_tokenizer(folder):
    return hf.ByT5Tokenizer()


def byte_level_tokenizer(kind, folder):
    write_vocabulary(folder / "vocab.json", ["<s>", "<pad>", "</s>", "<unk>", *BYTES, "<mask>"])
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return kind.from_pretrained(folder)


def mbart_tokenizer(kind, folder):
    train_pieces(folder / "sentencepiece.bpe.model", **FAIRSEQ_IDS)
    return kind.from_pretrained(folder)


def pegasus_tokenizer(folder):
    masks = ["<mask_1>", "<mask_2>", *(f"<unk_{i}>" for i in range(2, 103))]
    ids = T5_IDS | {"unk_id": 105}
    options = {"vocab_size": 300, "user_defined_symbols": masks}
    train_pieces(folder / "spiece.model", **ids, **options)
    return hf.PegasusTokenizer.from_pretrained(folder)


def blenderbot_small_tokenizer(folder):
    special = ["__null__", "__start__", "__end__", "__unk__"]
    pieces = [*special, *letters(), *(letter + "@@" for letter in letters())]
    write_vocabulary(folder / "vocab.json", pieces)
    (folder / "merges.txt").write_text("#version: 0.2\nt h\n")
    return hf.BlenderbotSmallTokenizer.from_pretrained(folder)


def wordpiece_tokenizer(kind, file, folder):
    special = ["[PAD]", "[X_SEP]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters(), *("##" + letter for letter in letters())]
    (folder / file).write_text("\n".join(pieces), encoding="utf-8")
    return kind.from_pretrained(folder)


def marian_tokenizer(folder):
    for name in ("source.spm", "target.spm"):
        pieces = train_pieces(folder / name, pad_id=-1)
    common = [piece for piece in pieces if piece not in ("<s>", "</s>", "<unk>")]
    write_vocabulary(folder / "vocab.json", ["</s>", "<unk>", *common, "<pad>"])
    return hf.MarianTokenizer.from_pretrained(folder)


def m2m100_tokenizer(folder, codes=FAIRSEQ_LANGUAGE_CODES["m2m100"]):
    pieces = train_pieces(folder / "sentencepiece.bpe.model", **FAIRSEQ_IDS)
    write_vocabulary(folder / "vocab.json", ["<s>", "<pad>", "</s>", "<unk>", *pieces[3:]])
    options = {"additional_special_tokens": [f"__{code}__" for code in codes]} if codes else {}
    return hf.M2M100Tokenizer.from_pretrained(folder, **options)


def nllb_tokenizer(folder):
    train_pieces(folder / "sentencepiece.bpe.model", model_type="bpe", **FAIRSEQ_IDS)
    codes = ["eng_Latn", "deu_Latn"]
    return hf.NllbTokenizer.from_pretrained(folder, extra_special_tokens=codes)


def gemma_tokenizer(folder):
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *letters()]
    pieces += [letter for letter in map(str.upper, letters()) if letter not in pieces]
    pieces += [f"<0x{i:02X}>" for i in range(256)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return hf.GemmaTokenizer(vocab=vocab, merges=[], add_bos_token=True)


# Models for a tokenizer, with random weights


def t5(kind, config, tokenizer, **sizes):
    spare = 28 if tokenizer.is_fast else 0  # all have some, but ByT5
    rows = len(tokenizer) + spare
    return kind(config(vocab_size=rows, decoder_start_token_id=0, **T5_SIZES | sizes))


def bart(kind, config, tokenizer, **sizes):
    special = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "eos")
    }
    sizes = {"decoder_start_token_id": special["eos_token_id"], **BART_SIZES, **special, **sizes}
    return kind(config(vocab_size=len(tokenizer), **sizes))


def marian(tokenizer):
    start = {"decoder_start_token_id": tokenizer.pad_token_id}
    return bart(hf.MarianMTModel, hf.MarianConfig, tokenizer, **start)


def prophetnet(tokenizer):
    end = tokenizer.sep_token_id
    config = hf.ProphetNetConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_encoder_layers=1, num_decoder_layers=1,
        encoder_ffn_dim=32, decoder_ffn_dim=32, num_encoder_attention_heads=2,
        num_decoder_attention_heads=2, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=end, eos_token_id=end, decoder_start_token_id=end,
    )  # fmt: skip
    return hf.ProphetNetForConditionalGeneration(config)


def t5gemma(tokenizer):
    # Beyond the window, which has 4,096 tokens in the checkpoints of the Hub, the lines differ.
    half = GEMMA_SIZES | {"vocab_size": len(tokenizer), "sliding_window": 64}
    config = hf.T5GemmaConfig(encoder=half, decoder=half, vocab_size=len(tokenizer))
    return hf.T5GemmaForConditionalGeneration(config)


def t5gemma2(tokenizer):
    rows = len(tokenizer) + 64  # spare, and for images
    image = {f"{name}_token_index": rows - i for i, name in enumerate(("image", "boi", "eoi"), 1)}
    half = GEMMA_SIZES | {"vocab_size": rows}
    vision = {
        "model_type": "siglip_vision_model", "hidden_size": 8, "intermediate_size": 8,
        "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    encoder = {"text_config": half, "vision_config": vision, "mm_tokens_per_image": 4, **image}
    start = {"image_token_index": image["image_token_index"]}
    return hf.T5Gemma2ForConditionalGeneration(
        hf.T5Gemma2Config(encoder=encoder, decoder=half, **start)
    )


def pair(tokenizer):
    halves = [hf.BertConfig(vocab_size=len(tokenizer), **BERT_SIZES) for _ in range(2)]
    config = hf.EncoderDecoderConfig.from_encoder_decoder_configs(*halves)
    return hf.EncoderDecoderModel(config=config)


@dataclass(frozen=True)
class Family:
    """How a tiny checkpoint of a family is made, and what is known of the family."""

    tokenizer: Callable
    model: Callable
    legacy: str = "yes"  # on transformers 4.57; eager: with that attention
    unused: tuple[str, ...] = ()  # parts of the names of weights that no text reaches


def _t5(kind, config, tokenizer=t5_tokenizer, **sizes):
    return Family(tokenizer, partial(t5, kind, config, **sizes))


def _bart(kind, config, tokenizer, legacy="yes", unused=(), **sizes):
    return Family(tokenizer, partial(bart, kind, config, **sizes), legacy, unused)


SINES = ("embed_positions",)
_bytes = partial(partial, byte_level_tokenizer)
_wordpieces = partial(partial, wordpiece_tokenizer)
_mbart = partial(partial, mbart_tokenizer)
FAMILIES = {
    "T5": _t5(hf.T5ForConditionalGeneration, hf.T5Config),
    "FLAN-T5": _t5(hf.T5ForConditionalGeneration, hf.T5Config, **GATED),
    "mT5": _t5(hf.MT5ForConditionalGeneration, hf.MT5Config),
    "ByT5": _t5(hf.T5ForConditionalGeneration, hf.T5Config, byt5_tokenizer, **GATED),
    "UMT5": _t5(hf.UMT5ForConditionalGeneration, hf.UMT5Config),
    "LongT5": _t5(
        hf.LongT5ForConditionalGeneration, hf.LongT5Config, local_radius=4, global_block_size=4,
        encoder_attention_type="transient-global",
    ),
    "T5Gemma": Family(gemma_tokenizer, t5gemma, legacy="eager"),
    "T5Gemma 2": Family(
        gemma_tokenizer, t5gemma2, legacy="no",
        unused=("vision_tower", "multi_modal", "eoi_embedding"),
    ),
    "BART": _bart(
        hf.BartForConditionalGeneration, hf.BartConfig, _bytes(hf.BartTokenizer),
        forced_eos_token_id=2,
    ),
    "mBART": _bart(
        hf.MBartForConditionalGeneration, hf.MBartConfig, _mbart(hf.MBartTokenizer),
        decoder_start_token_id=None,
    ),
    "mBART-50": _bart(
        hf.MBartForConditionalGeneration, hf.MBartConfig, _mbart(hf.MBart50Tokenizer)
    ),
    "Pegasus": _bart(
        hf.PegasusForConditionalGeneration, hf.PegasusConfig, pegasus_tokenizer,
        decoder_start_token_id=0, unused=SINES,
    ),
    "Pegasus-X": _bart(
        hf.PegasusXForConditionalGeneration, hf.PegasusXConfig, pegasus_tokenizer,
        decoder_start_token_id=0, num_global_tokens=4, block_size=8,
    ),
    "Blenderbot": _bart(
        hf.BlenderbotForConditionalGeneration, hf.BlenderbotConfig,
        _bytes(hf.BlenderbotTokenizer), decoder_start_token_id=0,
    ),
    "BlenderbotSmall": _bart(
        hf.BlenderbotSmallForConditionalGeneration, hf.BlenderbotSmallConfig,
        blenderbot_small_tokenizer, legacy="no", decoder_start_token_id=1,
    ),
    "ProphetNet": Family(
        _wordpieces(hf.ProphetNetTokenizer, "prophetnet.tokenizer"), prophetnet
    ),
    "Marian": Family(marian_tokenizer, marian, unused=SINES),
    "M2M100": _bart(hf.M2M100ForConditionalGeneration, hf.M2M100Config, m2m100_tokenizer),
    "NLLB": _bart(hf.M2M100ForConditionalGeneration, hf.M2M100Config, nllb_tokenizer),
    "Pairs": Family(_wordpieces(hf.BertTokenizer, "vocab.txt"), pair, unused=("pooler",)),
}  # fmt: skip


def make_checkpoint(family: str, folder: Path) -> str:
    """Make a checkpoint whose replies depend on the context, in an empty folder."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    files, checkpoint = folder / "files", folder / "checkpoint"
    files.mkdir(parents=True)
    tokenizer = FAMILIES[family].tokenizer(files)
    torch.manual_seed(1)
    model = FAMILIES[family].model(tokenizer)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "norm" not in name.lower():  # not positions of sines
                parameter.normal_(0, 1.0 if "crossattention" in name else 0.5)
    model.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    return str(checkpoint)
