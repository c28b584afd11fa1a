"""What a `.pte` takes and gives, for the manifest: its methods by role."""

from export.config import Model
from export.lowering.executorch_modules import patch_side
from export.lowering.executorch_program import FILE
from runtime.manifest import Port, Program

Shape = list[int | str]


def describe_executorch(model: Model) -> dict[str, Program]:
    """Methods of the one file, as ExecuTorch's multimodal runner calls them."""
    text, width = model.text, model.text.hidden + 1
    embeddings: Shape = [1, "step", width]
    logits: Shape = [1, 1, text.vocabulary]
    programs = {
        "embedding": _method("token_embedding", [("int64", [1, "step"])], embeddings),
        "decoder": _method("text_decoder", [("float32", embeddings), ("int64", ["step"])], logits),
    }
    if model.image:
        side = patch_side(model.image)
        pixels: Shape = [1, 3, f"{side} * rows", f"{side} * columns"]
        programs["vision"] = _method("vision_encoder", [("float32", pixels)], [1, "rows * columns", width])
    if model.audio:
        frames: Shape = [1, "frames", model.audio.samples]
        programs["speech"] = _method("audio_encoder", [("float32", frames)], [1, "frames", width])
    return programs


def _method(name: str, inputs: list[tuple[str, Shape]], output: Shape) -> Program:
    """Its inputs have no names of their own: they go by the method's and their place."""
    ports = [Port(name=f"{name}.{place}", dtype=dtype, shape=shape) for place, (dtype, shape) in enumerate(inputs)]
    return Program(file=FILE, inputs=ports, outputs=[Port(name=name, dtype="float32", shape=output)])
