"""What is inside the files that exports write, told from their headers: weights are mapped, never read."""
