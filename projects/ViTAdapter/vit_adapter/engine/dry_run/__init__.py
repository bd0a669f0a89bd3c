"""``train_net.py --dry-run``: everything up to training, and a report on it."""

from vit_adapter.engine.dry_run.run import dry_run

__all__ = ["dry_run"]
