"""One SR-ICL for all tasks of a site against one a task, weak references, and the default weights trained further.

`python -m Testing.Benchmarks.site_study --data path/to/data --output runs/site-study` trains, on the sets of
`Resources/Studies/site.toml` split by patient, and judges on the patients held back:

* `unified`: one new network on all tasks of which five patients or more are held back;
* `longer`: the same going on to twice the steps;
* `single-TASK`: a network of the same size on each of them, the same number of steps of the same batches;
* `weak`: unified, trained further with references drawn by chance as masks, boxes, points, contours or scribbles;
* `default`: the default weights as they come; `tuned`: trained further on every other set; `tuned-50`,
  `tuned-30`: so many hundredths of the change.

What is judged are the averaged weights after the last step, so that nothing is chosen by the patients that judge. Every
task has the same slices (at most 30) and the same five draws of 12 references for all networks. A run that was stopped
goes on where it was; `--runs` takes a part. It writes a folder a run, and table.md.
"""

import argparse
import json
import shutil
from collections import defaultdict
from contextlib import closing
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from InContextSegLib.evaluation.metrics import hierarchical_mean, summarise
from InContextSegLib.examples.weak import KINDS, weakened
from InContextSegLib.models.loading import Model, load_model
from InContextSegLib.models.sricl import SRICL
from InContextSegLib.progress import Report
from InContextSegLib.training.averaged import CHECKPOINT, LOG, AveragedTrainer, Batch, Settings, answered, dice_of
from InContextSegLib.training.site.datasets import read_site
from InContextSegLib.training.site.sampling import AS_THEY_ARE, TaskSampler
from InContextSegLib.training.site.splits import TRAIN, VALIDATION
from InContextSegLib.training.site.store import SliceStore, StoreSettings
from InContextSegLib.training.site.surveying import survey
from InContextSegLib.training.site.train import SiteTask, SiteTraining, part_way

SITE = Path(__file__).parents[2] / "Resources" / "Studies" / "site.toml"
SIZE, REFERENCES, QUERIES, DRAWS = 128, 12, 4, 5
FEWEST_PATIENTS, MOST_SLICES = 5, 30
AT_ONCE = 6
PARTS = {"tuned-50": 0.5, "tuned-30": 0.3}
JUDGED = "judged.json"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--runs", nargs="*", help="names of runs, or the beginnings of names; all if left out")
    parser.add_argument("--steps", type=int, default=1000, help="of the new networks")
    parser.add_argument("--weak-steps", type=int, default=300, help="of the one for weak references")
    parser.add_argument("--tuning-steps", type=int, default=200, help="of the default weights")
    options = parser.parse_args()
    site = read_site(SITE, options.data)
    found = survey(site, Report())
    with closing(SliceStore.open(site, found, StoreSettings(SIZE, options.output / "slices"), Report())) as store:
        study = Study(store, options)
        for name in study.runs:
            if not options.runs or name.startswith(tuple(options.runs)):
                study.do(name)
        text = study.table()
    (options.output / "table.md").write_text(text, encoding="utf-8")
    print(text)


