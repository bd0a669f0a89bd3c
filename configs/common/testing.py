"""The ``test`` node of semantic models, named by the crop: windows, and multi-scale testing.

Strides are the original's, about two thirds of the crop. ``test.multi_scale.enabled=True`` switches
from a single scale to several ones with flips. What becomes of views that are smaller than the crop
differs: the original tests them as they are for plain ViTs, enlarges them for BEiT, whose position
biases belong to one size, and pads them at 896 pixels.
"""

_scales = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]


# For any size of image, in one piece
whole_images = dict(
    sliding_window=None,
    multi_scale=dict(enabled=False, scales=list(_scales), flip=True, min_side=1),
)


def _test(crop, stride, min_side, scales, pad_value=None):
    return dict(
        sliding_window=dict(
            crop_size=[crop, crop], stride=[stride, stride], pad_value=pad_value
        ),
        multi_scale=dict(enabled=False, scales=list(scales), flip=True, min_side=min_side),
    )


windows_512 = _test(512, 341, min_side=1, scales=_scales)
windows_640 = _test(640, 426, min_side=1, scales=_scales)

beit_480 = _test(480, 320, min_side=480, scales=_scales)
beit_512 = _test(512, 341, min_side=512, scales=_scales)
beit_640 = _test(640, 426, min_side=640, scales=_scales)
# Cityscapes
beit_896 = _test(896, 512, min_side=896, scales=[*_scales, 2.0])

# ADE20K and COCO-Stuff 164K: sides of 640, 768 and 896 pixels on black
beit_896_padded = _test(
    896, 512, min_side=1, scales=[5 / 7, 6 / 7, 1.0], pad_value=[0.0, 0.0, 0.0]
)
# 800, 832, 864 and 896 pixels on the mean colour
beitv2_896_padded = _test(
    896,
    512,
    min_side=1,
    scales=[25 / 28, 26 / 28, 27 / 28, 1.0],
    pad_value="${model.pixel_mean}",
)
