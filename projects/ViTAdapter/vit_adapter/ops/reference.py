"""Multi-scale deformable attention in plain PyTorch, in three formulations.

Eq. (2) of Deformable DETR (arXiv 2010.04159): every query of every head reads ``L * P`` points of
the value maps by bilinear interpolation and sums them with its attention weights.

* `ms_deform_attn_reference` samples with `torch.nn.functional.grid_sample`. It is the definition
  that the kernels are tested against, and the fallback if there is no kernel.
* `ms_deform_attn_embedding_bag` writes the same sum as one weighted embedding bag. This needs no
  transposed copies of the values and is the faster of the two on a CPU.
* `ms_deform_attn_gather` looks up the same rows one by one. It is slower, but every exporter and
  runtime has its operations.

Shapes: B batch, S value tokens (the sum of H * W over the levels), M heads, D channels per
head, Q queries, L levels, P points. Points are (x, y) in [0, 1] over the whole map, spatial shapes
(H, W).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ms_deform_attn_embedding_bag", "ms_deform_attn_gather", "ms_deform_attn_reference"]


def _in_compute_dtype(
    value: Tensor, sampling_locations: Tensor, attention_weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Widen 16-bit inputs to float32 and move non-finite points outside the map.

    As in the kernels, a NaN or infinite location contributes nothing and receives no gradient.
    Locations beyond [-1, 2] are outside a map of any size, so clamping changes no sample.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    sampling_locations = sampling_locations.to(dtype).nan_to_num(nan=2.0).clamp(-1.0, 2.0)
    return value.to(dtype), sampling_locations, attention_weights.to(dtype)


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Compute multi-scale deformable attention with `grid_sample`, level by level.

    Args:
        value: (B, S, M, D) the maps of all levels, one after the other, each flattened row by row.
        spatial_shapes: (H, W) of each of the L levels.
        sampling_locations: (B, Q, M, L, P, 2) points as (x, y); [0, 1] spans the map from edge to
            edge (``align_corners=False``), and the map is surrounded by zeros.
        attention_weights: (B, Q, M, L, P), usually summing to one over L and P.

    Returns:
        (B, Q, M * D) in the dtype of ``value``. 16-bit values are computed in float32.
    """
    dtype = value.dtype
    value, sampling_locations, attention_weights = _in_compute_dtype(
        value, sampling_locations, attention_weights
    )
    batch, _, heads, dim = value.shape
    queries = sampling_locations.shape[1]
    if sampling_locations.numel() == 0:  # grid_sample refuses some empty tensors
        return _empty_output(value, sampling_locations, attention_weights).to(dtype)

    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)  # (B*M, Q, L, P, 2)
    weights = attention_weights.transpose(1, 2).flatten(0, 1)  # (B*M, Q, L, P)
    maps = value.split([height * width for height, width in spatial_shapes], dim=1)
    output = value.new_zeros(batch * heads, dim, queries)
    for level, (height, width) in enumerate(spatial_shapes):
        image = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, dim, height, width)
        sampled = F.grid_sample(
            image, grids[:, :, level], mode="bilinear", padding_mode="zeros", align_corners=False
        )  # (B*M, D, Q, P)
        output = output + (sampled * weights[:, None, :, level]).sum(-1)
    return output.view(batch, heads * dim, queries).transpose(1, 2).contiguous().to(dtype)


