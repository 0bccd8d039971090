"""Plans and LPIPS run by onnxruntime, on the CPU or a CUDA device."""
