"""Small invented sites: pictures and volumes with labels in folders, and the file that names them."""

import json

import numpy as np
from PIL import Image

from InContextSegLib.progress import Report
from InContextSegLib.training.site.datasets import read_site
from InContextSegLib.training.site.store import SliceStore, StoreSettings
from InContextSegLib.training.site.surveying import survey
from InContextSegLib.volumes.files import write_volume
from InContextSegLib.volumes.geometry import Geometry, Kind, Volume

SHAPE = (10, 20, 24)
SIZE = 16


def folders(data):
    for kind in ("images", "labels"):
        (data / kind).mkdir(parents=True, exist_ok=True)
    return data / "images", data / "labels"


def picture(data, stem, values=(1,), size=(20, 24), seed=0):
    """A grey picture with a square for each value, bright where it is labelled."""
    images, labels = folders(data)
    mask = np.zeros(size, np.uint8)
    for place, value in enumerate(values):
        mask[4 + 8 * (place // 2) : 10 + 8 * (place // 2), 3 + 10 * (place % 2) : 10 + 10 * (place % 2)] = value
    noise = np.random.default_rng(seed).integers(20, 60, size)
    Image.fromarray((noise + 120 * (mask > 0)).astype(np.uint8)).save(images / f"{stem}.png")
    Image.fromarray(mask).save(labels / f"{stem}.png")


def grid(shape=SHAPE, spacing_mm=(3.0, 1.0, 1.0), at_mm=0.0):
    k_mm, j_mm, i_mm = spacing_mm
    affine = np.diag([i_mm, j_mm, k_mm, 1.0])
    affine[:3, 3] = at_mm
    return Geometry(shape, affine)


def labels_of(shape=SHAPE):
    """Label 1 in slices 2 to 7, label 2 in slices 4 and 5."""
    labels = np.zeros(shape, np.uint8)
    labels[2:8, 4:12, 4:12] = 1
    labels[4:6, 13:17, 14:20] = 2
    return labels


def volume(data, stem, labels=None, geometry=None, seed=0):
    images, masks = folders(data)
    labels, geometry = labels_of() if labels is None else labels, geometry or grid()
    noise = np.random.default_rng(seed).integers(20, 60, labels.shape)
    image = (noise + 120 * (labels > 0)).astype(np.int16)
    write_volume(images / f"{stem}.nii.gz", Volume(image, geometry))
    write_volume(masks / f"{stem}.nii.gz", Volume(labels, geometry, Kind.LABELS))


def written(path, *sets, **top):
    """A site file; each set is a dict of its keys."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in {"name": "clinic", **top}.items()]
    for each in sets:
        lines += ["", "[[datasets]]"]
        for key, value in each.items():
            table = isinstance(value, dict)
            inside = ", ".join(f"{name} = {json.dumps(text)}" for name, text in value.items()) if table else ""
            lines.append(f"{key} = {{ {inside} }}" if table else f"{key} = {json.dumps(value)}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def set_of(name="a", names=None, **more):
    keys = {"name": name, "images": f"{name}/images", "labels": f"{name}/labels", **more}
    return keys if names is None else keys | {"names": names}


def site_of(folder, *sets, **top):
    return read_site(written(folder / "site.toml", *sets, **top))


def surveyed(folder, *sets, **top):
    return survey(site_of(folder, *sets, **top), Report())


def stored(folder, *sets, size=SIZE, **top):
    site = site_of(folder, *sets, **top)
    return SliceStore.open(site, survey(site, Report()), StoreSettings(size, folder / "store"), Report())
