"""Loaders under mutated files: what comes from anywhere may be refused in one line, and nothing else may happen.

`python -m tests.fuzz.manifest -runs=20000`, and so `image` and `audio`, are guided by coverage (atheris, an optional
install: `pip install -e '.[fuzz]'`; options are libFuzzer's). tests/test_robustness.py runs the same targets briefly.
"""
