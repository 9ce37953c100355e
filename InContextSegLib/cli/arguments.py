"""The words of the command line: what can be asked, and its explanation."""

import argparse
from pathlib import Path

from InContextSegLib import __version__
from InContextSegLib.errors import InputError
from InContextSegLib.examples.support import Label
from InContextSegLib.inference.settings import ADAPT_SECONDS, MOST_SECONDS
from InContextSegLib.jobs.cases import FORMATS
from InContextSegLib.jobs.records import TABLE
from InContextSegLib.slices.intensities import WINDOWS, Intensities
from InContextSegLib.slices.plan import AXES
from InContextSegLib.volumes.colour import LUMINANCE, ColourMix

EXAMPLES = """\
examples:
  Segment a scan from two labelled ones of other patients, all their labels at once:
    incontextseg segment --image new.nii.gz --support a.nii.gz a_labels.nii.gz \\
        --support b.nii.gz b_labels.nii.gz --output new_labels.nii.gz

  From a folder of images and a folder of labels with the same file names, CT window, two named labels:
    incontextseg segment --image ct.nrrd --support images/ labels/ --window ct-soft \\
        --labels 1=liver 2=spleen --output ct_labels.nrrd

  From five slices labelled in the scan itself, walking away from them:
    incontextseg segment --image mr.nii.gz --support mr.nii.gz five_slices.nii.gz --output mr_labels.nii.gz

  Segment all scans of a folder from the same examples; the same command goes on where it was stopped:
    incontextseg batch --images scans/ --support images/ labels/ --output-dir results --format .seg.nrrd

exit codes: 0 done; 2 cannot be done as asked (of a batch: some of it); 3 a result cannot be written; 4 weights; 130
  cancelled; 1 a bug
"""