class Study:
    """The runs, and what came of them."""

    def __init__(self, store, options):
        self.store, self.options = store, options
        self.tasks = [name for name in store.tasks if len(store.slices(name, VALIDATION)) >= FEWEST_PATIENTS]
        sets = list(dict.fromkeys(set_of(task) for task in self.tasks))
        self.tuned = [task for task in self.tasks if set_of(task) in sets[::2]]
        self.others = [task for task in store.tasks if store.slices(task, VALIDATION) and set_of(task) not in sets[::2]]
        single = [f"single-{task.replace('/', '-')}" for task in self.tasks]
        self.runs = ["unified", "longer", *single, "weak", "default", "tuned", *PARTS]

    def do(self, name):
        """Train, if it is not done, and judge."""
        path = self.options.output / name / JUDGED
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        default = name in ("default", "tuned", *PARTS)
        learnt = {"unified": self.tasks, "longer": self.tasks, "weak": self.tasks}
        single = [task for task in self.tasks if name == f"single-{task.replace('/', '-')}"]
        learnt = self.tuned if default else learnt.get(name, single)
        torch.manual_seed(0)
        network = load_model(Model())[0] if default else SRICL()
        if name == "weak":
            network.load_state_dict(self.averaged("unified"))
        if name in PARTS:
            network.load_state_dict(part_way(network.state_dict(), self.averaged("tuned"), PARTS[name]))
        elif name != "default":
            self.train(name, network, learnt)
        judged = [*self.tuned, *self.others] if default else learnt
        kinds = KINDS if name in ("unified", "longer", "weak") else ("full",)
        result = {task: {kind: self.judge(network, task, kind) for kind in kinds} for task in judged}
        path.write_text(json.dumps(result, indent=1), encoding="utf-8")

    def train(self, name, network, tasks):
        """The averaged weights of the last step, in the network."""
        steps = {"tuned": self.options.tuning_steps, "weak": self.options.weak_steps, "longer": 2 * self.options.steps}
        steps = steps.get(name, self.options.steps)
        settings = Settings(
            steps=steps,
            loss="dice-cross-entropy" if name == "tuned" else "sricl",
            validate_every=100,
            patience=10**6,
        )
        weak = "mixed" if name == "weak" else "full"
        # A step of the default network takes as many times longer as it has pairs of query and reference.
        references, queries = (8, 2) if name == "tuned" else (REFERENCES, QUERIES)
        how = SiteTraining(references=references, queries=queries, weak=weak, training=settings)
        drawn = [SiteTask(self.store, task, how) for task in tasks]
        folder = self.options.output / name
        if name == "longer" and not (folder / CHECKPOINT).exists():
            for file in (CHECKPOINT, LOG):
                shutil.copy(self.options.output / "unified" / file, folder)
        trainer = AveragedTrainer(network, drawn, settings, folder, torch.device("cpu"))
        if not trainer.finished:
            trainer.run(Report())
        network.load_state_dict(self.averaged(name))

    def averaged(self, name):
        """The averaged weights after the last step of a run."""
        return torch.load(self.options.output / name / CHECKPOINT, weights_only=True)["average"]

    def judge(self, network, task, kind):
        """Dice and IoU of every patient held back: means over the slices and the draws of references."""
        network.eval()
        asked, pairs = [], []
        for patient, places in self.store.slices(task, VALIDATION).items():
            asked += [patient] * len(places)
            pairs.append(places)
        pairs = np.concatenate(pairs)
        chosen = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), MOST_SLICES)).round().astype(int))
        images, masks = (torch.from_numpy(part)[:, None] for part in self.store.read(task, pairs[chosen]))
        sampler = TaskSampler(self.store, task, TRAIN, AS_THEY_ARE)
        found = []
        for draw in range(DRAWS):
            shown = sampler.references(REFERENCES, torch.Generator().manual_seed(draw))
            source = np.random.default_rng(draw)
            marks = [weakened(kind, mask[0].numpy() > 0.5, source) for mask in shown.masks]
            references = shown.images, torch.from_numpy(np.stack(marks))
            dice = []
            for some, wanted in zip(images.split(AT_ONCE), masks.split(AT_ONCE), strict=True):
                with torch.no_grad():
                    logits = answered(network, Batch(some, wanted, *references))
                dice.append(dice_of(logits > 0, wanted > 0.5).numpy())
            found.append(np.concatenate(dice))
        by_patient = defaultdict(list)
        for place, each in zip(chosen, np.stack(found, axis=1), strict=True):
            by_patient[asked[place]].append(each)
        return {
            patient: {"dice": float(np.mean(each)), "iou": float(np.mean([dice / (2 - dice) for dice in each]))}
            for patient, each in by_patient.items()
        }

    def table(self):
        """What has been judged so far."""
        results = {}
        for name in self.runs:
            path = self.options.output / name / JUDGED
            if path.exists():
                results[name] = json.loads(path.read_text(encoding="utf-8"))
        single = {
            task: values for name in results if name.startswith("single-") for task, values in results[name].items()
        }
        networks = {name: results.get(name) for name in ("unified", "longer", "default")} | {"one a task": single}
        parts = [compared(self.tasks, {name: values for name, values in networks.items() if values})]
        for name in ("unified", "longer", "weak"):
            if name in results:
                parts.append(weakly(name, results[name]))
        if "tuned" in results and "default" in results:
            pair = {name: results[name] for name in ("default", "tuned", *PARTS) if name in results}
            parts += [f"Trained further on these:\n\n{compared(self.tuned, pair)}"]
            parts += [f"Other sets:\n\n{compared(self.others, pair)}"]
        return "\n\n".join(parts) + "\n"


def compared(tasks, networks):
    """A row a task, a column a network, and what each has more than the later ones."""
    tasks = [task for task in tasks if all(task in values for values in networks.values())]
    lines = [f"| task | patients | {' | '.join(f'{name}: Dice | IoU' for name in networks)} |"]
    lines.append("|---|---|" + "---|---|" * len(networks))
    for task in tasks:
        scores = [values[task]["full"] for values in networks.values()]
        cells = [f"{said(each, 'dice')} | {said(each, 'iou')}" for each in scores]
        lines.append(f"| {task} | {len(scores[0])} | {' | '.join(cells)} |")
    means = [
        f"{of_means({task: list_of(values[task]['full'], measure) for task in tasks})}"
        for values in networks.values()
        for measure in ("dice", "iou")
    ]
    lines.append(f"| **mean** | | {' | '.join(means)} |")
    for first, second in combinations(networks, 2):
        more = {task: differences(networks[first][task]["full"], networks[second][task]["full"]) for task in tasks}
        lines.append(f"\n{first} less {second}: {of_means(more, sign='+')} of Dice.")
    return "\n".join(lines)


def weakly(name, result):
    """Dice by kind of references, and what is lost against full masks."""
    lines = [
        f"References drawn weakly, network `{name}`:\n",
        "| references | Dice | less than with masks |",
        "|---|---|---|",
    ]
    for kind in KINDS:
        dice = {task: list_of(values[kind], "dice") for task, values in result.items()}
        lost = {task: differences(values[kind], values["full"]) for task, values in result.items()}
        lines.append(f"| {kind} | {of_means(dice)} | {of_means(lost, sign='+') if kind != 'full' else ''} |")
    return "\n".join(lines)


def set_of(task):
    return task.split("/")[0]


def list_of(scores, measure):
    return [each[measure] for each in scores.values()]


def differences(ours, theirs):
    return [ours[patient]["dice"] - theirs[patient]["dice"] for patient in ours]


def said(scores, measure):
    found = summarise(list_of(scores, measure), np.random.default_rng(0))
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]"


def of_means(values, sign=""):
    found = hierarchical_mean(values, np.random.default_rng(0))
    return f"{found.mean:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


if __name__ == "__main__":
    main()
