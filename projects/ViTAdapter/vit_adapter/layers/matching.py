"""One-to-one matching of predictions and targets at the least total cost (DETR, arXiv 2005.12872).

Shapes: B batch, Q queries, T targets of one image, N predictions (layers or stages), M matched
pairs in a batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

__all__ = ["Matches", "match_at_least_cost"]


class Matches(NamedTuple):
    """Pairs of queries and targets; pair m belongs to the same image in all N predictions.

    Attributes:
        queries: int64 (N, M), indices of the B * Q queries of the batch.
        targets: int64 (N, M), indices of the targets of the batch, image by image.
    """

    queries: Tensor
    targets: Tensor


def match_at_least_cost(costs: Sequence[Sequence[Tensor]]) -> Matches:
    """Match each prediction with the targets, which gives min(Q, T) pairs per image.

    The costs of the whole batch go to the CPU together, so this waits for the device only once.

    Args:
        costs: for each image the costs (T, Q) in each of the N predictions.

    Raises:
        FloatingPointError: a cost is infinite or not a number.
    """
    flat = [cost.flatten() for image in costs for cost in image]
    on_cpu = iter(torch.cat(flat).cpu().split([len(cost) for cost in flat]))
    pairs = []  # (2, N, min(Q, T)) for each image
    first_query = first_target = 0
    for index, image in enumerate(costs):
        matched = []
        for number, shape in enumerate(cost.shape for cost in image):
            cost = next(on_cpu).view(shape).numpy()
            if not np.isfinite(cost).all():
                raise FloatingPointError(
                    f"image {index} of the batch: the cost of matching queries and targets is "
                    f"infinite or not a number in prediction {number} of {len(image)}, so the "
                    "predictions are; lower the learning rate or clip the gradients"
                )
            rows, columns = linear_sum_assignment(cost)
            matched.append((columns + first_query, rows + first_target))
        pairs.append(np.array(matched, dtype=np.int64).transpose(1, 0, 2))
        num_targets, num_queries = image[0].shape
        first_query, first_target = first_query + num_queries, first_target + num_targets
    queries, targets = torch.from_numpy(np.concatenate(pairs, axis=-1)).to(flat[0].device)
    return Matches(queries, targets)
