"""Invented tasks at a glance: `python -m Testing.Benchmarks.contact_sheet --output docs/images/synthetic.png`."""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from InContextSegLib.training.synthetic.tasks import synthetic_tasks

SIZE = 96
SHOWN = 3  # images of a task, each beside its mask
ROWS, COLUMNS = 12, 2
TINT = np.array([1.0, 0.2, 0.1])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    strips = [
        np.concatenate([part for pair in task for part in beside(*pair)], axis=1)
        for task in invented_tasks(options.seed)
    ]
    sheet = np.concatenate([np.concatenate(strips[start::COLUMNS], axis=0) for start in range(COLUMNS)], axis=1)
    Image.fromarray((sheet * 255).astype(np.uint8)).save(options.output, optimize=True)


def invented_tasks(seed):
    batch = synthetic_tasks(ROWS * COLUMNS, SHOWN, SIZE, torch.Generator().manual_seed(seed))
    for images, masks in zip(batch.images, batch.masks, strict=True):
        yield [(image[0].numpy(), mask[0].numpy() > 0) for image, mask in zip(images, masks, strict=True)]


def beside(image, mask):
    """A picture and the same picture with its mask over it."""
    plain = np.repeat(image[..., None], 3, axis=2)
    return plain, np.where(mask[..., None], 0.5 * plain + 0.5 * TINT, plain)


if __name__ == "__main__":
    main()
