"""The whole model: Detectron2's conventions, padding, outputs, training."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from detectron2.config import get_cfg
from detectron2.export import TracingAdapter
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from detectron2.structures import BitMasks, Instances
from torch import Tensor

from vit_adapter.mask2former import HungarianMatcher, Mask2Former, Mask2FormerHead, SetCriterion

MakeModel = Callable[..., Mask2Former]


def scene(height: int = 60, width: int = 80) -> dict:
    """A bright box (1) and a dark one (2) on a grey background (0), with one corner ignored."""
    sem_seg = torch.zeros(height, width, dtype=torch.int64)
    for label in (1, 2):
        top = int(torch.randint(height // 2, ()))
        left = int(torch.randint(width // 2 - 10, ())) + (label - 1) * width // 2
        sem_seg[top : top + height // 2, left : left + 24] = label
    sem_seg[-4:, -4:] = 255
    shades = torch.tensor([120, 230, 20], dtype=torch.uint8)
    image = shades[sem_seg.clamp(max=2) * (sem_seg != 255)].expand(3, -1, -1)
    return {"image": image, "sem_seg": sem_seg, "height": height, "width": width}


def as_instances(inputs: dict) -> dict:
    """The same scene as objects."""
    instances = Instances(inputs["sem_seg"].shape)
    instances.gt_classes = torch.tensor([1, 2])
    instances.gt_masks = BitMasks(torch.stack([inputs["sem_seg"] == i for i in (1, 2)]))
    return {**inputs, "instances": instances}


def test_is_registered(make_model: MakeModel) -> None:
    assert META_ARCH_REGISTRY.get("Mask2Former") is Mask2Former
    cfg = get_cfg()
    cfg.MODEL.META_ARCHITECTURE = "Mask2Former"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = [
        f"res{i}" for i in range(2, 6)
    ]
    cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 64
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 5
    model = build_model(cfg).eval()
    assert isinstance(model, Mask2Former)
    with torch.no_grad():
        (output,) = model([{"image": torch.zeros(3, 64, 64)}])
    assert output["sem_seg"].shape == (5, 64, 64)


def test_losses_of_all_predictions(make_model: MakeModel) -> None:
    losses = make_model()([scene(), scene(70, 50)])
    names = ("loss_cls", "loss_mask", "loss_dice")
    assert set(losses) == {f"{name}{s}" for name in names for s in ("", "_0", "_1", "_2")}
    assert all(loss.isfinite() and loss > 0 for loss in losses.values())


def test_an_ignored_image_trains(make_model: MakeModel) -> None:
    model = make_model()
    inputs = scene()
    inputs["sem_seg"].fill_(255)
    losses = model([inputs])
    sum(losses.values()).backward()
    assert losses["loss_cls"] > 0
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    # other processes wait for the gradients, so none may be missing
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@torch.no_grad()
def test_outputs_have_the_requested_size(make_model: MakeModel) -> None:
    model = make_model(
        semantic_on=True,
        instance_on=True,
        panoptic_on=True,
        object_mask_threshold=0.0,
        overlap_threshold=0.0,
        thing_classes=[1, 2],
        topk_per_image=5,
        postprocessing="things_first",
    ).eval()
    inputs = [{**scene(), "height": 33, "width": 45}, {"image": scene(70, 50)["image"]}]
    outputs = model(inputs)
    for output, size in zip(outputs, [(33, 45), (70, 50)], strict=True):
        assert set(output) == {"sem_seg", "instances", "panoptic_seg"}
        assert output["sem_seg"].shape == (3, *size)
        panoptic, segments = output["panoptic_seg"]
        assert panoptic.shape == size
        assert set(panoptic.unique().tolist()) <= {0, *(s["id"] for s in segments)}
        assert output["instances"].image_size == size
        assert output["instances"].pred_masks.shape == (5, *size)
        assert set(output["instances"].pred_classes.tolist()) <= {1, 2}


@torch.no_grad()
def test_outputs_are_those_switched_on(make_model: MakeModel) -> None:
    model = make_model(semantic_on=False, instance_on=True).eval()
    assert set(model([scene()])[0]) == {"instances"}
    assert set(make_model().eval()([scene()])[0]) == {"sem_seg"}


@torch.no_grad()
def test_scores_without_padding_are_the_resized_ones(make_model: MakeModel) -> None:
    model = make_model().eval()
    images = [torch.randint(256, (3, 64, 96), dtype=torch.uint8) for _ in range(2)]
    outputs = model([{"image": image} for image in images])
    normalised = (torch.stack(images) - 127.5) / 127.5
    predictions = model.head(model.backbone(normalised))[-1]
    probabilities = predictions.class_logits.softmax(-1)[..., :-1]
    scores = torch.einsum("bqk,bqhw->bkhw", probabilities, predictions.mask_logits.sigmoid())
    expected = F.interpolate(scores, (64, 96), mode="bilinear")
    for output, expected_of_image in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output["sem_seg"], expected_of_image, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_padding_is_cropped(make_model: MakeModel) -> None:
    model = make_model(instance_on=True).eval()
    image = torch.randint(256, (3, 60, 80)).float()
    mean = 127.5  # the model pads with this
    by_hand = F.pad(image, (0, 16, 0, 4), value=mean)
    (expected,) = model([{"image": by_hand}])
    (actual,) = model([{"image": image}])
    torch.testing.assert_close(actual["sem_seg"], expected["sem_seg"][:, :60, :80])
    expected_masks = expected["instances"].pred_masks[:, :60, :80]
    assert torch.equal(actual["instances"].pred_masks, expected_masks)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.*deprecated")
@torch.no_grad()
def test_can_be_traced_for_one_size(make_model: MakeModel) -> None:
    model = make_model(instance_on=True).eval()
    first, second = scene(), scene()
    adapter = TracingAdapter(model, [{"image": first["image"]}])
    traced = torch.jit.trace(adapter, (first["image"],), check_trace=False)
    found, expected = traced(second["image"]), adapter(second["image"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(RuntimeError, match="unflatten: Provided sizes"):
        traced(scene(61, 80)["image"])  # the same size after padding


def train(model: Mask2Former, make_inputs: Callable[[], dict], steps: int) -> list[float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    totals = []
    for _ in range(steps):
        total = sum(model([make_inputs() for _ in range(2)]).values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        totals.append(float(total.detach()))
    return totals


@pytest.mark.slow
def test_learns_to_segment(make_model: MakeModel) -> None:
    model = make_model()
    totals = train(model, scene, 80)
    assert sum(totals[-5:]) < 0.5 * sum(totals[:5])
    torch.manual_seed(100)
    inputs = scene()
    model.eval()
    with torch.no_grad():
        (output,) = model([inputs])
    labels: Tensor = output["sem_seg"].argmax(0)
    counted = inputs["sem_seg"] != 255
    accuracy = (labels == inputs["sem_seg"])[counted].float().mean()
    assert accuracy > 0.85  # the background alone is about 0.6


@pytest.mark.slow
def test_learns_objects(make_model: MakeModel) -> None:
    model = make_model(semantic_on=False, instance_on=True, thing_classes=[1, 2])
    totals = train(model, lambda: as_instances(scene()), 15)
    assert sum(totals[-3:]) < 0.8 * sum(totals[:3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"semantic_on": False}, "at least one of semantic_on, instance_on and panoptic_on"),
        ({"thing_classes": [0, 3]}, r"thing_classes must be from 0 to 2, got \[3\]"),
        ({"topk_per_image": 0}, "topk_per_image must be at least 1, got 0"),
        (
            {"postprocessing": "detr"},
            "postprocessing must be one of original, mask2former, .*, got 'detr'",
        ),
        (
            {"criterion": SetCriterion(num_classes=7, matcher=HungarianMatcher())},
            "same num_classes, got 3 and 7",
        ),
    ],
)
def test_arguments_that_do_not_fit(make_model: MakeModel, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model(**changes)


@pytest.mark.parametrize("changes", [{"embed_dim": 32}, {"mask_dim": 32}])
def test_head_refuses_parts_of_different_width(
    make_pixel_decoder: Callable, make_decoder: Callable, changes: dict
) -> None:
    width, mask_dim = changes.get("embed_dim", 64), changes.get("mask_dim", 64)
    with pytest.raises(ValueError, match=rf"got \({width}, {mask_dim}\) and \(64, 64\)"):
        Mask2FormerHead(
            pixel_decoder=make_pixel_decoder(**changes), transformer_decoder=make_decoder()
        )


def test_training_without_labels_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match='an image: training needs "sem_seg" or "instances"'):
        make_model()([{"image": scene()["image"]}])


@torch.no_grad()
@pytest.mark.parametrize(
    ("size", "output"),
    [((64, 96), (64, 96)), ((50, 90), (50, 90)), ((64, 96), (37, 45)), ((50, 90), (37, 45))],
)
def test_masks_can_be_resized_before_their_sigmoid(
    make_model: MakeModel, size: tuple, output: tuple
) -> None:
    model = make_model(resize_masks_first=True).eval()
    image = torch.randint(256, (3, *size), dtype=torch.uint8)
    (result,) = model([{"image": image, "height": output[0], "width": output[1]}])
    padded = torch.zeros(1, 3, 64, 96)
    padded[0, :, : size[0], : size[1]] = (image - 127.5) / 127.5
    predictions = model.head(model.backbone(padded))[-1]
    logits = predictions.mask_logits
    if size == (64, 96):  # no padding: one step
        logits = F.interpolate(logits, output, mode="bilinear")
    else:
        logits = F.interpolate(logits, (64, 96), mode="bilinear")[..., : size[0], : size[1]]
        logits = F.interpolate(logits, output, mode="bilinear")
    probabilities = predictions.class_logits.softmax(-1)[0, :, :-1]
    expected = torch.einsum("qk,qhw->khw", probabilities, logits[0].sigmoid())
    torch.testing.assert_close(result["sem_seg"], expected, rtol=1e-4, atol=1e-5)
    model.resize_masks_first = False
    (other,) = model([{"image": image, "height": output[0], "width": output[1]}])
    assert not torch.allclose(result["sem_seg"], other["sem_seg"], atol=1e-4)
