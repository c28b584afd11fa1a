"""The processor of the tiny checkpoint."""

from pathlib import Path

from transformers import AutoTokenizer
from transformers.models.gemma4_unified import feature_extraction_gemma4_unified as audio
from transformers.models.gemma4_unified import image_processing_gemma4_unified as image
from transformers.models.gemma4_unified import processing_gemma4_unified as processing
from transformers.models.gemma4_unified import video_processing_gemma4_unified as video

from export.tiny.tokenizer import tidy

SOFT_TOKENS, AUDIO_TOKENS = 70, 750


def save(folder: Path) -> None:
    """processor_config.json in `folder`, which already holds the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = processing.Gemma4UnifiedProcessor(
        feature_extractor=audio.Gemma4UnifiedAudioFeatureExtractor(),
        image_processor=image.Gemma4UnifiedImageProcessor(max_soft_tokens=SOFT_TOKENS),
        tokenizer=tokenizer,
        video_processor=video.Gemma4UnifiedVideoProcessor(max_soft_tokens=SOFT_TOKENS),
        chat_template=tokenizer.chat_template,
        image_seq_length=SOFT_TOKENS,
        audio_seq_length=AUDIO_TOKENS,
    )
    kept = (folder / "tokenizer.json").read_bytes()
    processor.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(kept)
    tidy(folder)
