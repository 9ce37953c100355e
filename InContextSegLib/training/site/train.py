"""Training on a site's own data: from its data sets to a network, and what came of it on patients it never saw."""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from InContextSegLib import __version__
from InContextSegLib.config import to_mapping
from InContextSegLib.errors import InputError
from InContextSegLib.examples.weak import KINDS, weakened
from InContextSegLib.models.networks import SliceSegmenter, name_of
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.models.weights import save_weights
from InContextSegLib.progress import Report
from InContextSegLib.training.averaged import AveragedTrainer, Batch, Settings, answered, dice_of, suiting
from InContextSegLib.training.ranks import Ranks
from InContextSegLib.training.runfolder import (
    BEGUN,
    CURVES,
    LOG,
    RECORD,
    SURVEY,
    WEIGHTS,
    begun_with,
    has_learnt,
    open_run,
    survey_of,
)
from InContextSegLib.training.site.curves import draw_training
from InContextSegLib.training.site.datasets import Site
from InContextSegLib.training.site.sampling import AS_THEY_ARE, Sampling, TaskSampler
from InContextSegLib.training.site.splits import TRAIN, VALIDATION
from InContextSegLib.training.site.store import SMALLEST, SliceStore, StoreSettings
from InContextSegLib.training.site.survey import Survey
from InContextSegLib.training.site.surveying import survey
from InContextSegLib.volumes.files import json_text, make_folder, write_text

log = logging.getLogger(__name__)

BEGINNING = {"began_from": "model", "size": "size", "weak": "kind of references", "network": "network"}
MIXED = "mixed"
CHANGE = 1.0
MOST_AT_ONCE = 1000  # pictures that a batch holds of a kind; more fit into no memory
NEW = "sricl"  # what to train where no model is trained further
JUDGED_STREAM = 7_919  # of the random choices of the last judgement, apart from those of training


@dataclass(frozen=True)
class SiteTraining:
    """What is trained, and how.

    Attributes:
        model: "sricl", a new network, or the name of the model that is trained further.
        size: of the slices, in pixels.
        references, queries: of every task in every step.
        weak: what references are drawn as (`weak.KINDS`, or "mixed": in every batch one of them by chance); queries
            keep their full masks.
        validated: queries of every task in a validation.
        draws: of references in the last judgement, over which Dice is averaged.
        change: where a model is trained further, how much of the change of its weights stays, from 0 to 1 (WiSE-FT,
            Wortsman et al., CVPR 2022): less change, less forgotten of what the site does not show.

    Raises:
        InputError: if a number makes no sense, by name.
    """

    model: str = NEW
    size: int = 128
    references: int = 12
    queries: int = 4
    weak: str = "full"
    validated: int = 24
    draws: int = 5
    change: float = CHANGE
    sampling: Sampling = field(default_factory=Sampling)
    training: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        for name in ("references", "queries", "validated", "draws"):
            if not 1 <= getattr(self, name) <= MOST_AT_ONCE:
                raise InputError(f"{name}: asked for 1 to {MOST_AT_ONCE}, got {getattr(self, name)}.")
        if not 0 < self.change <= 1:
            raise InputError(f"change: asked for a number above 0, up to 1, got {self.change}.")
        if self.size < SMALLEST:
            raise InputError(f"size: asked for slices of at least {SMALLEST} pixels, got {self.size}.")
        if self.weak not in (*KINDS, MIXED):
            raise InputError(f"weak: asked for one of {', '.join(KINDS)} and {MIXED}, got {self.weak!r}.")


@dataclass(frozen=True, eq=False)
class Start:
    """The network that a training begins with, and where it is from.

    Attributes:
        entry, weights_sha256, licence: of the model that is trained further; empty for a new network.
        size: of the pictures that it was made for; None: of any.
    """

    network: SliceSegmenter
    entry: str = ""
    weights_sha256: str = ""
    licence: str = ""
    size: int | None = None

    @property
    def began_from(self) -> dict[str, str] | None:
        """For the record; None: a new network."""
        told = {"entry": self.entry, "weights_sha256": self.weights_sha256, "licence": self.licence}
        return told if self.entry else None


@dataclass(frozen=True)
class Where:
    """The folder of a run, and the one of its slices (None: in the cache folder).

    Attributes:
        found: what there is to train on, for a run that begins, where somebody has looked already.
    """

    run: Path
    store: Path | None = None
    found: Survey | None = None


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
    start: Start | None,
    device: torch.device,
    report: Report,
    ranks: Ranks = Ranks(),  # noqa: B008 - frozen
) -> dict:
    """Train on all tasks of a site, or go on with a run that was begun in the folder, and judge the best network.

    Args:
        start: what to begin with, the model that the settings name; None: a new SR-ICL.

    Returns:
        the record: Dice of every task on validation patients, where the weights are, their sha256, the settings; that
        of the folder where the run is finished. Of several ranks only the first one has it.

    Raises:
        InputError: before anything is read, if the settings do not suit the network or the folder holds another run;
            if a task has nothing to learn from.
        OutputError, Cancelled, TrainingError: the run can be resumed.
    """
    torch.manual_seed(settings.training.seed)
    start = start or Start(SRICL())
    settings = suited(settings, start)
    _begin(where.run, settings, start, ranks)
    open_run(where.run, site, to_mapping(settings), ranks.first)
    if (record := finished(where.run, settings)) is not None:
        return record if ranks.first else {}
    found = _surveyed(site, where, report)
    begin = ranks.rank / ranks.size
    with closing(SliceStore.open(site, found, StoreSettings(settings.size, where.store), report, begin)) as store:
        tasks = [SiteTask(store, task.name, settings) for task in found.tasks]
        before = {name: value.clone() for name, value in start.network.state_dict().items()}
        trainer = AveragedTrainer(start.network, tasks, settings.training, where.run, device, ranks)
        best = trainer.run(report)
        if not ranks.first:
            return {}
        if start.entry:
            best.load_state_dict(part_way(before, best.state_dict(), settings.change))
        scores = judged(best, tasks, settings, device, report)
    draw_training(where.run / LOG, site.name, where.run / CURVES)
    record = {
        "site": site.name,
        "version": __version__,
        **_saved(where.run / WEIGHTS, best, site, settings),
        **_told(start),
        "steps": trainer.step,
        "best_step": trainer.best.step,
        "dice": scores,
        "mean_dice": _mean([each["dice"] for each in scores.values()]),
        **_amounts(site, found),
        "settings": to_mapping(settings),
        "problems": [problem.sentence for problem in (*found.problems, *store.problems)],
    }
    write_text(where.run / RECORD, json_text(record, indent=2) + "\n")
    return record


