"""The whole export at full size, on random weights: how long it takes, in how much memory and on how much disk."""
