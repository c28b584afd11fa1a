"""`export` comes first: it makes transformers importable where torchvision is only half there."""

import export  # noqa: F401
