"""The checks of a verification, one a file. Each is `run(job)`, which yields measures."""
