"""What a frozen ViT computes for views of the training images, kept on disk between epochs."""

from vit_adapter.feature_cache.folder import check_folder, claim_folder, free_bytes
from vit_adapter.feature_cache.identity import describe_trunk, hash_weights
from vit_adapter.feature_cache.store import TapStore
from vit_adapter.feature_cache.taps import ViewTaps

__all__ = [
    "TapStore",
    "ViewTaps",
    "check_folder",
    "claim_folder",
    "describe_trunk",
    "free_bytes",
    "hash_weights",
]
