"""The tokenizer: Gemma's own kind (BPE, byte fallback, "▁" for spaces) with Gemma 4's special tokens, 4096 entries."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import GemmaTokenizer

VOCABULARY = 4096
SPECIALS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<|turn>", "<turn|>", "<|image>", "<|image|>", "<image|>",
    "<|audio>", "<|audio|>", "<audio|>", "<|video|>", "<|think|>", "<|channel>", "<channel|>", "<|tool>", "<tool|>",
    "<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>',
]  # fmt: skip
NAMED = {
    "image_token": "<|image|>", "boi_token": "<|image>", "eoi_token": "<image|>",
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
    "video_token": "<|video|>", "sot_token": "<|turn>", "eot_token": "<turn|>", "think_token": "<|think|>",
    "soc_token": "<|channel>", "eoc_token": "<channel|>", "std_token": "<|tool>", "etd_token": "<tool|>",
    "stc_token": "<|tool_call>", "etc_token": "<tool_call|>", "str_token": "<|tool_response>",
    "etr_token": "<tool_response|>", "escape_token": '<|"|>',
}  # fmt: skip
BYTES = [f"<0x{value:02X}>" for value in range(256)]
RUNS = ["▁▁", "▁▁▁▁", "\n\n", "\n\n\n\n"]
ASCII = [chr(code) for code in range(33, 127)] + ["\n", "\t", "▁"]
WORDS = r"▁?[A-Za-z]+|▁?\d|▁?[^A-Za-z\d▁\n]|\n|▁"


def token_id(token: str) -> int:
    """The id of a special token."""
    return SPECIALS.index(token)


def learn(texts: Iterable[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges from text. Words are split apart for learning only, so that no token crosses a word."""
    learner = Tokenizer(BPE())
    learner.normalizer = normalizers.Replace(" ", "▁")
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), "isolated")
    size = VOCABULARY - len(RUNS)
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIALS + BYTES, initial_alphabet=ASCII)
    learner.train_from_iterator(texts, trainer)
    model = json.loads(learner.to_str())["model"]
    vocabulary: dict[str, int] = model["vocab"]
    runs = {run: size + index for index, run in enumerate(RUNS)}
    halves = [(run[: len(run) // 2], run[len(run) // 2 :]) for run in RUNS]
    return vocabulary | runs, [tuple(pair) for pair in model["merges"]] + halves


def assemble(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Gemma's pipeline around a vocabulary: spaces to "▁", no words, <bos> in front."""
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", token_id("<bos>"))]
    )
    return tokenizer


def wrap(tokenizer: Tokenizer, template: str) -> GemmaTokenizer:
    """The transformers tokenizer, with the named media tokens that the processor asks for."""
    return GemmaTokenizer(
        tokenizer_object=tokenizer,
        vocab=tokenizer.get_vocab(with_added_tokens=False),
        chat_template=template,
        model_specific_special_tokens=NAMED,
        padding_side="left",
        model_max_length=8192,
    )


def save(tokenizer: Tokenizer, template: str, folder: Path) -> None:
    """tokenizer.json, tokenizer_config.json and chat_template.jinja in `folder`."""
    wrap(tokenizer, template).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)


def tidy(folder: Path) -> None:
    """tokenizer_config.json without what only says how it was made, or says it twice."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {key: value for key, value in settings.items() if key not in ("is_local", "local_files_only", *NAMED)}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept, indent=2) + "\n")
