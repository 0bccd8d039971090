"""Plans run by onnxruntime, on the CPU or a CUDA device; and LPIPS by it."""
