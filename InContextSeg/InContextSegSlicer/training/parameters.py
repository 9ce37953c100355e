"""What a person chose in the training module, kept in the scene."""

from typing import Annotated

from slicer.parameterNodeWrapper import Decimals, Minimum, SingleStep, WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class InContextSegTrainingParameterNode:
    """The data sets, the recipe and the folder of the run.

    Attributes:
        site: name of the whole; datasets: a list of `DataSet` mappings as JSON.
        validationShare, splitSeed: how patients are divided.
        model: "sricl" for a new network, else the name of a catalogue entry that learns further.
        weak: what references are drawn as; size: of slices in pixels.
        loss: by name; "auto": the one that fits the network.
        more: all other settings of the run as JSON, as far as they are not the usual ones.
        name: of the model that comes of it; folder: of the run.
    """

    site: str = "our data"
    datasets: str = "[]"
    validationShare: Annotated[float, WithinRange(0.05, 0.9), Decimals(2), SingleStep(0.05)] = 0.2
    splitSeed: Annotated[int, Minimum(0)] = 42
    model: str = "sricl"
    weak: str = "full"
    size: Annotated[int, WithinRange(16, 1024), SingleStep(16)] = 128
    steps: Annotated[int, WithinRange(1, 1_000_000), SingleStep(100)] = 2000
    seed: Annotated[int, WithinRange(0, 1_000_000)] = 0
    references: Annotated[int, WithinRange(1, 256)] = 12
    queries: Annotated[int, WithinRange(1, 64)] = 4
    learningRate: Annotated[float, WithinRange(0.000001, 0.1), Decimals(6), SingleStep(0.00001)] = 0.0001
    loss: str = "auto"
    balance: str = "equal"
    validateEvery: Annotated[int, WithinRange(1, 1_000_000)] = 100
    patience: Annotated[int, WithinRange(1, 1_000_000)] = 10
    saveMemory: bool = False
    more: str = "{}"
    name: str = ""
    folder: str = ""
    device: str = "auto"
