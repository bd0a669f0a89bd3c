"""Fake tensors on CUDA: a size, a dtype and a device, but no numbers and no GPU."""

import torch
from torch import nn


def move_to_fake_cuda(module: nn.Module) -> nn.Module:
    """Do what `module.cuda()` would: replace parameters and buffers, and nothing else."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                fake = torch.empty(parameter.shape, dtype=parameter.dtype, device="cuda")
                part._parameters[name] = nn.Parameter(fake, parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
    return module
