"""What a full-size run works on; nothing here takes long to import."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

TARGETS = {"onnx": "android", "executorch": "android", "coreml": "ios"}  # of a bundle, by format
ENGINES = "onnx", "executorch"  # formats that run on this machine at full size
Facts = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """Where everything lies, and of which model it is."""

    folder: Path
    layers: int
    changes: str = "{}"  # JSON, see write_checkpoint

    @property
    def source(self) -> Path:
        return self.folder / "source"

    @property
    def quantized(self) -> Path:
        return self.folder / "quantized"

    def bundle(self, format_: str) -> Path:
        return self.folder / f"bundle-{format_}"
