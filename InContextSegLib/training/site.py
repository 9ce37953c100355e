"""Training on a site's own data: from its data sets to a network, and what came of it on patients it never saw."""

import hashlib
import json
import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import nn

from InContextSegLib import __version__
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.files import json_text, write_text
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.averaged import AveragedTrainer, Batch, Settings, answered, dice_of
from InContextSegLib.training.datasets import Site
from InContextSegLib.training.ranks import Ranks
from InContextSegLib.training.sampling import AS_THEY_ARE, Sampling, TaskSampler
from InContextSegLib.training.splits import TRAIN, VALIDATION
from InContextSegLib.training.store import SliceStore, StoreSettings
from InContextSegLib.training.survey import Survey
from InContextSegLib.training.surveying import survey
from InContextSegLib.weak import KINDS, weakened

log = logging.getLogger(__name__)

WEIGHTS, RECORD, SURVEY = "weights.safetensors", "training.json", "survey.json"
MIXED = "mixed"
JUDGED_STREAM = 7_919  # of the random choices of the last judgement, apart from those of training


@dataclass(frozen=True)
class SiteTraining:
    """What is trained, and how.

    Attributes:
        model: "sricl", a new network, or "default", the weights that come with the software, trained further.
        size: of the slices, in pixels.
        references, queries: of every task in every step.
        weak: what references are drawn as (`weak.KINDS`, or "mixed": in every batch one of them by chance); queries
            keep their full masks.
        validated: queries of every task in a validation.
        draws: of references in the last judgement, over which Dice is averaged.

    Raises:
        InputError: if a number makes no sense, by name.
    """

    model: Literal["sricl", "default"] = "sricl"
    size: int = 128
    references: int = 12
    queries: int = 4
    weak: str = "full"
    validated: int = 24
    draws: int = 5
    sampling: Sampling = field(default_factory=Sampling)
    training: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        for name in ("references", "queries", "validated", "draws"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}: asked for at least 1, got {getattr(self, name)}.")
        if self.weak not in (*KINDS, MIXED):
            raise InputError(f"weak: asked for one of {', '.join(KINDS)} and {MIXED}, got {self.weak!r}.")
        if self.model != "sricl" and self.weak != "full":
            raise InputError(f"weak: only the model sricl learns from references drawn as {self.weak}; choose full.")


@dataclass(frozen=True)
class Where:
    """The folder of a run, and the one of its slices (None: in the cache folder)."""

    run: Path
    store: Path | None = None


class SiteTask:
    """One task of a store, as `AveragedTrainer` asks it."""

    def __init__(self, store: SliceStore, name: str, settings: SiteTraining):
        self.name, self._settings = name, settings
        self._train = TaskSampler(store, name, TRAIN, settings.sampling)
        shown = bool(store.slices(name, VALIDATION))
        self.judged = shown
        self._validation = TaskSampler(store, name, VALIDATION if shown else TRAIN, AS_THEY_ARE)

    def batch(self, generator: torch.Generator) -> Batch:
        """Queries and references of training patients, changed at random."""
        return self._drawn(self._train, self._settings.queries, generator)

    def trial(self, generator: torch.Generator) -> Batch:
        """Queries of validation patients as they are, and references of training patients."""
        return self._drawn(self._validation, self._settings.validated, generator)

    def _drawn(self, sampler: TaskSampler, queries: int, generator: torch.Generator) -> Batch:
        asked, shown = sampler.episode(queries, self._settings.references, generator)
        masks = shown.masks
        if self._settings.weak != "full":
            seed = int(torch.randint(2**31, (1,), generator=generator))
            source = np.random.default_rng(seed)
            # A batch has one kind, as kinds differ in their channels.
            kind = str(source.choice(KINDS)) if self._settings.weak == MIXED else self._settings.weak
            drawn = [weakened(kind, mask[0].numpy() > 0.5, source) for mask in masks]
            masks = torch.from_numpy(np.stack(drawn))
        return Batch(asked.images, asked.masks, shown.images, masks)


def train_on_site(
    site: Site,
    settings: SiteTraining,
    where: Where,
    network: nn.Module | None,
    device: torch.device,
    report: Report,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> dict:
    """Train on all tasks of a site, or go on with a run that was begun in the folder, and judge the best network.

    Args:
        network: to begin with; None: a new SR-ICL.

    Returns:
        the record: Dice of every task on validation patients, where the weights are, their sha256, the settings.

    Raises:
        InputError: if a task has nothing to learn from, or the folder holds another run.
        OutputError, Cancelled, TrainingError: the run can be resumed.
    """
    found = _surveyed(site, where.run, report)
    torch.manual_seed(settings.training.seed)
    network = network or SRICL()
    begin = ranks.rank / ranks.size
    with closing(SliceStore.open(site, found, StoreSettings(settings.size, where.store), report, begin)) as store:
        tasks = [SiteTask(store, task.name, settings) for task in found.tasks]
        trainer = AveragedTrainer(network, tasks, settings.training, where.run, device, ranks)
        best = trainer.run(report)
        if not ranks.first:
            return {}
        scores = judged(best, tasks, settings, device, report)
    path = where.run / WEIGHTS
    notes = {"incontextseg": __version__, "site": site.name, "settings": json.dumps(to_mapping(settings))}
    save_weights(path, best.state_dict(), notes)
    record = {
        "site": site.name,
        "version": __version__,
        "weights": str(path),
        "weights_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "steps": trainer.step,
        "best_step": trainer.best.step,
        "dice": scores,
        "mean_dice": _mean([each["dice"] for each in scores.values()]),
        "settings": to_mapping(settings),
        "problems": [problem.sentence for problem in (*found.problems, *store.problems)],
    }
    write_text(where.run / RECORD, json_text(record, indent=2) + "\n")
    return record


def judged(
    network: nn.Module, tasks: Sequence[SiteTask], settings: SiteTraining, device: torch.device, report: Report
) -> dict[str, dict]:
    """Dice and IoU of every task on validation patients, means over draws of references; nan where there are none."""
    found = {}
    for index, task in enumerate(tasks):
        report.step(index, len(tasks), f"{task.name} is judged")
        pairs = []
        for draw in range(settings.draws if task.judged else 0):
            batch = task.trial(torch.Generator().manual_seed(JUDGED_STREAM * (draw + 1) + index)).to(device)
            with torch.no_grad():
                pairs.append(dice_of(answered(network, batch) > 0, batch.masks > 0.5))
        dice = [float(each.mean()) for each in pairs]
        iou = [float((each / (2 - each)).mean()) for each in pairs]
        found[task.name] = {"dice": _mean(dice), "iou": _mean(iou), "by_draw": [round(each, 4) for each in dice]}
    return found


def _surveyed(site: Site, folder: Path, report: Report) -> Survey:
    """What was found when the run began: a case that breaks meanwhile must not move others to another side."""
    path = folder / SURVEY
    if path.exists():
        return Survey.from_mapping(json.loads(path.read_text(encoding="utf-8")))
    found = survey(site, report)
    found.require_tasks()
    for problem in found.problems:
        log.warning("%s: %s", problem.data_set, problem.sentence)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(path, json_text(found.to_mapping(), indent=2) + "\n")
    return found


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(known)), 4) if known else float("nan")
