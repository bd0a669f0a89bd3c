"""Initialisation of the parts around a ViT."""

import math

from torch import nn

from vit_adapter.layers import MSDeformAttn


def init_adapter_weights(module: nn.Module) -> None:
    """Initialise one module as the original adapter does, for :meth:`torch.nn.Module.apply`.

    Linear layers: truncated normal with std 0.02. Convolutions, also transposed ones: normal with
    std sqrt(2 / fan_out). Biases: zero. Deformable attention has its own scheme, which overrides
    that of its linear layers because ``apply`` visits children before their parent.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, MSDeformAttn):
        module.reset_parameters()
