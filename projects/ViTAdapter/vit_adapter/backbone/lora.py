"""LoRA (arXiv 2106.09685): a fixed ViT whose attention learns corrections of low rank.

Shapes: N tokens (any leading dimensions), C input width, D output width, r rank.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vit_adapter.layers import Linear, linear

_LEAVES = ("lora_a", "lora_b", "lora_scale")
_PROJECTIONS = ("qkv", "q_proj", "k_proj", "v_proj", "proj")


class LoRALinear(nn.Linear):
    """A fixed linear layer plus ``lora_scale * lora_b @ lora_a``, which is trained.

    Weight and bias are those of the layer that it replaces and keep their names. ``lora_b`` starts
    at zero, so the first output is exactly that of this layer. Checkpoints hold the scale, since
    the factors mean nothing without it.

    Args:
        base: the layer to replace, width C to D.
        rank: r, the width between the factors (r, C) and (D, r).
        alpha: the correction is scaled by alpha / r.
    """

    def __init__(self, base: nn.Linear, *, rank: int, alpha: float) -> None:
        super().__init__(base.in_features, base.out_features, bias=False, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))
        self.register_buffer("lora_scale", base.weight.new_tensor(alpha / rank))
        self._linear = linear if isinstance(base, Linear) else F.linear  # for equal rounding
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))  # as the weight of nn.Linear

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, C) -> (N, D)."""
        correction = linear(self.lora_scale * linear(tokens, self.lora_a), self.lora_b)
        return self._linear(tokens, self.weight, self.bias) + correction

    def merged_weight(self) -> Tensor:
        """The weight (D, C) of a linear layer that computes the same."""
        correction = self.lora_scale.double() * self.lora_b.double() @ self.lora_a.double()
        return (self.weight.double() + correction).to(self.weight.dtype)

    def extra_repr(self) -> str:
        """What ``repr`` shows in parentheses."""
        return f"{super().extra_repr()}, rank={len(self.lora_a)}"


def add_lora(
    vit: nn.Module, blocks: Sequence[nn.Module], *, rank: int, alpha: float | None = None
) -> None:
    """Fix all parameters of a ViT, and add trained factors to the attention of every block.

    Args:
        vit: changed in place.
        blocks: its blocks. In their modules ``attn`` the projections to queries, keys and values
            and the output projection get factors.
        rank: r, at least 1.
        alpha: see :class:`LoRALinear`; None is r, which makes the scale 1.

    Raises:
        ValueError: rank or alpha is out of range, or a block has no such projections.
    """
    alpha = rank if alpha is None else alpha
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"lora_rank must be an integer >= 0 (0: no LoRA), got {rank}")
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"lora_alpha must be a positive number or None, got {alpha}")
    vit.requires_grad_(False)
    for block in blocks:
        attentions = [part for name, part in block.named_modules() if name.endswith("attn")]
        layers = [
            (attention, name, layer)
            for attention in attentions
            for name, layer in attention.named_children()
            if name in _PROJECTIONS and isinstance(layer, nn.Linear)
        ]
        if not layers:
            raise ValueError(
                f"lora_rank={rank} needs blocks with attn.qkv and attn.proj, but this ViT has "
                f"{type(block).__name__} blocks, which do not; set lora_rank=0"
            )
        for attention, name, layer in layers:
            setattr(attention, name, LoRALinear(layer, rank=rank, alpha=alpha))
        for attention in attentions:
            # timm otherwise reads the weight of qkv past its forward method.
            if hasattr(attention, "qkv_bias_separate"):
                attention.qkv_bias_separate = True


def belongs_to_lora(name: str) -> bool:
    """Whether an entry of a state dict is a factor or the scale of the factors."""
    return name.rpartition(".")[2] in _LEAVES


@torch.no_grad()
def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the same model with ``lora_rank=0``: factors are added to their weights.

    Args:
        model: with or without factors; not changed.
    """
    merged = model.state_dict()
    for name, layer in model.named_modules():
        if isinstance(layer, LoRALinear):
            prefix = f"{name}." if name else ""
            merged[f"{prefix}weight"] = layer.merged_weight()
            for leaf in _LEAVES:
                del merged[prefix + leaf]
    return merged
