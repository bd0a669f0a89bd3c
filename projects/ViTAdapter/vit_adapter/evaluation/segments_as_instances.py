"""The objects among panoptic segments, as the truth of COCO's evaluation of boxes and masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.data.catalog import Metadata
from pycocotools import mask as mask_util
from tqdm import tqdm

from vit_adapter.data.image_io import read_segment_ids

_Entry = dict[str, Any]


def segments_as_instances(metadata: Metadata, *, with_annotations: bool = True) -> _Entry:
    """Return the content of a COCO instance file with the things of a panoptic data set.

    Masks are the pixels of the segments, so they do not overlap, and boxes lie around them.

    Args:
        metadata: of the data set.
        with_annotations: whether to read the segment maps. If not, there are no annotations.
    """
    category_ids = {i: k for k, i in metadata.thing_dataset_id_to_contiguous_id.items()}
    images, annotations = [], []
    records = DatasetCatalog.get(metadata.name)
    for record in tqdm(records, desc="Reading segments", unit="image", delay=5.0):
        image = {"id": record["image_id"], "file_name": record["file_name"]}
        images.append(image)
        if not with_annotations:
            continue
        ids = read_segment_ids(record["pan_seg_file_name"])
        image["height"], image["width"] = ids.shape
        for segment in record["segments_info"]:
            if segment["category_id"] in category_ids:
                label = category_ids[segment["category_id"]]
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image["id"],
                        "category_id": label,
                        **_annotation(ids, segment),
                    }
                )
    return {
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": identifier, "name": metadata.stuff_classes[index]}
            for index, identifier in sorted(category_ids.items())
        ],
    }


def _annotation(ids: np.ndarray, segment: Mapping[str, Any]) -> _Entry:
    rle = mask_util.encode(np.asfortranarray(ids == segment["id"], dtype=np.uint8))
    return {
        "iscrowd": int(segment.get("iscrowd", 0)),
        "area": int(mask_util.area(rle)),
        "bbox": mask_util.toBbox(rle).tolist(),
        "segmentation": {**rle, "counts": rle["counts"].decode("ascii")},
    }
