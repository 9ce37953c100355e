"""The command line: words in, one call of the library, words out."""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from InContextSegLib.cli.arguments import parser
from InContextSegLib.config import from_mapping, read_toml, to_mapping, with_overrides
from InContextSegLib.errors import Cancelled, InputError, OutputError, TrainingError, WeightsError, sentence_of
from InContextSegLib.inference.settings import PRESETS, InferenceSettings
from InContextSegLib.jobs.cases import CaseStatus, cases_of, listed_in
from InContextSegLib.jobs.records import TABLE
from InContextSegLib.memory import keep_freed_memory
from InContextSegLib.models.catalog import cache_folder, ensure, find, list_entries, pinned_sha256, remove
from InContextSegLib.models.entry import CatalogEntry
from InContextSegLib.models.own import card_of
from InContextSegLib.progress import Report
from InContextSegLib.volumes.colour import LUMINANCE
from InContextSegLib.volumes.files import json_text

EXIT_CODES = {InputError: 2, OutputError: 3, WeightsError: 4, TrainingError: 5, Cancelled: 130}
BUG = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 a bug, 2 bad input (of a batch: some of it), 3 cannot write, 4 weights, 130 cancelled. Whatever goes wrong
    is one sentence on stderr; with --debug it is a traceback.

    Raises:
        SystemExit: with code 2 for words that no command has, with 0 after --help and --version.
    """
    options = parser().parse_args(arguments)
    if arguments is None:
        # The process is ours, from the command line. Threads that spin while they wait take the processor from whatever
        # else runs; read by OpenMP when torch is loaded, which no import has done yet.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        keep_freed_memory()
    logging.basicConfig(
        level=logging.DEBUG if options.debug else logging.WARNING,
        format="%(message)s",
        stream=sys.stderr,
        force=True,
    )
    commands = {
        "segment": _segment,
        "batch": _batch,
        "train": _train,
        "evaluate": _evaluate,
        "datasets": _datasets,
        "train-site": _train_site,
        "weights": _weights,
        "demo": _demo,
    }
    try:
        with _progress(options) as report:
            result, text = commands[options.command](options, report)
        if result or text:  # of several processes the first one speaks
            print(json_text(result) if options.json else text)
        return EXIT_CODES[InputError] if result.get("failed") else 0
    except (Exception, KeyboardInterrupt) as error:
        # Everything, because a user can do nothing with a traceback.
        if options.debug:
            raise
        code, sentence = _said(error)
        print(f"incontextseg {options.command}: {sentence}", file=sys.stderr)
        return code


def _said(error: BaseException) -> tuple[int, str]:
    """The exit code and the sentence for what went wrong."""
    if isinstance(error, KeyboardInterrupt):
        return EXIT_CODES[Cancelled], "Cancelled."
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return code, sentence_of(error)
    return BUG, f"{sentence_of(error)}; run again with --debug to see where; please report it."


@contextmanager
def _progress(options: argparse.Namespace):
    """A report that draws a bar where a person watches, and that Ctrl-C cancels: once kindly, twice at once."""
    with tqdm(disable=options.quiet or not sys.stderr.isatty(), unit="step", leave=False) as bar:

        def show(done: int, total: int, message: str) -> None:
            bar.total = total
            bar.set_description(message, refresh=False)
            bar.update(done - bar.n)

        report = Report(show)

        def cancel(*_):
            report.cancel()
            signal.signal(signal.SIGINT, earlier)

        earlier = signal.signal(signal.SIGINT, cancel)
        try:
            yield report
        finally:
            signal.signal(signal.SIGINT, earlier)


def _segment(options: argparse.Namespace, report: Report) -> tuple[dict, str]:
    # torch takes seconds to import, so only the commands that compute do.
    from InContextSegLib.jobs.segment import run  # noqa: PLC0415

    record = run(_job(options), report)
    lines = [_amount(name, amount) for name, amount in record["labels"].items()]
    lines += [f"{what}: {file['path']}" for what, file in record["files"].items()]
    if record["colour"]["weights_rgb"] != list(LUMINANCE.weights):
        red, green, blue = record["colour"]["weights_rgb"]
        lines.append(f"Grey is {red:g} red, {green:g} green, {blue:g} blue: {record['colour']['why']}.")
    lines += _foreseen(record)
    worth = record["next_slice"]
    lines.append(f"Most worth labelling next: {worth['axis']} slice {worth['index']}. Took {record['seconds']:.1f} s.")
    return record, "\n".join(lines)


def _amount(name: str, amount: dict) -> str:
    where = "slices {} to {}".format(*amount["slices"]) if amount["slices"] else "in no slice"
    text = f"{name}: {amount['voxels']:,} voxels, {amount['millilitres']:,.1f} ml, {where}"
    if "verdict" not in amount:
        return text
    why = f" ({'; '.join(amount['why'])})" if amount["why"] else ""
    dice = "" if amount["expected_dice"] is None else f"expected Dice {amount['expected_dice']:.2f}: "
    return f"{text}; {dice}{amount['verdict']}{why}"


def _batch(options: argparse.Namespace, report: Report) -> tuple[dict, str]:
    # A worker computes: an image that brings it down does not bring down the rest.
    from InContextSegLib.cli.batch import run_in_worker, task_of  # noqa: PLC0415

    listed = [each for path in options.images for each in listed_in(path.absolute())]
    cases = cases_of(listed, options.output_dir.absolute(), options.format)
    statuses = run_in_worker(task_of(options, _settings(options)), cases, report, options.overwrite)
    counted = {name: sum(status.status == name for status in statuses) for name in ("done", "skipped", "failed")}
    table = options.output_dir / TABLE
    lines = [_failure(status) for status in statuses if status.status == "failed"]
    lines.append("{done} done, {skipped} were done before, {failed} failed.".format(**counted))
    result = {**counted, "table": str(table), "cases": [each.to_mapping() for each in statuses]}
    return result, "\n".join([*lines, f"table: {table}"])


def _failure(status: CaseStatus) -> str:
    image = str(status.case.image)
    return status.message if image in status.message else f"{image}: {status.message}"


def _foreseen(record: dict) -> list[str]:
    """What the examples lead to expect, and what speaks against relying on it."""
    lines = [f"By the examples: Dice of {name} {_expectation(found)}" for name, found in record["expected"].items()]
    adaptation = record["provenance"]["model"].get("adaptation")
    if adaptation:
        lines.append(f"{'Adapted' if adaptation['helped'] else 'Not adapted'}: {adaptation['why']}.")
    lines += [f"Look again at {suspect['source']}: {suspect['why']}." for suspect in record["label_check"]]
    unlike = record["unlike_slices"]
    if unlike:
        which = (
            f"{len(unlike)} of {record['slices']} slices ({_ranges(unlike)}) look"
            if record["slices"] > 1
            else "This image looks"
        )
        lines.append(f"{which} like none of the examples: what is found there is less sure than expected.")
    return lines


def _expectation(found: dict) -> str:
    text = f"{found['dice']:.2f}" + (f" ± {found['spread']:.2f}" if found["units"] > 1 else "")
    text += f" from {found['units']} pictures, slices or volumes left out in turn"
    before = found.get("without_adapting")
    return f"{text} ({before['dice']:.2f} without adapting)." if before else f"{text}."


def _ranges(indices: Sequence[int]) -> str:
    """Whole numbers in ascending order as text: 3-7, 9."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][-1] + 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _settings(options: argparse.Namespace) -> InferenceSettings:
    own = {"supports": options.supports, "draws": options.draws, "axes": tuple(options.axis) if options.axis else None}
    own |= {"threshold": options.threshold, "seed": options.seed}
    own |= {"calibrate": options.calibration, "adapt_seconds": options.adapt, "style": options.style}
    own |= {"smooth": options.smooth, "postprocess": options.postprocess, "extend": options.extend}
    chosen = PRESETS[options.preset] | {name: value for name, value in own.items() if value is not None}
    return InferenceSettings(**chosen)


