"""From a Hugging Face checkpoint to verified artifacts; `python -m export --help`."""

from runtime.torchvision_shim import allow_torchvision

allow_torchvision()  # before anything here imports transformers
