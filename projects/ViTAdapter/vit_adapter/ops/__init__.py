"""Stateless tensor functions and their implementations; no modules and no Detectron2."""

from vit_adapter.ops.extension import extension_info
from vit_adapter.ops.functional import ms_deform_attn
from vit_adapter.ops.reference import ms_deform_attn_reference

__all__ = ["extension_info", "ms_deform_attn", "ms_deform_attn_reference"]
