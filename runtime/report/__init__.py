"""A bundle told on one page: `python -m runtime report BUNDLE`.

Everything on it comes from the manifest and from the quantized checkpoint's record. Nothing is run or measured.
"""
