"""What a user meets after an export: open a bundle, run it, verify it. Never imports `export`."""

import logging

# Warnings of GPU libraries that are not there, and of how torchao names its enumerations to torch: nothing to act on.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