def parser() -> argparse.ArgumentParser:
    """The parser of every command; its namespace holds what the library's calls take."""
    common = _common(None)
    top = _Parser(
        prog="incontextseg",
        description="Segment medical images from a few labelled examples, without training. Not for clinical use.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"incontextseg {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=about,
            description=about,
            parents=[common],
            epilog=EXAMPLES if name == "segment" else None,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _segment(command("segment", "segment one image from labelled examples"))
    _batch(command("batch", "segment many images from the same examples, one bad image stopping no other"))
    _train(command("train", "train a network on invented tasks, and on open data where the recipe names some"))
    _evaluate(command("evaluate", "measure a model on labelled data, by a study file"))
    _train_site(command("train-site", "train on a site's data sets, all tasks at once; several processes by torchrun"))
    _datasets(command("datasets", "look through a site's data sets before training on them, and say what is wrong"))
    # The words before and behind an action mean the same, so those behind must not reset what was said before.
    _weights(command("weights", "list, fetch and remove model weights"), _common(argparse.SUPPRESS))
    demo = command("demo", "segment an invented patient that comes with the software, and make a picture of it")
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="FOLDER",
        help="for the invented patients and the result (default: demo-output)",
    )
    return top


def _common(default: str | None) -> argparse.ArgumentParser:
    """What every command understands; `default` is what is noted for a word that does not come."""
    common = argparse.ArgumentParser(add_help=False)
    for word, about in (
        ("--json", "print the result as JSON, for scripts"),
        ("--quiet", "no progress bar"),
        ("--debug", "log more, and show where an error arose"),
    ):
        common.add_argument(word, action="store_true", default=default or False, help=about)
    return common


def _segment(command: argparse.ArgumentParser) -> None:
    needed = command.add_argument_group("what to segment")
    needed.add_argument(
        "--image",
        type=Path,
        required=True,
        help="the target: NIfTI, NRRD, MHA, a DICOM series folder, PNG, TIFF, JPEG, BMP",
    )
    needed.add_argument("--output", type=Path, required=True, help="the label map to write; the rest is named after it")
    _examples(needed)
    part = command.add_argument_group("which part")
    part.add_argument("--slices", type=int, nargs=2, metavar=("FIRST", "LAST"), help="only these slices, both included")
    part.add_argument(
        "--box",
        type=int,
        nargs=6,
        action=_BoxAction,
        metavar=("I0", "I1", "J0", "J1", "K0", "K1"),
        help="voxel box, ends included",
    )
    _how(command)
    out = command.add_argument_group("what to write")
    out.add_argument("--probabilities", action="store_true", help="write every label's probability too")
    out.add_argument("--overwrite", action="store_true", help="replace earlier outputs")


def _batch(command: argparse.ArgumentParser) -> None:
    needed = command.add_argument_group("what to segment")
    needed.add_argument(
        "--images",
        type=Path,
        nargs="+",
        required=True,
        metavar="FILE|FOLDER|CSV",
        help="the targets: files, the images of a folder (of its subfolders those with a DICOM series), or the rows of "
        "a .csv file with the column image, and perhaps name",
    )
    needed.add_argument(
        "--output-dir",
        type=Path,
        required=True,
        metavar="FOLDER",
        help=f"for the label maps, named after the images, a record beside each, and the table {TABLE}",
    )
    _examples(needed)
    _how(command)
    out = command.add_argument_group("what to write")
    out.add_argument("--format", choices=FORMATS, default=FORMATS[0], help=f"of the label maps (default {FORMATS[0]})")
    out.add_argument(
        "--overwrite",
        action="store_true",
        help="replace results of other examples or settings; those that somebody changed since are always left",
    )


def _examples(needed: argparse._ActionsContainer) -> None:
    needed.add_argument(
        "--support",
        type=Path,
        nargs=2,
        action="append",
        required=True,
        metavar=("IMAGES", "LABELS"),
        help="an example: an image and its label map, or two folders whose files have the same names; repeat for more",
    )
    needed.add_argument(
        "--labels", type=_label, nargs="+", metavar="VALUE[=NAME]", help="only these labels (default: all)"
    )
    needed.add_argument(
        "--window",
        nargs="+",
        action=_Window,
        default=Intensities(),
        metavar="NAME or LOW HIGH",
        help=f"grey values to look at: {', '.join(WINDOWS)}, or two numbers (default: by percentiles)",
    )
    _colour(needed)
    needed.add_argument(
        "--support-slices",
        type=_slices,
        default="auto",
        metavar="auto|labelled|all|every:N|I,J,K",
        help="which slices of a labelled volume are examples; auto: all of a fully labelled one, else the labelled",
    )


def _how(command: argparse.ArgumentParser) -> None:
    how = command.add_argument_group("how")
    how.add_argument("--preset", choices=("fast", "normal", "best"), default="normal", help="default: normal")
    how.add_argument("--supports", type=int, metavar="N", help="examples shown for every slice")
    how.add_argument(
        "--draws", type=int, metavar="K", help="independent draws of examples, averaged; 2 or more give an uncertainty"
    )
    how.add_argument(
        "--axis",
        choices=AXES,
        action="append",
        help="slice along this axis; repeat to fuse (default: across the slices)",
    )
    _calibration(how, None, "the preset's")
    how.add_argument(
        "--adapt",
        type=_seconds,
        metavar="auto|off|SECONDS",
        help=f"let the network learn from the examples first, for so long (auto: {ADAPT_SECONDS:g} s); kept only if it "
        "segments examples better that it has not learnt from; the default model is calibrated instead, however long "
        "(default: the preset's; best: auto, else off)",
    )
    how.add_argument(
        "--style",
        action=argparse.BooleanOptionalAction,
        help="bring a target from another scanner to the low frequencies of the examples, if these say that it helps "
        "(default: no)",
    )
    how.add_argument(
        "--smooth",
        action=argparse.BooleanOptionalAction,
        help="let neighbouring slices agree (default: the preset's; normal and best: yes)",
    )
    how.add_argument(
        "--postprocess",
        action=argparse.BooleanOptionalAction,
        help="leave out small pieces where a label comes in more of them than in any completely labelled example "
        "(default: the preset's; normal and best: yes)",
    )
    how.add_argument(
        "--extend",
        action=argparse.BooleanOptionalAction,
        help="beyond the outermost slices labelled in the target itself, let labels go on as far as the network sees "
        "them (default: no, they narrow by 45 degrees on either side; yes where --slices or --box says how far to go)",
    )
    how.add_argument("--threshold", type=float, help="probability from which a voxel belongs to a label (default 0.5)")
    how.add_argument("--seed", type=int, help="of every random choice (default 0)")
    how.add_argument("--model", default="default", help="see 'incontextseg weights list'")
    how.add_argument("--weights", type=Path, metavar="FILE", help="weights of your own for that model (.safetensors)")
    how.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _colour(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--colour",
        type=_mix,
        metavar="auto|luminance|R,G,B",
        help="how colours become grey; auto: as separates the examples' labels best; R,G,B: weights, as "
        "--colour=-0.2,0.5,-0.3 (default: auto)",
    )


def _calibration(group: argparse._ActionsContainer, default: bool | None, said: str) -> None:
    group.add_argument(
        "--calibration",
        action=argparse.BooleanOptionalAction,
        default=default,
        help="leave-one-out calibration: let the examples predict one another first, to choose what answers (the "
        f"default model: heads fitted to them too), how many to show, image size and thresholds (default: {said})",
    )
    # What version 0.1 called it.
    group.add_argument(
        "--rehearsal",
        dest="calibration",
        action=argparse.BooleanOptionalAction,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )


def _train(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", type=Path, help="a recipe file, such as Resources/Recipes/default.toml")
    command.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="of the run; one begun there is resumed"
    )
    command.add_argument(
        "--data", type=Path, metavar="FOLDER", help="where the open data of the recipe lie, if it names some"
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value, e.g. steps_in_all=100"
    )
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _evaluate(command: argparse.ArgumentParser) -> None:
    command.add_argument("study", type=Path, help="a study file, such as Resources/Studies/development.toml")
    command.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="where the study's data sets lie")
    command.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="for the scores of every case and the tables"
    )
    command.add_argument("--sets", nargs="+", metavar="NAME", help="only these data sets of the study")
    command.add_argument(
        "--supports", type=int, nargs="+", metavar="N", help="numbers of examples (default: the study's)"
    )
    command.add_argument(
        "--draws", type=int, default=1, metavar="K", help="draws of examples per prediction (default 1)"
    )
    command.add_argument(
        "--clicks",
        action="store_true",
        help="measure Dice after the clicks of a simulated user, with and without examples in context",
    )
    command.add_argument(
        "--adapt",
        type=_seconds,
        metavar="auto|SECONDS",
        default=0.0,
        help="measure Dice before and after adapting to the examples, and what they lead to expect; volumes by slices",
    )
    command.add_argument(
        "--first",
        choices=("click", "box"),
        default="click",
        help="what that user begins with, with --clicks (default click)",
    )
    _colour(command)
    _calibration(command, True, "yes")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--model", default="default")
    command.add_argument("--weights", type=Path, metavar="FILE")
    command.add_argument("--device", default="auto")


