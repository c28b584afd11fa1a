"""The embedded default: a small Gemma 4 with every structural feature of the 12B, trained by train.py."""

from pathlib import Path

HERE = Path(__file__).parent
CHECKPOINT = HERE / "checkpoint"
HELDOUT = HERE.parent.parent / "runtime" / "evaluation"  # what every model is judged on
MEDIA = HERE.parent / "media"  # what goldens ask about
