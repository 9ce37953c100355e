"""The words of the command line: what earlier versions understood is understood, but not offered."""

import pytest

from InContextSegLib.cli.arguments import parser

SEGMENT = ("segment", "--image", "a.nii.gz", "--support", "b.nii.gz", "c.nii.gz", "--output", "d.nii.gz")
EVALUATE = ("evaluate", "study.toml", "--data", "data", "--output", "out")


@pytest.mark.parametrize(("command", "usual"), [(SEGMENT, None), (EVALUATE, True)], ids=["segment", "evaluate"])
def test_the_calibration_is_as_asked_for_by_its_old_name_too(command, usual):
    def asked(*words):
        return parser().parse_args([*command, *words]).calibration

    assert asked() is usual
    assert asked("--calibration") is asked("--rehearsal") is True
    assert asked("--no-calibration") is asked("--no-rehearsal") is False
    assert asked("--rehearsal", "--no-calibration") is False  # the last one counts


@pytest.mark.parametrize("command", ["segment", "batch", "evaluate"])
def test_the_old_name_is_not_offered(command, capsys):
    with pytest.raises(SystemExit):
        parser().parse_args([command, "--help"])
    told = capsys.readouterr().out
    assert "--calibration" in told and "rehearsal" not in told
