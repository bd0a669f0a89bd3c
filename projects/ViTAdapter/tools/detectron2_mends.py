"""The changes that Detectron2 v0.6 (October 2021) needs on current libraries.

Data only: each :class:`Mend` names a file, the text that is there, the text that takes its place
and the reason. ``install_detectron2.py`` applies them; a mend whose text is not found exactly as
often as it says is an error, so that a different source can never be half mended.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mend:
    """One replacement in one file of Detectron2.

    Attributes:
        file: path below the package folder ``detectron2/``, with forward slashes.
        old: text to replace; must occur exactly ``count`` times.
        new: text that takes its place.
        why: what breaks without the mend.
        count: how often ``old`` occurs in the original file.
    """

    file: str
    old: str
    new: str
    why: str
    count: int = 1


NUMPY_ALIAS = "NumPy 1.24 removed the aliases of Python's types (np.bool came back as another type)"
PIL_MODE = (
    "Pillow deprecates fromarray(mode=...); an (H, W) uint8 array is read as mode L without it"
)
OPTIONAL_C = (
    "the compiled part is absent from a Python-only installation and must not break the import"
)

_GUARDED_C = """try:
    from detectron2 import _C
except ImportError:
    from detectron2.utils.missing_extension import MISSING_EXTENSION as _C"""

MENDS: tuple[Mend, ...] = (
    # NumPy's removed aliases.
    Mend("structures/masks.py", ".astype(np.bool)", ".astype(bool)", NUMPY_ALIAS, 2),
    Mend("structures/masks.py", "dtype=np.bool)", "dtype=bool)", NUMPY_ALIAS),
    Mend("utils/visualizer.py", ".astype(np.bool)", ".astype(bool)", NUMPY_ALIAS, 3),
    Mend("utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)", NUMPY_ALIAS),
    Mend("data/build.py", "dtype=np.int)", "dtype=int)", NUMPY_ALIAS),
    Mend("data/build.py", "dtype=np.int\n", "dtype=int\n", NUMPY_ALIAS),
    Mend("data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)", NUMPY_ALIAS),
    Mend("evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", NUMPY_ALIAS, 2),
    Mend("evaluation/sem_seg_evaluation.py", "dtype=np.float)", "dtype=float)", NUMPY_ALIAS, 2),
    Mend("evaluation/sem_seg_evaluation.py", ".astype(np.float)", ".astype(float)", NUMPY_ALIAS, 3),
    Mend(
        "evaluation/pascal_voc_evaluation.py", ".astype(np.bool)", ".astype(bool)", NUMPY_ALIAS, 2
    ),
    # NumPy 2 and Pillow.
    Mend(
        "layers/mask_ops.py",
        "np.array(mask, copy=False)",
        "np.asarray(mask)",
        "NumPy 2 raises ValueError where copy=False cannot be kept, as for a PIL image",
    ),
    Mend(
        "data/transforms/transform.py",
        "interp=Image.LINEAR",
        "interp=Image.BILINEAR",
        "Pillow 10 removed LINEAR, the older name of BILINEAR",
    ),
    Mend("data/transforms/transform.py", ', mode="L")', ")", PIL_MODE, 2),
    # setuptools.
    Mend(
        "model_zoo/model_zoo.py",
        "import pkg_resources\n",
        "",
        "setuptools no longer ships pkg_resources",
    ),
    Mend(
        "model_zoo/model_zoo.py",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs", config_path)',
        "setuptools no longer ships pkg_resources",
    ),
    # The compiled part, which is not installed.
    Mend("layers/deform_conv.py", "from detectron2 import _C", _GUARDED_C, OPTIONAL_C),
    Mend("layers/roi_align_rotated.py", "from detectron2 import _C", _GUARDED_C, OPTIONAL_C),
    Mend("layers/rotated_boxes.py", "from detectron2 import _C", _GUARDED_C, OPTIONAL_C),
    Mend(
        "evaluation/coco_evaluation.py",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\nfrom detectron2.structures",
        "from detectron2.structures",
        OPTIONAL_C,
    ),
    Mend(
        "evaluation/coco_evaluation.py",
        "from detectron2.utils.logger import create_small_table\n",
        "from detectron2.utils.logger import create_small_table\n\n"
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n    COCOeval_opt = COCOeval\n",
        "pycocotools' own COCOeval computes the same figures without the compiled part",
    ),
    Mend(
        "evaluation/coco_evaluation.py",
        "self._use_fast_impl = use_fast_impl\n",
        "self._use_fast_impl = use_fast_impl and COCOeval_opt is not COCOeval\n",
        "the log names the implementation that computes the figures",
    ),
    # PyTorch.
    Mend(
        "modeling/anchor_generator.py",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        "PyTorch announces another default of meshgrid and warns at each start",
    ),
    Mend(
        "modeling/box_regression.py",
        "@torch.jit.script\n",
        "",
        "PyTorch deprecates torch.jit.script and warns at each start; plain classes do the same",
        2,
    ),
    Mend(
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

# Files that the mends above refer to: path below ``detectron2/`` and content.
ADDED_FILES: dict[str, str] = {"utils/missing_extension.py": _MISSING_EXTENSION}
