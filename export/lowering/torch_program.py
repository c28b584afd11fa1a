"""The description run by torch from a checkpoint, one weight in memory at a time."""

import torch
from torch import Tensor

from export.config import Model
from export.graph.decoder import decode, embed_tokens
from export.graph.embedders import embed_audio, embed_image
from export.lowering.torch_ops import Step, TorchOps, new_caches
from export.weights import KvScales, Weights
from runtime.errors import UserError
from runtime.sessions.base import ModelInputs


class TorchProgram:
    """One sequence; every call of `run` appends to it."""

    def __init__(
        self, model: Model, weights: Weights, max_context: int, max_step: int, kv_scales: KvScales | None = None
    ) -> None:
        self.model = model
        self.weights = weights
        self.max_step = max_step
        self.caches = new_caches(model.text, max_context, max_step, kv_scales)
        self.position = 0

    @torch.no_grad()
    def run(self, inputs: ModelInputs, last_only: bool = False) -> Tensor:
        """Positions as the processor makes them -> logits, fp32 [wanted, vocabulary].

        Raises:
            UserError: more positions than `max_step`, which the rings of the sliding layers cannot hold.
        """
        ids = torch.from_numpy(inputs.input_ids)
        if len(ids) > self.max_step:
            raise UserError(
                f"a step of {len(ids)} positions is longer than max_step={self.max_step}: prefill in chunks"
            )
        positions = torch.arange(self.position, self.position + len(ids))
        step = Step(positions, self._blocks(ids), self.caches, last_only)
        logits = decode(TorchOps(self._load, step), self._embed(ids, inputs), self.model.text)[0]
        self.position += len(ids)
        return logits

    def _load(self, name: str) -> Tensor:
        return torch.from_numpy(self.weights.dense(name))

    def _blocks(self, ids: Tensor) -> Tensor:
        """int [T]: number of the image or frame that each position belongs to, -1 for none."""
        vision = torch.zeros_like(ids, dtype=torch.bool)
        for token in (self.model.tokens.image, self.model.tokens.video):
            vision |= ids == token if token is not None else False
        starts = vision & ~torch.cat((torch.tensor([False]), vision[:-1]))
        return torch.where(vision, starts.cumsum(0) - 1, -1)

    def _embed(self, ids: Tensor, inputs: ModelInputs) -> Tensor:
        """[1, T, hidden]: tokens, and soft tokens where their placeholders stand."""
        ops, tokens = TorchOps(self._load), self.model.tokens
        images, clips = ids == (tokens.image or -1), ids == (tokens.audio or -1)
        embeds = embed_tokens(ops, ids.masked_fill(images | clips, tokens.pad)[None], self.model.text)
        if self.model.image and inputs.pixel_values is not None and inputs.image_position_ids is not None:
            cells = torch.from_numpy(inputs.image_position_ids)
            soft = embed_image(ops, torch.from_numpy(inputs.pixel_values), cells, self.model.image)
            embeds[0, images] = soft[(cells >= 0).all(-1)]
        if self.model.audio and inputs.input_features is not None and inputs.input_features_mask is not None:
            soft = embed_audio(ops, torch.from_numpy(inputs.input_features), self.model.audio)
            embeds[0, clips] = soft[torch.from_numpy(inputs.input_features_mask)]
        return embeds
