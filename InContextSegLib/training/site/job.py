"""A training on a site's data from beginning to end: what it begins with, the run, and the model it becomes."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from InContextSegLib.errors import InputError, OutputError
from InContextSegLib.models.catalog import check_new_name, find
from InContextSegLib.models.entry import PROMPTS, Capability, CatalogEntry, Weights
from InContextSegLib.models.loading import Model, choose_device, load_model
from InContextSegLib.models.own import CARD, keep
from InContextSegLib.progress import Report
from InContextSegLib.training.ranks import device_of_rank, joined
from InContextSegLib.training.runfolder import LOCK
from InContextSegLib.training.site.card import card_of, description_of, figures_of, licence_of
from InContextSegLib.training.site.datasets import Site
from InContextSegLib.training.site.train import CURVES, NEW, RECORD, SiteTraining, Start, Where, train_on_site
from InContextSegLib.volumes.files import json_text, make_folder

CITATIONS = {
    "incontext": "Tan, Le: EfficientNet. ICML 2019 (the backbone); Bertinetto et al.: Meta-learning with "
    "Differentiable Closed-form Solvers. ICLR 2019 (the head).",
    "sricl": "Unified Medical Lesion Segmentation via Self-referring Indicator. CVPR 2025 (the method).",
    "universeg": "Butoi, Gonzalez Ortiz, et al.: UniverSeg. ICCV 2023 (the method).",
}


@dataclass(frozen=True)
class SiteJob:
    """What is trained, where the run is, and what becomes of it.

    Attributes:
        name: of the model of one's own that the finished run becomes; empty: none.
        replacing: whether one of that name gives way.
    """

    site: Site
    settings: SiteTraining
    where: Where
    name: str = ""
    replacing: bool = False
    device: str = "auto"


def run_site(job: SiteJob, report: Report) -> dict[str, Any]:
    """Train, or go on with a run, and make it a model of one's own; a run that is finished just becomes one.

    Returns:
        the record (`train_on_site`), with the name and the folder of the model; empty for ranks other than the first.

    Raises:
        InputError: before anything is read, if the name is taken, another process trains in the folder, or the model
            to begin with does not suit.
        WeightsError: if its weights are not on this computer.
        OutputError, Cancelled, TrainingError: the run can be resumed.
    """
    if job.name:
        check_new_name(job.name, job.replacing)
    device, start = device_of_rank(choose_device(job.device)), start_of(job.settings.model)
    with joined(device) as ranks, alone_in(job.where.run) if ranks.first else nullcontext():
        record = train_on_site(job.site, job.settings, job.where, start, device, report, ranks)
    if record and job.name:
        entry = keep_run(job.where.run, record, job.name, job.replacing)
        record = record | {"model": {"name": entry.name, "folder": str(Path(entry.weights.path).parent)}}
    return record


@contextmanager
def alone_in(run: Path) -> Iterator[None]:
    """Hold the folder of a run; the system lets go of it when this process ends, however it ends.

    Raises:
        InputError: if another process trains there.
        OutputError: if the folder cannot be written to.
    """
    make_folder(run)
    lock = FileLock(run / LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"Another process trains in {run}; wait for its end, or choose another folder.") from error
    except OSError as error:
        raise OutputError(f"{run} cannot be written to ({error.strerror or error}).") from error
    try:
        yield
    finally:
        lock.release()


def start_of(model: str) -> Start | None:
    """What a training begins with: a model of the catalogue, or None for a new network.

    Raises:
        InputError: if there is no such model.
        WeightsError: if its weights are not on this computer.
    """
    if model == NEW:
        return None
    entry = find(model)
    network, provenance, size = load_model(Model(model))
    return Start(network, model, provenance["weights_sha256"], entry.licence, size)


def keep_run(run: Path, record: dict[str, Any], name: str, replacing: bool = False) -> CatalogEntry:
    """Make a finished run a model of one's own, with its card and figures.

    Raises:
        InputError: if the name is taken, or the network cannot be built by name.
        WeightsError, OutputError: if the weights changed, or something cannot be written; nothing has changed then.
    """
    check_new_name(name, replacing)
    network = record["network"]
    if network["model"] is None:
        raise InputError(f"The network of {run} has a backbone of its own, and cannot be built by the name '{name}'.")
    promptable, path = network["promptable"], Path(record["weights"]).absolute()
    support, prompts = ("optional", tuple(PROMPTS)) if promptable else ("required", ())
    entry = CatalogEntry(
        name=name,
        description=description_of(record),
        model=network["model"],
        # A site's pictures are shown whole and as they lie in training.
        capability=Capability(record["settings"]["size"], support, prompts, any_view=False),
        weights=Weights(path=str(path), sha256=record["weights_sha256"], size_bytes=path.stat().st_size),
        licence=licence_of(record),
        citation=CITATIONS[network["model"]],
        arguments={key: tuple(each) if isinstance(each, list) else each for key, each in network["arguments"].items()},
    )
    beside = {
        CARD: card_of(name, record),
        RECORD: json_text(figures_of(record), indent=2) + "\n",
        CURVES: run / CURVES,
    }
    return keep(entry, beside, replacing)
