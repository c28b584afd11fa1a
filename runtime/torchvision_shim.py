"""Makes transformers' models and processors importable where torchvision's compiled part does not load."""

import torch

_kept: list[torch.library.Library] = []  # a library's operators vanish with it


def allow_torchvision() -> None:
    """Lets `import torchvision` succeed beside a CPU-only torch wheel; to be called before transformers imports it.

    Image processors use only its Python transforms, but the import registers fake kernels of two compiled operators,
    which must therefore be declared. Where torchvision loads its own, nothing happens.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:  # "operator torchvision::nms does not exist"
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
