"""What text models have in place of a processor: transformers makes none for them, only a tokenizer."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from runtime.architectures import TEXT_ONLY
from runtime.errors import UserError
from runtime.untrusted import read_object

NO_MEDIA = "the model takes text only: leave out images, videos and clips"
NO_TEMPLATE = "the checkpoint has no chat template: it continues text, and knows no system message, tools or thinking"
# Base models ship no template: they continue a text, which is all that has been said.
CONTINUE = """{{ bos_token }}{% for message in messages %}\
{% if message.content is string %}{{ message.content }}\
{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"""


def open_processor(folder: Path) -> Any:
    """transformers' processor of a checkpoint, whatever its tokenizer says it belongs to.

    Raises:
        Exception: of any type, where files are missing or damaged.
    """
    from transformers import AutoProcessor, AutoTokenizer  # seconds to import

    config = folder / "config.json"
    if config.exists() and read_object(config, "copy it again").get("model_type") in TEXT_ONLY:
        return TextProcessor(AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True))
    return AutoProcessor.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


class NoMedia(UserError, AttributeError):
    """A text model is asked for what only media need."""


class TextProcessor:
    """A tokenizer, called as the processors of multimodal models are."""

    image_token_id = audio_token_id = video_token_id = None
    feature_extractor = SimpleNamespace(sampling_rate=16000)  # held-out clips are read at, and left out

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.continues = tokenizer.chat_template is None
        tokenizer.chat_template = tokenizer.chat_template or CONTINUE

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        """Raises:
        ValueError: more is asked than to continue text, of a checkpoint that has no template.
        """
        system = any(message["role"] in ("system", "tool") for message in messages)
        if self.continues and (system or options.get("tools") or options.get("enable_thinking")):
            raise ValueError(NO_TEMPLATE)
        return self.tokenizer.apply_chat_template(messages, **options)

    def __call__(
        self, text: str, images: Any, audio: Any, videos: Any, videos_kwargs: dict[str, Any], **options: Any
    ) -> Any:
        """Raises:
        UserError: there are media.
        """
        if images or audio or videos:
            raise UserError(NO_MEDIA)
        return self.tokenizer([text], **options)

    def __getattr__(self, name: str) -> Any:
        """All else that a processor has is for media."""
        raise NoMedia(NO_MEDIA)
