"""Writing a graph in each format, and running the file.

Shapes: B batch, C channels, H/W sides of the images.
"""

import importlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from vit_adapter.config.errors import UsageError

__all__ = ["FORMATS", "INPUT", "Format", "Run", "forbidden_operators"]

INPUT = "images"
"""The name of the only input."""

Run = Callable[[Tensor], Sequence[Tensor]]
"""An exported model: images (B, C, H, W) -> its outputs."""

_LARGEST_ONNX = 2**31
"""Bytes of a protocol buffer; larger models would need a second file."""

_INSTALL = "pip install onnx onnxscript onnxruntime"


@dataclass(frozen=True)
class Format:
    """How one kind of file is written and run.

    Attributes:
        suffix: the end of the file's name.
        packages: what must be installed.
        write: writes a program, whose outputs have these names, to a path.
        load: makes a file callable.
    """

    suffix: str
    packages: tuple[str, ...]
    write: Callable[[ExportedProgram, Sequence[str], Path], None]
    load: Callable[[Path], Run]

    def require_packages(self) -> None:
        """Raise a UsageError that says what to install if a package is missing."""
        for name in self.packages:
            try:
                importlib.import_module(name)
            except ImportError as error:
                raise UsageError(f"this format needs the package {name}: {_INSTALL}") from error


def _write_program(program: ExportedProgram, output_names: Sequence[str], path: Path) -> None:
    torch.export.save(program, path)


def _load_program(path: Path) -> Run:
    module = torch.export.load(path).module()
    # A function, because models adopt modules and change their mode, which these do not have.
    return lambda images: module(images)


def _write_onnx(program: ExportedProgram, output_names: Sequence[str], path: Path) -> None:
    size = sum(tensor.nbytes for tensor in program.state_dict.values())
    if size >= _LARGEST_ONNX:
        raise UsageError(
            f"the weights take {size / 2**30:.1f} GiB, but one ONNX file holds at most 2 GiB; use "
            "--format pt2 or aoti"
        )
    exported = torch.onnx.export(
        program,
        dynamo=True,
        input_names=[INPUT],
        output_names=list(output_names),
        verbose=False,
    )
    exported.save(path, external_data=False)
    import onnx

    onnx.checker.check_model(str(path), full_check=True)
    found = forbidden_operators(path)
    if found:
        names = ", ".join(f"{count} {name}" for name, count in found.items())
        raise UsageError(
            f"the ONNX graph has {names}, which some runtimes compute wrongly or slowly"
        )


def forbidden_operators(path: Path) -> dict[str, int]:
    """Count the nodes of an ONNX file, also in its functions, that should not be there.

    TensorRT computes GridSample wrongly. A Loop is a piece of the model that runs step by step.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    counts = Counter(node.op_type for node in nodes)
    return {name: counts[name] for name in ("GridSample", "Loop") if counts[name]}


def _load_onnx(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # errors are raised anyway
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> list[Tensor]:
        outputs = session.run(None, {INPUT: images.numpy()})
        return [torch.from_numpy(output) for output in outputs]

    return run


def _write_package(program: ExportedProgram, output_names: Sequence[str], path: Path) -> None:
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise UsageError("AOTInductor needs a C++ compiler, and there is neither g++ nor clang++")
    from torch._inductor import aoti_compile_and_package

    aoti_compile_and_package(program, package_path=str(path))


def _load_package(path: Path) -> Run:
    from torch._inductor import aoti_load_package

    return aoti_load_package(str(path))


FORMATS = {
    "pt2": Format(".pt2", (), _write_program, _load_program),
    "onnx": Format(".onnx", ("onnx", "onnxscript", "onnxruntime"), _write_onnx, _load_onnx),
    "aoti": Format(".pt2", (), _write_package, _load_package),
}
"""Each format by its name."""
