"""Examples whose labels the others do not bear out."""

from dataclasses import replace

import numpy as np
import torch

from InContextSegLib.adaptation.adapt import foresee
from InContextSegLib.adaptation.label_check import FEWEST, check_labels
from InContextSegLib.examples.support import SupportSet
from InContextSegLib.inference.prior import Calibration
from InContextSegLib.progress import Report
from Testing.Library.fake_segmenter import LABEL, Learner, square


def judged(examples):
    support = SupportSet(tuple(examples), (LABEL,), "axial", examples[0].image.shape[0])
    calibration = Calibration(support, 4)
    trials, _ = foresee(Learner(0.3), torch.device("cpu"), calibration, Report())
    return check_labels(trials, calibration)


def noisy(count):
    generator = np.random.default_rng(3)
    for number in range(count):
        example = square(number)
        image = np.clip(example.image + generator.normal(0, 0.05, example.image.shape), 0, 1).astype(np.float32)
        yield replace(example, image=image)


def test_the_label_of_another_image_is_named():
    examples = list(noisy(12))
    examples[7] = replace(examples[7], labels=examples[5].labels)
    (suspect,) = judged(examples)
    assert suspect.source == "picture7" and suspect.value == 1
    assert suspect.dice < suspect.usual
    assert "fits the other examples" in suspect.why and suspect.record["source"] == "picture7"


def test_right_labels_are_left_in_peace():
    assert judged(list(noisy(12))) == ()


def test_with_few_examples_nobody_is_accused():
    examples = list(noisy(FEWEST - 1))
    examples[0] = replace(examples[0], labels=examples[2].labels)
    assert judged(examples) == ()


def test_the_worst_comes_first():
    examples = list(noisy(12))
    examples[3] = replace(examples[3], labels=examples[5].labels)
    shifted = np.roll(examples[8].labels, 4, axis=0)
    examples[8] = replace(examples[8], labels=shifted)
    strengths = [suspect.strength for suspect in judged(examples)]
    assert strengths == sorted(strengths, reverse=True) and strengths