def ms_deform_attn_embedding_bag(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Compute multi-scale deformable attention as one weighted embedding bag.

    The values of all images, tokens and heads are the rows of a table. A bag holds the
    ``4 * L * P`` corners that one head of one query reads, weighted by attention times bilinear
    weight. Arguments and result are those of `ms_deform_attn_reference`.
    """
    dtype = value.dtype
    value, sampling_locations, attention_weights = _in_compute_dtype(
        value, sampling_locations, attention_weights
    )
    batch, tokens, heads, dim = value.shape
    queries = sampling_locations.shape[1]
    if sampling_locations.numel() == 0:
        return _empty_output(value, sampling_locations, attention_weights).to(dtype)

    # Passes over all corners take most of the time: indices have only 32 bits where that suffices.
    index_dtype = torch.int32 if batch * tokens * heads < 2**31 else torch.int64
    rows, weights = _corners(
        value, spatial_shapes, sampling_locations, attention_weights, index_dtype
    )
    output = F.embedding_bag(
        rows.flatten(0, 2),
        value.reshape(-1, dim),
        mode="sum",
        per_sample_weights=weights.flatten(0, 2),
    )  # (B*Q*M, D)
    return output.view(batch, queries, heads * dim).to(dtype)


def ms_deform_attn_gather(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Compute multi-scale deformable attention by looking up rows, and products with the weights.

    This is the sum of `ms_deform_attn_embedding_bag`, for exported graphs: in ONNX, the embedding
    bag is a loop, and some runtimes compute `grid_sample` wrongly. The sides in ``spatial_shapes``
    may be symbols. Arguments and result are those of `ms_deform_attn_reference`.
    """
    dtype = value.dtype
    value, sampling_locations, attention_weights = _in_compute_dtype(
        value, sampling_locations, attention_weights
    )
    rows, weights = _corners(
        value, spatial_shapes, sampling_locations, attention_weights, torch.int64
    )
    table = value.flatten(0, 2)  # (B*S*M, D)
    corners = table.index_select(0, rows.flatten()).unflatten(0, rows.shape)  # (B, Q, M, C, D)
    return (weights.unsqueeze(-2) @ corners).flatten(2).to(dtype)


def _corners(
    value: Tensor,
    spatial_shapes: Sequence[tuple[int, int]],
    sampling_locations: Tensor,
    attention_weights: Tensor,
    index_dtype: torch.dtype,
) -> tuple[Tensor, Tensor]:
    """Find the ``C = 4 * L * P`` pixels that each head of each query reads.

    Returns:
        Their rows in the table (B*S*M, D) of all values, and attention times bilinear weight,
        (B, Q, M, C) each.
    """
    batch, tokens, heads, _ = value.shape
    # Rows and columns of corners are computed separately, because there are few of them.
    rows, row_weights, columns, column_weights = [], [], [], []
    start = 0
    for level, (height, width) in enumerate(spatial_shapes):
        x, y = sampling_locations[:, :, :, level].unbind(-1)
        column, column_weight = _neighbours(x, width, index_dtype)  # (B, Q, M, P, 2)
        row, row_weight = _neighbours(y, height, index_dtype)
        rows.append(start + row * width)
        row_weights.append(row_weight * attention_weights[:, :, :, level, :, None])
        columns.append(column)
        column_weights.append(column_weight)
        start += height * width
    image = torch.arange(batch, dtype=index_dtype, device=value.device).view(-1, 1, 1, 1, 1)
    head = torch.arange(heads, dtype=index_dtype, device=value.device).view(-1, 1, 1)
    first = (torch.cat(rows, dim=3) + image * tokens) * heads + head  # (B, Q, M, L*P, 2)
    table_rows = first.unsqueeze(-1) + (torch.cat(columns, dim=3) * heads).unsqueeze(-2)
    corner_weights = torch.cat(row_weights, dim=3).unsqueeze(-1) * torch.cat(
        column_weights, dim=3
    ).unsqueeze(-2)  # (B, Q, M, L*P, 2, 2)
    return table_rows.flatten(3), corner_weights.flatten(3)


def _neighbours(coordinate: Tensor, size: int, index_dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Find the two pixels next to each coordinate in [0, 1] along one axis.

    Returns:
        Their indices and weights, (..., 2) each; a pixel outside has weight zero and the index of
        the nearest one inside.
    """
    pixel = coordinate * size - 0.5
    low = pixel.detach().floor()
    fraction = pixel - low
    index = torch.stack((low, low + 1), dim=-1).to(index_dtype)
    nearest = index.clamp(0, size - 1)
    weight = torch.stack((1 - fraction, fraction), dim=-1)
    return nearest, weight * (index == nearest)


def _empty_output(value: Tensor, sampling_locations: Tensor, attention_weights: Tensor) -> Tensor:
    """Return zeros for no queries or no points, still connected to all three inputs."""
    batch, _, heads, dim = value.shape
    queries = sampling_locations.shape[1]
    output = value.new_zeros(batch, queries, heads * dim)
    return output + 0 * (value.sum() + sampling_locations.sum() + attention_weights.sum())
