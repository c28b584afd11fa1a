"""What a group of tensors costs a model when it alone is quantized; measured by exports, told by reports."""

import re

from pydantic import BaseModel, ConfigDict


class Sensitivity(BaseModel):
    """Of one group of tensors."""

    model_config = ConfigDict(extra="ignore")

    names: list[str]
    weights: int
    kl: dict[str, float]  # nats, by modality, were it alone int4 in groups of 32, plainly rounded

    @property
    def divergence(self) -> float:
        """Nats, the mean of all modalities."""
        return sum(self.kl.values()) / len(self.kl)

    @property
    def label(self) -> str:
        """`layers.3.mlp.gate_proj, up_proj`"""
        names = [name.removesuffix(".weight") for name in self.names]
        first = re.sub(r"^.*?(?=layers\.|embed_tokens)", "", names[0])
        return ", ".join([first, *(name.rpartition(".")[2] for name in names[1:])])
