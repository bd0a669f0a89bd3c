"""The operator against its definition: output and gradients in each dtype, on each device."""

from vit_adapter.doctor import remedies
from vit_adapter.doctor.section import Options, Section

__all__ = ["check"]

# Largest relative error in the Euclidean norm. docs/ops.md has those of correct kernels, which are
# less than a quarter of these.
TOLERANCES = {"float32": 1e-5, "bfloat16": 1e-2, "float16": 2e-3}
SHAPES = [(20, 15), (10, 8), (5, 4)]
BATCH, QUERIES, HEADS, DIM, POINTS = 2, 50, 3, 64, 4


def check(options: Options) -> Section:
    """Compare the operator with the float64 reference on the CPU and on every GPU."""
    import torch

    section = Section()
    gpus = range(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    for device in ["cpu", *(f"cuda:{index}" for index in gpus)]:
        for dtype in TOLERANCES:
            _compare(device, dtype, section)
    return section


def _compare(device: str, dtype: str, section: Section) -> None:
    """Add the errors of one dtype on one device, or a fault."""
    name = f"{device} {dtype}"
    fix = (
        f"{remedies.rebuild()}\nUntil then set VIT_ADAPTER_FORCE_REFERENCE=1. If that does not "
        f"help: {remedies.REPORT_IT}"
    )
    try:
        output, gradients = _errors(device, dtype)
    except (RuntimeError, ValueError) as error:  # such as kernels for another GPU
        first_line = str(error).partition("\n")[0]
        section.facts[name] = "fails"
        section.fault(f"The operator fails on {name}: {first_line}", fix)
        return
    section.facts[name] = f"relative error {output:.1e} forward, {gradients:.1e} backward"
    if not max(output, gradients) <= TOLERANCES[dtype]:  # NaN is a fault, too
        section.fault(
            f"The operator computes wrong numbers on {name}: the relative error is {output:.1e} "
            f"forward and {gradients:.1e} backward, at most {TOLERANCES[dtype]:.0e} is expected.",
            fix,
        )


def _errors(device: str, dtype: str) -> tuple[float, float]:
    """Return the relative errors of the output and of the worst of the three gradients."""
    import torch

    from vit_adapter.ops import ms_deform_attn, ms_deform_attn_reference

    draw = torch.Generator().manual_seed(0)
    tokens = sum(height * width for height, width in SHAPES)
    points = (BATCH, QUERIES, HEADS, len(SHAPES), POINTS)
    value = torch.randn(BATCH, tokens, HEADS, DIM, generator=draw).to(getattr(torch, dtype))
    locations = torch.rand(*points, 2, generator=draw) * 1.4 - 0.2
    weights = torch.rand(points, generator=draw)
    results = []
    for function, to in (
        (ms_deform_attn, {"device": device}),
        (ms_deform_attn_reference, {"device": "cpu", "dtype": torch.float64}),
    ):
        leaves = [
            tensor.to(**to).detach().requires_grad_() for tensor in (value, locations, weights)
        ]
        output = function(leaves[0], SHAPES, leaves[1], leaves[2])
        gradients = torch.autograd.grad(output, leaves, torch.ones_like(output))
        results.append([tensor.detach().double().cpu() for tensor in (output, *gradients)])
    output, *gradients = (
        float((actual - exact).norm() / exact.norm())
        for actual, exact in zip(*results, strict=True)
    )
    return output, max(gradients)
