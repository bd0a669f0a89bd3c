"""Stateless tensor functions of the project; no modules and no Detectron2."""

from .extension import extension_info
from .functional import ms_deform_attn
from .reference import ms_deform_attn_reference

__all__ = ["extension_info", "ms_deform_attn", "ms_deform_attn_reference"]