def suited(settings: SiteTraining, start: Start) -> SiteTraining:
    """The settings with a loss that suits the network.

    Raises:
        InputError: if the network cannot be trained as they say.
    """
    if (start.entry or NEW) != settings.model:
        raise ValueError(f"model: the settings name {settings.model}, but {start.entry or NEW} came.")
    network = start.network
    if start.size not in (None, settings.size):
        log.warning(
            "The model '%s' was made for pictures of %d pixels, and is trained further at %d; size=%d keeps them.",
            *(start.entry, start.size, settings.size, start.size),
        )
    if settings.weak != "full" and not isinstance(network, SRICL):
        raise InputError(f"weak: only an SR-ICL network learns from references drawn as {settings.weak}; choose full.")
    try:
        with torch.no_grad():
            network.encode(torch.zeros(1, 1, settings.size, settings.size))
    except ValueError as error:
        raise InputError(f"size: {error}") from error
    return replace(settings, training=replace(settings.training, loss=suiting(network, settings.training.loss)))


def part_way(
    first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Weights that went a share of the way from the first to the second."""
    return {
        name: torch.lerp(first[name].to(value), value, share) if value.is_floating_point() else value
        for name, value in second.items()
    }


def finished(run: Path, settings: SiteTraining) -> dict | None:
    """The record of a run that was finished with these settings; None if it was not, or its weights are others now."""
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))
        if record["settings"] != to_mapping(settings) or record["weights_sha256"] != _sha256(run / WEIGHTS):
            return None
        for scores in record["dice"].values():
            scores |= {name: math.nan if scores[name] is None else scores[name] for name in ("dice", "iou")}
        known = {"weights": str(run / WEIGHTS)}  # the folder may have been moved, or named from elsewhere
        return record | known | {"mean_dice": math.nan if record["mean_dice"] is None else record["mean_dice"]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


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


def _begin(run: Path, settings: SiteTraining, start: Start, ranks: Ranks) -> None:
    """Note in the folder what a run begins with, and refuse to go on with one that began with something else."""
    path, told = run / BEGUN, {**_told(start), "size": settings.size, "weak": settings.weak}
    begun = begun_with(run) if has_learnt(run) else None
    if begun is not None:
        other = [BEGINNING[name] for name in told if begun.get(name) != json.loads(json_text(told[name]))]
        if other:
            raise InputError(
                f"{run} holds a run that began with another {' and '.join(other)}: {json_text(begun)}; choose another "
                "folder, or the same settings."
            )
    elif ranks.first:
        make_folder(run)
        write_text(path, json_text(told, indent=2) + "\n")


def _saved(path: Path, network: nn.Module, site: Site, settings: SiteTraining) -> dict:
    notes = {"incontextseg": __version__, "site": site.name, "settings": json.dumps(to_mapping(settings))}
    save_weights(path, network.state_dict(), notes)
    return {"weights": str(path), "weights_sha256": _sha256(path)}


def _told(start: Start) -> dict:
    return {"began_from": start.began_from, "network": _described(start.network)}


def _described(network: SliceSegmenter) -> dict:
    """What kind of network it is, as far as it can be built by name."""
    told = {"parameters": sum(each.numel() for each in network.parameters()), "promptable": network.promptable}
    try:
        return told | {"model": name_of(network), "arguments": network.arguments}
    except ValueError:
        return told | {"model": None}


def _amounts(site: Site, found: Survey) -> dict:
    """How much was there to learn from and to validate with, by numbers alone."""
    sides = {side: len({case.patient for case in found.cases if case.side == side}) for side in (TRAIN, VALIDATION)}
    windows = {each.name: each.window for each in site.datasets}
    return {
        "tasks": {
            task.name: {"train": asdict(task.train), "validation": asdict(task.validation)} for task in found.tasks
        },
        "patients": sides,
        "data_sets": {
            each.name: {"axis": each.axis, "window": windows.get(each.name), "cases": each.usable}
            for each in found.sets
        },
    }


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _surveyed(site: Site, where: Where, report: Report) -> Survey:
    """What was found when the run began: a case that breaks meanwhile must not move others to another side."""
    if (before := survey_of(where.run)) is not None:
        return Survey.from_mapping(before)
    found = where.found or survey(site, report)
    found.require_tasks()
    for problem in found.problems:
        log.warning("%s: %s", problem.data_set, problem.sentence)
    write_text(where.run / SURVEY, json_text(found.to_mapping(), indent=2) + "\n")
    return found


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return round(float(np.mean(known)), 4) if known else float("nan")
