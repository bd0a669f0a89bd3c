"""Objects and detections at random places."""

import numpy as np

AREAS = (20, 60, 150)  # sides of boxes that are small, medium and large


def make_data(seed: int, *, images: int = 6, classes: int = 3) -> tuple[dict, list]:
    """Objects of all sizes, some of them found, and some that do not exist."""
    draw = np.random.default_rng(seed)
    objects, found = [], []
    for image in range(images):
        for _ in range(draw.integers(1, 8)):
            x, y = draw.uniform(0, 300, 2)
            side = float(draw.choice(AREAS))
            label = int(draw.integers(1, classes + 1))
            entry = {"image_id": image + 1, "category_id": label}
            objects.append(
                entry
                | {"id": len(objects) + 1, "bbox": [x, y, side, side], "area": side * side}
                | {"iscrowd": int(draw.random() < 0.1)}
            )
            for _ in range(draw.integers(0, 3)):
                moved = [x + draw.normal(0, side / 8), y, side, side]
                found.append(entry | {"bbox": moved, "score": float(draw.random())})
    truth = {
        "images": [{"id": i + 1, "width": 500, "height": 500} for i in range(images)],
        "categories": [{"id": k + 1, "name": f"class {k}"} for k in range(classes + 1)],
        "annotations": objects,
    }
    return truth, found
