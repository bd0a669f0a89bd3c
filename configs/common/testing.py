"""The ``test`` nodes of semantic models, named by crop size: windows, and multi-scale testing.

Strides are the original's, about two thirds of the crop. ``test.multi_scale.enabled=True`` switches
from a single scale to several scales with flips. ``test.precision=bf16`` or ``fp16`` computes in 16
bits. ``test.graph=compile`` or ``cuda_graph`` runs the core of the model as a graph. For a single
scale with a flip use
``test.multi_scale.enabled=True test.multi_scale.scales=[1.0]``.

The views are the original's, made from the stored image: resized to fit within ``data.test_scale``
times the scale, then stretched to multiples of 32. Views that are smaller than the crop stay as
they are for plain ViTs, and the ``_padded`` nodes pad them. For the other nodes of BEiT, whose
position biases belong to one size, views are enlarged until their shorter side is that of the crop,
and are not stretched.
"""

_scales = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


# Panoptic segments cannot be averaged over windows or views.
plain = dict(precision="float32", graph="none")

# Images of any size, without windows
whole_images = dict(
    precision="float32",
    graph="none",
    sliding_window=None,
    multi_scale=dict(
        enabled=False,
        scales=list(_scales),
        short_sides=None,
        flip=True,
        min_side=1,
        size_divisor=32,
    ),
)


def _test(crop, stride, scales, enlarge=False, pad_value=None):
    return dict(
        precision="float32",
        graph="none",
        sliding_window=dict(
            crop_size=[crop, crop],
            stride=[stride, stride],
            pad_value=pad_value,
            square_if_small=False,
        ),
        multi_scale=dict(
            enabled=False,
            scales=list(scales),
            short_sides=None,
            flip=True,
            min_side=crop if enlarge else 1,
            size_divisor=1 if enlarge else 32,
        ),
    )


windows_512 = _test(512, 341, _scales)
windows_640 = _test(640, 426, _scales)
windows_896 = _test(896, 512, _scales)

beit_480 = _test(480, 320, _scales, enlarge=True)
beit_512 = _test(512, 341, _scales, enlarge=True)
beit_640 = _test(640, 426, _scales, enlarge=True)
# Cityscapes
beit_896 = _test(896, 512, [*_scales, 2.0], enlarge=True)

# ADE20K and COCO-Stuff 164K: sides of 640, 768 and 896 pixels, padded with black
beit_896_padded = _test(896, 512, [5 / 7, 6 / 7, 1.0], pad_value=[0.0, 0.0, 0.0])
# Sides of 800, 832, 864 and 896 pixels, padded with the mean colour
beitv2_896_padded = _test(
    896, 512, [25 / 28, 26 / 28, 27 / 28, 1.0], pad_value="${model.pixel_mean}"
)

# DINOv3's segmentor: sizes of the shorter side, which are those of 896 pixels times 0.9 to 1.1
dinov3_896 = _test(896, 596, _scales)
dinov3_896["sliding_window"]["square_if_small"] = True
dinov3_896["multi_scale"].update(scales=None, short_sides=[832, 864, 896, 940, 985], size_divisor=1)
