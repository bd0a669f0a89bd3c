"""The modes of ViT-Adapter: what they compute and train, and the operators of their graphs."""

import re

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.export import Dim

from vit_adapter import PlainViT, ViTAdapter
from vit_adapter.backbone.modes import MODES
from vit_adapter.checkpoint.loading import compare_keys, load_strict
from vit_adapter.ops.exporting import exporting
from vit_adapter.ops.extension import select_backend

DIM = 12
NOT_IN_FROZEN = r"\.injector\."
NOT_IN_LIGHT = r"\.injector\.|extra_extractors|extractor\.(attn|query_norm|proj)\."


def make_adapter(mode: str = "full", vit_options: dict | None = None, **changes: object):
    vit = PlainViT(img_size=64, embed_dim=DIM, depth=4, num_heads=2, **(vit_options or {}))
    arguments = {
        "interaction_indexes": [(0, 0), (1, 1), (2, 2), (3, 3)],
        "conv_inplane": 4,
        "deform_num_heads": 2,
        "norm": "BN",
        **changes,
    }
    return ViTAdapter(vit, mode=mode, **arguments)


def randomise(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def total(outputs: dict[str, Tensor]) -> Tensor:
    """A scalar in which every element has its own weight."""
    weights = {k: torch.arange(v.numel(), dtype=v.dtype).view(v.shape) for k, v in outputs.items()}
    return sum((v * weights[k].sin()).sum() for k, v in outputs.items())


def graph_targets(adapter: ViTAdapter) -> set[str]:
    """Names of all operators in the exported graph, which is checked against the model."""
    images = torch.randn(1, 3, 64, 96)
    randomise(adapter).eval()
    with torch.no_grad():
        program = torch.export.export(adapter, (images,), strict=False)
        torch.testing.assert_close(program.module()(images), adapter(images))
    graphs = [m.graph for m in program.graph_module.modules() if hasattr(m, "graph")]
    return {str(node.target) for g in graphs for node in g.nodes if node.op == "call_function"}


@torch.no_grad()
@pytest.mark.slow
def test_exported_for_any_size_and_batch() -> None:
    """The example has the size of the pre-training, at which positions are not resized."""
    vit = PlainViT(img_size=64, embed_dim=DIM, depth=1, num_heads=2)
    adapter = ViTAdapter(
        vit,
        interaction_indexes=[(0, 0)],
        conv_inplane=4,
        deform_num_heads=2,
        norm="BN",
        use_extra_extractor=False,
    )
    randomise(adapter).eval()
    sides = {2: 32 * Dim("h", min=2, max=64), 3: 32 * Dim("w", min=2, max=64)}
    shapes = ({0: Dim("batch", max=64), **sides},)
    example = torch.randn(2, 3, 64, 64)
    with exporting():
        program = torch.export.export(adapter, (example,), dynamic_shapes=shapes, strict=False)
        for size in ((2, 3, 64, 64), (3, 3, 96, 64), (1, 3, 64, 160)):
            images = torch.randn(size)
            torch.testing.assert_close(program.module()(images), adapter(images))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fusion", ["last", "per_interaction", "none"])
def test_outputs_of_any_size(mode: str, fusion: str) -> None:
    adapter = make_adapter(mode, vit_feature_fusion=fusion).eval()
    with torch.no_grad():
        outputs = adapter(torch.randn(1, 3, 70, 33))
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "res2": (1, DIM, 18, 9),
        "res3": (1, DIM, 9, 5),
        "res4": (1, DIM, 5, 3),
        "res5": (1, DIM, 3, 2),
    }
    assert {value.dtype for value in outputs.values()} == {torch.float32}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "changes", [{}, {"vit_feature_fusion": "none"}, {"out_features": ("res5",)}]
)
def test_exactly_the_trainable_parameters_get_gradients(
    mode: str, changes: dict[str, object]
) -> None:
    """Distributed training waits for the gradient of each parameter that requires one."""
    adapter = randomise(make_adapter(mode, **changes)).train()
    total(adapter(torch.randn(2, 3, 64, 96))).backward()
    trainable = {name for name, p in adapter.named_parameters() if p.requires_grad}
    assert {name for name, p in adapter.named_parameters() if p.grad is not None} == trainable
    in_vit = {name for name in trainable if name.startswith("vit.")}
    assert in_vit == (
        set() if mode == "frozen" else {f"vit.{n}" for n, _ in adapter.vit.named_parameters()}
    )


def test_frozen_equals_full_without_injection() -> None:
    full = randomise(make_adapter("full")).double().eval()
    frozen = make_adapter("frozen").double().eval()
    load_strict(frozen, full.state_dict(), NOT_IN_FROZEN)
    for interaction in full.interactions:
        nn.init.zeros_(interaction.injector.gamma)
    images = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected, outputs = full(images), frozen(images)
    torch.testing.assert_close(outputs, expected)


def test_frozen_vit_never_trains() -> None:
    adapter = make_adapter("frozen", {"drop_path_rate": 0.9}).train()
    assert adapter.training and adapter.interactions.training
    assert not any(module.training for module in adapter.vit.modules())
    assert adapter.train().eval().train() is adapter
    assert not adapter.vit.training
    images = torch.randn(2, 3, 64, 64)
    first, second = (adapter(images)["res4"] for _ in range(2))
    assert torch.equal(first, second)  # the ViT dropped no path


