"""The changes that Detectron2 v0.6 (October 2021) needs to work with current libraries.

Data only: each :class:`Patch` names a file, the text to replace, its replacement and the reason.
The installer applies them. A patch whose text does not occur exactly ``count`` times is
an error, so a different source is never left half patched.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patch:
    """One replacement in one file of Detectron2.

    Attributes:
        file: path below the package folder ``detectron2/``, with forward slashes.
        old: text to replace; it must occur exactly ``count`` times.
        new: replacement text.
        why: what breaks without the patch.
        count: number of times ``old`` occurs in the original file.
    """

    file: str
    old: str
    new: str
    why: str
    count: int = 1


NUMPY_ALIAS = (
    "NumPy 1.24 removed the aliases of Python's types (np.bool came back as a different type)"
)
PIL_MODE = (
    "Pillow deprecates fromarray(mode=...); an (H, W) uint8 array is read as mode L without it"
)
OPTIONAL_C = "a Python-only installation has no compiled part, and the import must still work"

_GUARDED_C = """try:
    from detectron2 import _C
except ImportError:
    from detectron2.utils.missing_extension import MISSING_EXTENSION as _C"""

PATCHES: tuple[Patch, ...] = (
    # NumPy's removed aliases.
    Patch("structures/masks.py", ".astype(np.bool)", ".astype(bool)", NUMPY_ALIAS, 2),
    Patch("structures/masks.py", "dtype=np.bool)", "dtype=bool)", NUMPY_ALIAS),
    Patch("utils/visualizer.py", ".astype(np.bool)", ".astype(bool)", NUMPY_ALIAS, 3),
    Patch("utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)", NUMPY_ALIAS),
    Patch("data/build.py", "dtype=np.int)", "dtype=int)", NUMPY_ALIAS),
    Patch("data/build.py", "dtype=np.int\n", "dtype=int\n", NUMPY_ALIAS),
    Patch("data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", NUMPY_ALIAS),
    Patch("evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", NUMPY_ALIAS, 2),
    Patch("evaluation/sem_seg_evaluation.py", "dtype=np.float)", "dtype=float)", NUMPY_ALIAS, 2),
    Patch(
        "evaluation/sem_seg_evaluation.py", ".astype(np.float)", ".astype(float)", NUMPY_ALIAS, 3
    ),
    Patch(
        "evaluation/pascal_voc_evaluation.py", ".astype(np.bool)", ".astype(bool)", NUMPY_ALIAS, 2
    ),
    # NumPy 2 and Pillow.
    Patch(
        "layers/mask_ops.py",
        "np.array(mask, copy=False)",
        "np.asarray(mask)",
        "NumPy 2 raises ValueError where copy=False cannot be honoured, as for a PIL image",
    ),
    Patch(
        "data/transforms/transform.py",
        "interp=Image.LINEAR",
        "interp=Image.BILINEAR",
        "Pillow 10 removed LINEAR, the old name of BILINEAR",
    ),
    Patch("data/transforms/transform.py", ', mode="L")', ")", PIL_MODE, 2),
    # setuptools.
    Patch(
        "model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "",
        "setuptools no longer ships pkg_resources",
    ),
    Patch(
        "model_zoo/model_zoo.py",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        "setuptools no longer ships pkg_resources",
    ),
    # The compiled part is not installed.
    Patch("layers/deform_conv.py", "from detectron2 import _C", _GUARDED_C, OPTIONAL_C),
    Patch("layers/roi_align_rotated.py", "from detectron2 import _C", _GUARDED_C, OPTIONAL_C),
    Patch("layers/rotated_boxes.py", "from detectron2 import _C", _GUARDED_C, OPTIONAL_C),
    Patch(
        "evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\nfrom detectron2.structures",
        "from detectron2.structures",
        OPTIONAL_C,
    ),
    Patch(
        "evaluation/coco_evaluation.py",
        "from detectron2.utils.logger import create_small_table\n",
        "from detectron2.utils.logger import create_small_table\n\n"
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n    COCOeval_opt = COCOeval\n",
        "pycocotools' own COCOeval computes the same figures without the compiled part",
    ),
    Patch(
        "evaluation/coco_evaluation.py",
        "self._use_fast_impl = use_fast_impl\n",
        "self._use_fast_impl = use_fast_impl and COCOeval_opt is not COCOeval\n",
        "the log must name the implementation that computes the figures",
    ),
    # PyTorch.
    Patch(
        "modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        "PyTorch will change the default of meshgrid and warns at every start",
    ),
    Patch(
        "modeling/box_regression.py",
        "@torch.jit.script\n",
        "",
        "PyTorch deprecates torch.jit.script and warns at every start; plain classes work as well",
        2,
    ),
    Patch(
        "export/__init__.py",
        "from .api import *\n",
        "try:\n    from .api import *\nexcept ImportError:  # the Caffe2 exporter\n    pass\n",
        "PyTorch no longer ships Caffe2, and utils/analysis.py (FLOP counts) imports this package",
    ),
)

_MISSING_EXTENSION = '''"""Stands in for ``detectron2._C``: added by ViT-Adapter's installer."""


class _MissingExtension:
    def __getattr__(self, name):
        raise RuntimeError(
            f"detectron2._C.{name} is needed here, but this is a Python-only installation of "
            "Detectron2. Build Detectron2 from its own repository to use its compiled operators."
        )


MISSING_EXTENSION = _MissingExtension()
'''

# New files that the patches above refer to: path below ``detectron2/`` -> content.
ADDED_FILES: dict[str, str] = {"utils/missing_extension.py": _MISSING_EXTENSION}
