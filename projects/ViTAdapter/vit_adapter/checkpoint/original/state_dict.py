"""The original's names of parameters and buffers, and ours."""

from collections.abc import Mapping

from torch import Tensor

_TRUNK_KEYS = ("pos_embed", "patch_embed", "blocks")
_NORM_KEYS = ("norm1", "norm2", "norm3", "norm4")
_OTHER_KEYS = ("level_embed", "spm", "interactions", "up", "up1", "up2", *_NORM_KEYS)


def convert_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the original's parameters and buffers to ours; the tensors are shared, not copied.

    Args:
        state_dict: a backbone's state dict, or the backbone part of a detector's, whose keys begin
            with ``backbone.``.

    Returns:
        the state dict for :func:`build_backbone`'s result; with ``backbone.bottom_up.`` in front of
        every key, as in a Detectron2 detector with an FPN, if the input had ``backbone.``.

    Raises:
        ValueError: keys that belong to no known part (all of them are listed), or values that are
        no tensors.
    """
    whole = any(key.startswith("backbone.") for key in state_dict)
    prefix, target = ("backbone.", "backbone.bottom_up.") if whole else ("", "")
    converted: dict[str, Tensor] = {}
    unknown = []
    for key, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise ValueError(
                f"expected a tensor for every key, got {type(value).__name__} for {key!r}"
            )
        name = key.removeprefix(prefix)
        part = name.split(".", 1)[0]
        if not key.startswith(prefix) or part not in _TRUNK_KEYS + _OTHER_KEYS:
            unknown.append(key)
            continue
        converted[target + ("vit." if part in _TRUNK_KEYS else "") + name] = value
    if unknown:
        raise ValueError(
            f"{len(unknown)} keys belong to no known part of a ViT-Adapter backbone: "
            f"{', '.join(unknown)}; known parts are {', '.join(_TRUNK_KEYS + _OTHER_KEYS)}, "
            "all with or all without 'backbone.' in front"
        )
    return converted
