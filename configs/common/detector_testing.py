"""The ``test`` node of detectors: NMS or soft-NMS, several views of an image, tiles, precision.

``test.nms.method=linear`` is soft-NMS. ``test.augmentation.enabled=True`` pools several sizes of
the image and its mirror image, by default those of Detectron2. ``test.tiles.enabled=True`` cuts
large images into tiles. The views and tiles are made from the stored image.
``test.precision=bf16`` or ``fp16`` computes in 16 bits. ``test.graph=compile`` or ``cuda_graph``
runs the core of the model as a graph.

``htc`` and ``htc_augreg`` are the original's twelve views of HTC++: each size finds the objects
that it shows best. The score threshold is part of the model: HTC++ has 0.001.
"""


def _test(method, scales, max_size, areas=None, most=None):
    return dict(
        precision="float32",
        graph="none",
        # iou_threshold: null for the model's own; sigma: only for "gaussian"
        nms=dict(method=method, iou_threshold=None, sigma=0.5, min_score=0.001),
        augmentation=dict(
            enabled=False,
            scales=list(scales),
            max_size=max_size,
            flip=True,
            area_ranges=areas,
            max_detections=most,
        ),
        tiles=dict(enabled=False, size=[1024, 1024], overlap=[256, 256], min_iou=0.5),
    )


_detectron2_scales = range(400, 1200 + 1, 100)

test = _test("hard", _detectron2_scales, 4000)
soft_nms = _test("linear", _detectron2_scales, 4000)

# COCO's small, medium and large objects, in square pixels of the original image
_large, _from_medium, _to_medium = [96**2, None], [32**2, None], [None, 96**2]
_htc_scales = (600, 800, 1000, 1200, 1400, 1600)
_htc_areas = [_large, _large, _from_medium, _to_medium, _to_medium, _to_medium]

# Models of queries have no NMS; what joins an object at the borders of tiles compares boxes.
tiles_only = dict(precision="float32", graph="none", tiles=test["tiles"])

htc = _test("linear", _htc_scales, 3000, _htc_areas, 1000)
htc_augreg = _test("linear", _htc_scales, 1600, _htc_areas, 1000)