def _job(options: argparse.Namespace):
    from InContextSegLib.jobs.segment import SegmentJob, Source  # noqa: PLC0415
    from InContextSegLib.models.loading import Model  # noqa: PLC0415

    return SegmentJob(
        image=options.image,
        sources=tuple(Source(images, labels) for images, labels in options.support),
        output=options.output,
        settings=_settings(options),
        model=Model(options.model, options.weights),
        intensities=options.window,
        colour=options.colour,
        labels=tuple(options.labels) if options.labels else None,
        support_slices=options.support_slices,
        slice_range=tuple(options.slices) if options.slices else None,
        box=options.box,
        probabilities=options.probabilities,
        overwrite=options.overwrite,
        device=options.device,
        cache=cache_folder() / "adapted",
    )


def _train(options: argparse.Namespace, report: Report) -> tuple[dict, str]:
    from InContextSegLib.models.loading import choose_device  # noqa: PLC0415
    from InContextSegLib.training.courses import course_of  # noqa: PLC0415
    from InContextSegLib.training.trainer import train  # noqa: PLC0415

    course = course_of(with_overrides(read_toml(options.recipe), options.set), options.recipe, options.data)
    result = train(course, options.output, choose_device(options.device), report)
    return result, f"Weights: {result['weights']}\nsha256: {result['sha256']}"


