"""Runs the module's own test inside Slicer, where ctest starts it."""

import unittest

import slicer


class InContextSegSelfTest(unittest.TestCase):
    """One test: what "Reload and Test" runs."""

    def test_the_module_passes_its_own_test(self):
        slicer.util.selectModule("InContextSeg")
        slicer.selfTests["InContextSeg"]()
