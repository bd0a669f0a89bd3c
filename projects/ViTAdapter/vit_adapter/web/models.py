"""The models that the page offers, loaded when they are first used."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from vit_adapter.config.input_channels import stored_channels
from vit_adapter.config.loading import load_config
from vit_adapter.predictor import LazyPredictor

__all__ = ["Models", "Source"]


@dataclass(frozen=True)
class Source:
    """Where a model comes from: the arguments of ``LazyPredictor``.

    Attributes:
        config: a folder, a config file or a name in the model zoo.
        weights: path or URL of a checkpoint; None for that of the folder.
    """

    config: str
    weights: str | None = None

    @property
    def name(self) -> str:
        """The name on the page."""
        return self.config if self.weights is None else f"{self.config} ({self.weights})"


class Models:
    """Predictors by name. Each is loaded at its first use, and the last few are kept.

    Args:
        sources: the models, at least one. A model that is given twice is offered once.
        overrides: ``"key=value"`` strings for every config.
        keep: number of models that are kept in memory, at least 1.

    Raises:
        ValueError: there is no model, ``keep`` is less than 1, or a config cannot be used.
    """

    def __init__(
        self, sources: Sequence[Source], *, overrides: Sequence[str] = (), keep: int = 2
    ) -> None:
        if not sources:
            raise ValueError("no model is given; give at least one folder, or --model")
        if keep < 1:
            raise ValueError(f"{keep} models cannot be kept in memory; keep at least 1")
        self._sources = {source.name: source for source in sources}
        self._formats: dict[str, str | int] = {}
        for name, source in self._sources.items():
            cfg = load_config(source.config, overrides)  # a mistake is found now, not at first use
            self._formats[name] = stored_channels(cfg) or "BGR"
        self._overrides = list(overrides)
        self._keep = keep
        self._loaded: OrderedDict[str, LazyPredictor] = OrderedDict()  # the last used at the end
        self._lock = threading.Lock()

    @property
    def names(self) -> list[str]:
        """The names of all models, in the order in which they were given."""
        return list(self._sources)

    def image_format(self, name: str | None) -> str | int:
        """Return the ``image_format`` that the predictor will have, without loading the model.

        Raises:
            ValueError: no model has this name.
        """
        return self._formats[self._known(name)]

    def get(self, name: str | None) -> LazyPredictor:
        """Return a model; load it if it is not in memory.

        Before another one is loaded, those that were not used for longest are dropped.

        Raises:
            ValueError: no model has this name.
            ValueError, TypeError, OSError: the model cannot be loaded; see ``LazyPredictor``.
        """
        name = self._known(name)
        with self._lock:
            if name not in self._loaded:
                while len(self._loaded) >= self._keep:
                    self._loaded.popitem(last=False)
                source = self._sources[name]
                self._loaded[name] = LazyPredictor(source.config, source.weights, self._overrides)
            self._loaded.move_to_end(name)
            return self._loaded[name]

    def _known(self, name: str | None) -> str:
        if name is None or name not in self._sources:
            raise ValueError(f"there is no model {name!r}; choose one of {', '.join(self.names)}")
        return name
