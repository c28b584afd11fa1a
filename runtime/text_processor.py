"""What text models have in place of a processor: transformers makes none for them, only a tokenizer."""

from types import SimpleNamespace
from typing import Any

from runtime.errors import UserError

TEXT_ONLY = "the model takes text only: leave out images, videos and clips"
# Base models ship no template: they continue a text, which is all that has been said.
CONTINUE = """{{ bos_token }}{% for message in messages %}{{ '\n' if not loop.first }}\
{% if message.content is string %}{{ message.content }}\
{% else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}{% endfor %}"""


class TextProcessor:
    """A tokenizer, called as the processors of multimodal models are."""

    image_token_id = audio_token_id = video_token_id = None
    feature_extractor = SimpleNamespace(sampling_rate=16000)  # held-out clips are read at, and left out

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        tokenizer.chat_template = tokenizer.chat_template or CONTINUE

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return self.tokenizer.apply_chat_template(messages, **options)

    def __call__(
        self, text: str, images: Any, audio: Any, videos: Any, videos_kwargs: dict[str, Any], **options: Any
    ) -> Any:
        """Raises:
        UserError: there are media.
        """
        if images or audio or videos:
            raise UserError(TEXT_ONLY)
        return self.tokenizer([text], **options)

    def __getattr__(self, name: str) -> Any:
        """All else that a processor has is for media."""
        raise UserError(TEXT_ONLY)
