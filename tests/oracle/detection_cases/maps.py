"""A backbone whose outputs are known."""

from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from torch import Tensor


class Maps(Backbone):
    """Returns the maps that it was given.

    Args:
        maps: finest first; the stride doubles from one to the next.
        first: log2 of the first stride, which is also the number in the first name.
        prefix: how the names begin.
    """

    size_divisibility = 32

    def __init__(self, maps: list[Tensor], *, first: int = 2, prefix: str = "res") -> None:
        super().__init__()
        self._maps = {f"{prefix}{first + i}": each for i, each in enumerate(maps)}
        self._first = first

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self._maps

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {
            name: ShapeSpec(channels=each.shape[1], stride=2 ** (self._first + i))
            for i, (name, each) in enumerate(self._maps.items())
        }