def _evaluate(options: argparse.Namespace, report: Report) -> tuple[dict, str]:
    from InContextSegLib.evaluation.adaptation_study import run_adaptation_study  # noqa: PLC0415
    from InContextSegLib.evaluation.interactive_study import run_interactive_study  # noqa: PLC0415
    from InContextSegLib.evaluation.study import Run, Study, chosen_sets, run_study  # noqa: PLC0415
    from InContextSegLib.models.loading import Model  # noqa: PLC0415

    study = chosen_sets(from_mapping(Study, read_toml(options.study), str(options.study)), options.sets)
    if options.supports:
        numbers = "contexts" if options.clicks else "supports"
        study = replace(study, **{numbers: tuple(options.supports)})
    model = Model(options.model, options.weights)
    how = {"draws": options.draws, "seed": options.seed, "device": options.device}
    fitted = bool(options.adapt) and find(options.model).model == "incontext"  # heads are fitted, no weights change
    how |= {"calibrate": options.calibration, "adapt_seconds": options.adapt if fitted else 0.0}
    run = Run(options.data, options.output, model, **how, colour=options.colour)
    if options.adapt and options.clicks:
        raise InputError("Clicks and adapting are measured one at a time; leave out --clicks or --adapt.")
    if options.adapt and not fitted:
        return run_adaptation_study(study, run, report, options.adapt)
    if options.clicks:
        return run_interactive_study(study, run, report, options.first)
    return run_study(study, run, report)


def _datasets(options: argparse.Namespace, report: Report) -> tuple[dict, str]:
    from InContextSegLib.training.site.datasets import read_site  # noqa: PLC0415
    from InContextSegLib.training.site.survey import text_of  # noqa: PLC0415
    from InContextSegLib.training.site.surveying import survey  # noqa: PLC0415

    found = survey(read_site(options.site, options.data), report)
    return found.to_mapping() | {"failed": not found.usable}, text_of(found)


def _train_site(options: argparse.Namespace, report: Report) -> tuple[dict, str]:
    from InContextSegLib.training.runfolder import kept_settings  # noqa: PLC0415
    from InContextSegLib.training.site.datasets import read_site  # noqa: PLC0415
    from InContextSegLib.training.site.job import SiteJob, run_site  # noqa: PLC0415
    from InContextSegLib.training.site.train import SiteTraining, Where  # noqa: PLC0415

    # A run that was begun in that folder, here or in Slicer, goes on as it was begun.
    usual = kept_settings(options.output) or to_mapping(SiteTraining())
    settings = from_mapping(SiteTraining, with_overrides(usual, options.set), "--set")
    site, where = read_site(options.site, options.data), Where(options.output)
    record = run_site(SiteJob(site, settings, where, options.name or "", options.replace, options.device), report)
    if not record:
        return {}, ""
    rows = [f"| {name} | {each['dice']:.3f} |" for name, each in record["dice"].items()]
    told = [f"Weights: {record['weights']}", f"sha256: {record['weights_sha256']}"]
    if "model" in record:
        told.append(f"Model: {record['model']['name']} in {record['model']['folder']}")
    return record, "\n".join(["| task | Dice of validation patients |", "|---|---|", *rows, *told])


def _weights(options: argparse.Namespace, report: Report) -> tuple[dict, str]:
    if options.action == "list":
        rows = [_described(entry) for entry in list_entries()]
        lines = [f"{row['name']} ({row['licence']}): {row['about']} [{row['where']}]" for row in rows]
        return {"models": rows}, "\n".join(lines)
    entry, folder = find(options.name), cache_folder()
    if options.action == "info":
        row = _described(entry) | {"citation": entry.citation, "sha256": pinned_sha256(entry, folder)}
        row |= {"takes": entry.capability.taken, "input_size": entry.capability.input_size}
        row |= {"card": card_of(entry)} if entry.weights.own else {}
        return row, "\n".join(f"{name}: {value}" if name != "card" else f"\n{value}" for name, value in row.items())
    if options.action == "ensure":
        path = ensure(entry, folder, report=report)
        sha256 = pinned_sha256(entry, folder)
        return {"path": str(path), "sha256": sha256}, f"{path}\nsha256: {sha256}\nlicence: {entry.licence}"
    removed = remove(entry, folder)
    return {"removed": removed}, f"Removed {entry.name}." if removed else f"There was no download of {entry.name}."


def _described(entry: CatalogEntry) -> dict:
    """A model for people, with where it is."""
    weights, path = entry.weights, cache_folder() / entry.weights.filename
    where = str(Path(weights.path).parent) if weights.own else str(path) if path.is_file() else "not downloaded"
    return {
        "name": entry.name,
        "licence": entry.licence,
        "embedded": weights.embedded,
        "own": weights.own,
        "where": "comes with the software" if weights.embedded else where,
        "about": entry.description,
    }


def _demo(options: argparse.Namespace, report: Report) -> tuple[dict, str]:
    from InContextSegLib.cli.demo import run_demo  # noqa: PLC0415

    return run_demo(options.output, report)
