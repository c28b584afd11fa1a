"""The encoder-free embedders of images and audio: raw values to soft tokens of the decoder's width."""

from export.config import Audio, Image
from export.graph.vocabulary import Tensor, Vocabulary

LAYER_NORM_EPS = 1e-5  # torch's default, which the reference model relies on


def embed_image(ops: Vocabulary[Tensor], patches: Tensor, cells: Tensor, image: Image) -> Tensor:
    """[1, T, patch_values] pixels and int [1, T, 2] grid cells -> [1, T, hidden]"""
    name = image.name

    def norm(x: Tensor, module: str) -> Tensor:
        return ops.layer_norm(x, f"{name}.{module}", LAYER_NORM_EPS)

    x = ops.linear(norm(patches, "patch_ln1"), f"{name}.patch_dense")
    x = norm(ops.add(x, ops.weight(f"{name}.patch_dense.bias")), "patch_ln2")
    x = norm(ops.add(x, ops.grid_embed(cells, f"{name}.pos_embedding")), "pos_norm")
    return project_soft_tokens(ops, x, f"{name}.multimodal_embedder", image.eps)


def embed_audio(ops: Vocabulary[Tensor], frames: Tensor, audio: Audio) -> Tensor:
    """[1, T, samples] raw waveform frames -> [1, T, hidden]"""
    return project_soft_tokens(ops, frames, audio.name, audio.eps)


def project_soft_tokens(ops: Vocabulary[Tensor], x: Tensor, name: str, eps: float) -> Tensor:
    """[1, T, width] -> [1, T, hidden]"""
    return ops.linear(ops.rms_norm(x, None, eps), f"{name}.embedding_projection")
