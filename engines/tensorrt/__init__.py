"""Plans compiled to TensorRT engines, kept, checked and run."""