def _datasets(command: argparse.ArgumentParser) -> None:
    command.add_argument("site", type=Path, help="a site file, such as Resources/Studies/site.toml")
    command.add_argument(
        "--data", type=Path, metavar="FOLDER", help="what ${INCONTEXTSEG_DATA} in that file stands for"
    )


def _train_site(command: argparse.ArgumentParser) -> None:
    _datasets(command)
    command.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="of the run; one begun there is resumed"
    )
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value, e.g. training.steps=2000"
    )
    command.add_argument(
        "--name", metavar="NAME", help="of the model of your own that the finished run becomes, chosen by --model NAME"
    )
    command.add_argument("--replace", action="store_true", help="let it take the place of your model of that name")
    command.add_argument("--device", default="auto", help="auto, cpu or cuda")


def _weights(command: argparse.ArgumentParser, common: argparse.ArgumentParser) -> None:
    actions = command.add_subparsers(dest="action", required=True)
    for name, about in (
        ("list", "what there is, your own models too"),
        ("info", "all that is known of a model; of your own its model card"),
        ("ensure", "fetch if missing, and check"),
        ("remove", "delete a download, or a model of your own, which nobody can fetch again"),
    ):
        action = actions.add_parser(name, help=about, description=about, parents=[common])
        if name != "list":
            action.add_argument("name", help="of a model, see 'incontextseg weights list'")


def _label(text: str) -> Label:
    value, _, name = text.partition("=")
    try:
        return Label(int(value), name or f"label {value}")
    except (ValueError, InputError) as error:
        raise argparse.ArgumentTypeError(
            f"a label is a whole number from 1 up, with or without =NAME, not '{text}'"
        ) from error


def _mix(text: str) -> ColourMix | None:
    if text in ("auto", "luminance"):
        return LUMINANCE if text == "luminance" else None
    try:
        red, green, blue = (float(weight) for weight in text.split(","))
        return ColourMix((red, green, blue), "asked for")
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"auto, luminance or three weights R,G,B, not all of them zero, not '{text}'"
        ) from error


def _seconds(text: str) -> float:
    if text in ("auto", "off"):
        return ADAPT_SECONDS if text == "auto" else 0.0
    try:
        seconds = float(text)
        if not 1 <= seconds <= MOST_SECONDS:
            raise ValueError("out of range")
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"auto, off or seconds from 1 to {MOST_SECONDS:g}, not '{text}'") from error
    return seconds


def _slices(text: str):
    if text in ("auto", "labelled", "all"):
        return text
    try:
        if text.startswith("every:"):
            return int(text.removeprefix("every:"))
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"auto, labelled, all, every:N or slice indices like 12,30, not '{text}'"
        ) from error


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence, as every other error is said, without the whole usage before it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'.\n")


class _Window(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        try:
            if len(values) == 1:
                window = Intensities.named(values[0])
            else:
                low, high = (float(value) for value in values)
                window = Intensities((low, high))
        except ValueError as error:
            parser.error(f"{option_string}: a name out of {', '.join(WINDOWS)}, or LOW HIGH with LOW < HIGH ({error})")
        setattr(namespace, self.dest, window)


class _BoxAction(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        i0, i1, j0, j1, k0, k1 = values
        setattr(namespace, self.dest, ((k0, j0, i0), (k1 + 1, j1 + 1, i1 + 1)))