def count_kept_by_the_vit(mode: str) -> int:
    """How many tensors autograd keeps for the backward pass while blocks of the ViT run."""
    adapter = make_adapter(mode).train()
    kept, inside = 0, False

    def enter(*_: object) -> None:
        nonlocal inside
        inside = True

    def leave(*_: object) -> None:
        nonlocal inside
        inside = False

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += inside
        return tensor

    for block in adapter.vit.blocks:
        block.register_forward_pre_hook(enter)
        block.register_forward_hook(leave)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        adapter(torch.randn(1, 3, 64, 64))
    return kept


def test_frozen_vit_keeps_nothing_for_the_backward_pass() -> None:
    assert count_kept_by_the_vit("frozen") == 0
    assert min(count_kept_by_the_vit("full"), count_kept_by_the_vit("light")) > 0


@pytest.mark.slow
def test_frozen_compiles_to_one_graph() -> None:
    adapter = randomise(make_adapter("frozen")).eval()
    images = torch.randn(1, 3, 64, 96)
    compiled = torch.compile(adapter, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), adapter(images))


@pytest.mark.parametrize("mode", ["frozen", "light"])
def test_recomputing_changes_no_gradient(mode: str) -> None:
    images = torch.randn(2, 3, 64, 64)
    adapters = [make_adapter(mode, use_checkpoint=on).train() for on in (False, True)]
    adapters[1].load_state_dict(randomise(adapters[0]).state_dict())
    for adapter in adapters:
        total(adapter(images)).backward()
    gradients = [{n: p.grad for n, p in a.named_parameters() if p.requires_grad} for a in adapters]
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.slow
def test_only_light_needs_nothing_but_pytorchs_operators() -> None:
    targets = {mode: graph_targets(make_adapter(mode)) for mode in MODES}
    deformable = "vit_adapter.ms_deform_attn.default"
    if select_backend("cpu") == "kernel":
        assert deformable in targets["full"] and deformable in targets["frozen"]
    of_pytorch = re.compile(r"aten\.(?!grid_sampler)|<built-in function getitem>")
    assert [target for target in targets["light"] if not of_pytorch.match(target)] == []


# The image size becomes a constant of a traced graph.
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated")
@pytest.mark.parametrize("mode", MODES)
def test_can_be_traced_for_one_size(mode: str) -> None:
    adapter = randomise(make_adapter(mode, {"window_sizes": (3, 0, 3, 0)})).eval()
    with torch.no_grad():
        traced = torch.jit.trace(adapter, torch.randn(1, 3, 64, 96), strict=False)
        other = torch.randn(1, 3, 64, 96)
        torch.testing.assert_close(traced(other), adapter(other), rtol=1e-4, atol=1e-4)
        for size in [(1, 3, 96, 64), (1, 3, 32, 192), (1, 3, 96, 96), (2, 3, 64, 96)]:
            with pytest.raises(RuntimeError, match="unflatten: Provided sizes"):
                traced(torch.randn(size))
    kinds = {node.kind() for node in traced.inlined_graph.nodes()}
    assert {kind.split("::")[0] for kind in kinds} == {"aten", "prim"}
    assert ("aten::grid_sampler" in kinds) == (mode != "light")


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated")
def test_scripting_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"cannot compile .*torch\.jit\.trace.*torch\.export"):
        torch.jit.script(nn.Sequential(make_adapter()))


def test_modes_differ_in_few_names() -> None:
    full, frozen, light = (make_adapter(mode) for mode in ("full", "frozen", "light"))
    assert compare_keys(frozen, full.state_dict()).without(NOT_IN_FROZEN).is_exact
    report = compare_keys(light, full.state_dict())
    assert report.without(NOT_IN_LIGHT).is_exact
    assert all(re.search(r"extractor\.proj\.", name) for name in report.missing)
    counts = [sum(p.numel() for p in a.parameters()) for a in (full, frozen, light)]
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("mode", "changes", "message"),
    [
        ("ful", {}, "mode must be one of 'full', 'frozen', 'light', got 'ful'"),
        (
            "light",
            {"interaction_indexes": [(0, 3)], "vit_feature_fusion": "per_interaction"},
            "needs exactly 4 interactions",
        ),
    ],
)
def test_arguments_that_do_not_fit(mode: str, changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_adapter(mode, **changes)


def test_taps_from_elsewhere_replace_those_of_a_frozen_vit() -> None:
    adapter = make_adapter("frozen").train()
    images = torch.randn(2, 3, 64, 96)
    expected = adapter(images)
    given = []

    def source(images: Tensor) -> list[Tensor]:
        given.append(images)
        return adapter.read_taps(images)

    adapter.tap_source = source
    for name, output in adapter(images).items():
        assert torch.equal(output, expected[name])
    assert len(given) == 1 and torch.equal(given[0], images)
    adapter.eval()(images)
    assert len(given) == 1  # used in training only
