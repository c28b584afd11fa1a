"""Stands for executorch's runner on a phone's command line: the same runner of the same release, from its wheel."""

import argparse

from executorch.extension.llm.runner import GenerationConfig, MultimodalRunner, make_text_input


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("model_path", "data_path", "tokenizer_path", "prompt"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("max_new_tokens", "cpu_threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--temperature", type=float, required=True)
    given = parser.parse_args()
    import executorch.kernels.quantized  # noqa: F401  registers the quantized embeddings
    from executorch.runtime import Runtime

    Runtime.get()
    runner = MultimodalRunner(given.model_path, given.tokenizer_path, given.data_path or None)
    config = GenerationConfig(max_new_tokens=given.max_new_tokens, temperature=given.temperature, echo=False)
    runner.generate([make_text_input(given.prompt)], config)


if __name__ == "__main__":
    main()
