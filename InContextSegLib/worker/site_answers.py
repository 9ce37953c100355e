"""What a worker answers about training on a site's own data: what was found, and how a run goes."""

import json
from pathlib import Path
from typing import Any

from InContextSegLib.config import from_mapping, to_mapping
from InContextSegLib.models.catalog import check_new_name
from InContextSegLib.progress import Report
from InContextSegLib.training.runfolder import SURVEY
from InContextSegLib.training.site.datasets import Site, listed_in
from InContextSegLib.training.site.job import SiteJob, run_site
from InContextSegLib.training.site.survey import Survey
from InContextSegLib.training.site.surveying import survey
from InContextSegLib.training.site.train import SiteTraining, Where
from InContextSegLib.worker.cache import Kept, WorkerCache
from InContextSegLib.worker.site_requests import LookAtSite, TrainingStatus, TrainOnSite


def look_at_site(cache: WorkerCache, request: LookAtSite, report: Report) -> dict[str, Any]:
    """What there is to train on, and what is wrong with it."""
    found = _found(cache, request.site, report).to_mapping()
    return {name: found[name] for name in ("sets", "tasks", "problems")} | {
        "usable": bool(found["tasks"]) and all(task["train"]["cases"] for task in found["tasks"])
    }


def train_on_own_data(cache: WorkerCache, request: TrainOnSite, report: Report) -> dict[str, Any]:
    """Train, or go on with a run, and say what the network is worth on patients it never saw."""
    settings, folder = from_mapping(SiteTraining, request.settings, "settings"), Path(request.run)
    if request.name:
        check_new_name(request.name)
    cache.recover(everything=True)  # what sessions hold is wanted for the training
    told = report.worded(lambda status, facts: TrainingStatus(status, facts).message)
    found = None if (folder / SURVEY).exists() else _found(cache, request.site, told)
    where = Where(folder, found=found)
    return run_site(SiteJob(request.site, settings, where, request.name, device=request.device), told)


def _found(cache: WorkerCache, site: Site, report: Report) -> Survey:
    """What a survey finds, computed once for files that stay as they are."""
    key = (json.dumps(to_mapping(site), sort_keys=True), _stamps(site))
    return cache.for_surveys.get(key, lambda: Kept(survey(site, report))).value


def _stamps(site: Site) -> tuple:
    """The same as long as no file of a site has changed."""
    found = []
    for each in site.datasets:
        for one in listed_in(each)[0]:
            for path in (one.image, one.labels):
                try:
                    stat = path.stat()
                    found.append((str(path), stat.st_mtime_ns, stat.st_size))
                except OSError:
                    found.append((str(path), None))
    return tuple(found)
