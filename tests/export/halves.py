"""Names of half precisions, and priors that are difficult for them."""

from onnx import TensorProto

from frugal_rt.export import read_prior

KINDS = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
GRAPHS = ("forward", "pullback")


def scaled(make_prior, layer, factor):
    """Return a prior with the output of one convolution multiplied by `factor`."""
    from safetensors.torch import load_file, save_file

    folder = make_prior()
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    for name in (f"{layer}.weight", f"{layer}.bias"):
        weights[name] = weights[name] * factor
    save_file(weights, path)
    return read_prior(folder, "scaled")
