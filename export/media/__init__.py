"""Pictures and sounds that goldens ask about, and the prompts made of them."""

from pathlib import Path

from transformers.models.gemma4_unified.processing_gemma4_unified import get_aspect_ratio_preserving_size

from export.config import Model
from runtime.goldens import GoldenPrompt, default_prompts
from runtime.prompt import Prompter, read_image

HERE = Path(__file__).parent


def golden_prompts(model: Model, prompter: Prompter, scratch: Path) -> list[GoldenPrompt]:
    """For every modality the model has; files made on the way lie in `scratch`."""
    windows = [layer.window for layer in model.text.layers if layer.window]
    images = sorted(HERE.glob("*.png")) if model.image else []
    clips = sorted(HERE.glob("*.wav")) if model.audio else []
    fitting = [_fitting(images[0], prompter, scratch)] if images else []
    return default_prompts(max(windows, default=0), fitting + images, clips, about_clip="What digit is spoken?")


def _fitting(image: Path, prompter: Prompter, scratch: Path) -> Path:
    """The image in a size that the processor leaves as it is."""
    settings, picture = prompter.processor.image_processor, read_image(image)
    patches = settings.max_soft_tokens * settings.pooling_kernel_size**2
    height, width = get_aspect_ratio_preserving_size(
        picture.height, picture.width, settings.patch_size, patches, settings.pooling_kernel_size
    )
    path = scratch / f"{image.stem}-fitting.png"
    picture.resize((width, height)).save(path)
    return path
