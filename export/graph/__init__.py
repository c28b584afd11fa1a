"""The model, written once: descriptions over a small vocabulary of operations that every backend implements."""
