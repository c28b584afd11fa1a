"""What a tensor costs a model when it alone is quantized; measured by exports, told by reports."""

import re

from pydantic import BaseModel, ConfigDict


class Sensitivity(BaseModel):
    """Of one tensor."""

    model_config = ConfigDict(extra="ignore")

    name: str
    weights: int  # elements
    kl: dict[str, float]  # nats, by modality, were it alone int4 in groups of 32, its errors compensated

    @property
    def divergence(self) -> float:
        """Nats, the mean of all modalities."""
        return sum(self.kl.values()) / len(self.kl)

    @property
    def label(self) -> str:
        """`layers.3.mlp.gate_proj`"""
        return re.sub(r"^.*?(?=layers\.|embed_tokens)", "", self.name.removesuffix(".weight"))
