"""Portable folders: a trained model with all that prediction needs, as data without any code."""

from vit_adapter.hub.folder import FolderContents, is_portable, read_folder, write_folder
from vit_adapter.hub.manifest import FolderError
from vit_adapter.hub.remote import download_folder, push_folder

__all__ = [
    "FolderContents",
    "FolderError",
    "download_folder",
    "is_portable",
    "push_folder",
    "read_folder",
    "write_folder",
]
