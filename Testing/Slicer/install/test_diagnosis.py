"""What pip says in its many ways, and what a radiologist is told."""

import pytest

from InContextSegSlicer.install.diagnosis import explain

LOGS = {
    "OSError: [Errno 28] No space left on device": "disk is full",
    "OSError: [WinError 112] There is not enough space on the disk": "disk is full",
    "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/opt'": "may not write",
    "PermissionError: [WinError 5] Access is denied: 'C:\\\\Program Files\\\\Slicer'": "may not write",
    "PermissionError: [WinError 32] The file is being used by another process": "is in use",
    "urllib3 ... SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]": "replaces certificates",
    "ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407 Proxy": "proxy",
    "NewConnectionError: Failed to establish a new connection: [Errno -2] Name or service not known\n"
    "ERROR: Could not find a version that satisfies the requirement einops (from versions: none)": "internet",
    "pip._vendor.urllib3.exceptions.ReadTimeoutError: Read timed out.": "internet",
    "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io": "stand in each other's way",
    "ERROR: No matching distribution found for torch>=2.3": "no version of a package",
    "python-real: No module named pip": "has no pip",
    "ERROR: something new": "stopped: ERROR: something new",
    "": "stopped with code 2",
}


@pytest.mark.parametrize(("log", "words"), LOGS.items())
def test_the_output_of_pip_is_put_into_plain_words(log, words):
    failure = explain(log.split("\n"), 2)
    assert words in failure.what
    assert failure.advice


def test_of_several_causes_the_certain_one_is_told():
    log = [
        "Failed to establish a new connection",
        "OSError: [Errno 28] No space left on device",
        "no matching distribution",
    ]
    assert explain(log, 1).what == "The disk is full."


def test_a_program_that_was_killed_said_nothing():
    assert "ended from outside" in explain(["Collecting torch"], -1).what
