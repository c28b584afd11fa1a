"""What is measured, as ratios inside one run: `python -m benchmarks.quantize`, `python -m benchmarks.onnx_context`."""
