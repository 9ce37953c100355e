"""Stand-in for slicer.parameterNodeWrapper: typed access to a parameter node, tied to widgets.

Of the original's types it knows str, int, float, bool, paths and nodes, and of its widgets those that the original
connects to these types; what the original refuses is refused here.
"""

import pathlib
import types
import typing
from dataclasses import dataclass

import ctk
import qt
import slicer
import vtk

__all__ = [
    "Choice", "Decimals", "Default", "Maximum", "Minimum", "SingleStep", "WithinRange", "isParameterNodeWrapper",
    "parameterNodeWrapper",
]  # fmt: skip

PROPERTY = "SlicerParameterName"


@dataclass(frozen=True)
class Default:
    """The value of a parameter that was never set."""

    value: object


@dataclass(frozen=True)
class Decimals:
    """Digits after the point in a widget."""

    value: int


@dataclass(frozen=True)
class SingleStep:
    """The step of a widget."""

    value: float


class WithinRange:
    """Refuses numbers outside a range, and gives widgets their ends."""

    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value):
        """Raise where the value does not suit."""
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{value} is not within {self.minimum} and {self.maximum}; give one that is.")


class Minimum(WithinRange):
    """Refuses smaller numbers."""

    def __init__(self, minimum):
        super().__init__(minimum, float("inf"))


class Maximum(WithinRange):
    """Refuses larger numbers."""

    def __init__(self, maximum):
        super().__init__(float("-inf"), maximum)


class Choice:
    """Refuses what is not one of these, and fills combo boxes."""

    def __init__(self, choices):
        self.choices = choices

    def validate(self, value):
        """Raise where the value does not suit."""
        if value not in self.choices:
            raise ValueError(f"{value} is not one of {self.choices}; give one that is.")


READERS = {str: str, int: int, float: float, bool: lambda text: text == "True", pathlib.Path: pathlib.Path}
FIRST = {str: "", int: 0, float: 0.0, bool: False, pathlib.Path: pathlib.Path()}


class Parameter:
    """One annotated name of a wrapper class."""

    def __init__(self, name, annotation, default):
        self.name = name
        self.annotations = getattr(annotation, "__metadata__", ())
        kind = typing.get_args(annotation)[0] if self.annotations else annotation
        union = typing.get_origin(kind) in (typing.Union, types.UnionType)
        self.kinds = tuple(part for part in (typing.get_args(kind) if union else (kind,)) if part is not type(None))
        self.isNode = all(isinstance(part, type) and issubclass(part, slicer.vtkMRMLNode) for part in self.kinds)
        if not self.isNode and (len(self.kinds) != 1 or union or self.kinds[0] not in READERS):
            raise TypeError(f"{name} is a {annotation}; the harness stores str, int, float, bool, Path and nodes.")
        given = next((item.value for item in self.annotations if isinstance(item, Default)), None)
        first = None if self.isNode else FIRST[self.kinds[0]]
        self.default = default if default is not None else first if given is None else given

    def validate(self, value):
        """Raise where the value does not suit, as the original does."""
        if value is None and self.isNode:
            return
        wanted = (int, float) if self.kinds == (float,) else self.kinds
        if value is None or not isinstance(value, wanted):
            names = ", ".join(kind.__name__ for kind in self.kinds)
            raise (ValueError if value is None else TypeError)(f"{self.name} was set to {value!r}; it takes {names}.")
        for item in self.annotations:
            if isinstance(item, WithinRange | Choice):
                item.validate(value)

    def write(self, node, value):
        """Keep the value in the node."""
        self.validate(value)
        if self.isNode:
            node.SetParameter(self.name, "")  # so that one can see whether it was ever set
            node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
        else:
            node.SetParameter(self.name, str(value))

    def read(self, node):
        """The value in the node."""
        if not node.HasParameter(self.name):
            self.write(node, self.default)
        if self.isNode:
            return node.GetNodeReference(self.name)
        return READERS[self.kinds[0]](node.GetParameter(self.name))

    def annotation(self, kind):
        """The first annotation of a class, or None."""
        return next((item for item in self.annotations if isinstance(item, kind)), None)


def _number(widget, parameter):
    span = parameter.annotation(WithinRange)
    bounded = span is not None and float("inf") not in (-span.minimum, span.maximum)
    if type(widget) in (ctk.ctkSliderWidget, qt.QSlider) and not bounded:
        raise RuntimeError(f"{parameter.name} is unbounded; a slider needs Annotated[…, WithinRange(…)].")
    lowest, highest = (-(2**31), 2**31 - 1) if parameter.kinds == (int,) else (float("-inf"), float("inf"))
    widget.minimum = max(span.minimum, lowest) if span else lowest
    widget.maximum = min(span.maximum, highest) if span else highest
    for kind, name in ((Decimals, "decimals"), (SingleStep, "singleStep")):
        if parameter.annotation(kind) is not None:
            setattr(widget, name, parameter.annotation(kind).value)
    return widget.valueChanged, lambda: widget.value, lambda value: setattr(widget, "value", value)


def _check(widget, _parameter):
    signal = widget.stateChanged if type(widget) is qt.QCheckBox else widget.toggled
    if type(widget) is qt.QPushButton:
        widget.checkable = True
    return signal, lambda: widget.checked, lambda value: setattr(widget, "checked", value)


def _combo(widget, parameter):
    choice = parameter.annotation(Choice)
    if choice is None:
        raise RuntimeError(f"{parameter.name} goes to a combo box; that needs Annotated[…, Choice([…])].")
    widget.clear()
    widget.addItems([str(item) for item in choice.choices])
    index = choice.choices.index
    return (
        widget.currentIndexChanged,
        lambda: choice.choices[widget.currentIndex],
        lambda value: setattr(widget, "currentIndex", index(value)),
    )


def _line(widget, _parameter):
    return widget.textChanged, lambda: widget.text, lambda value: setattr(widget, "text", value)


def _text(widget, _parameter):
    return widget.textChanged, widget.toPlainText, widget.setPlainText


def _path(widget, _parameter):
    reader = lambda: pathlib.Path(widget.currentPath)  # noqa: E731
    return widget.currentPathChanged, reader, lambda value: setattr(widget, "currentPath", str(value))


def _node(widget, parameter):
    widget.nodeTypes = [kind.__name__ for kind in parameter.kinds]
    return widget.currentNodeChanged, widget.currentNode, widget.setCurrentNode


def _connectors():
    numbers = {(widget, int): _number for widget in (qt.QSpinBox, qt.QSlider)}
    numbers |= {(widget, float): _number for widget in (qt.QDoubleSpinBox, ctk.ctkSliderWidget)}
    combos = {(qt.QComboBox, kind): _combo for kind in (int, float, str, bool)}
    texts = {(qt.QLineEdit, str): _line, (qt.QTextEdit, str): _text, (ctk.ctkPathLineEdit, pathlib.Path): _path}
    checks = {(qt.QCheckBox, bool): _check, (qt.QPushButton, bool): _check}
    return numbers | combos | texts | checks | {(slicer.qMRMLNodeComboBox, "node"): _node}


class _Connection:
    """One parameter and one widget that follow each other."""

    def __init__(self, wrapper, parameter, widget):
        kind = "node" if parameter.isNode else parameter.kinds[0]
        make = _connectors().get((type(widget), kind))
        if make is None:
            raise RuntimeError(f"{parameter.name} cannot be tied to a {type(widget).__name__}; Slicer knows no way.")
        self._signal, self._read, self._write = make(widget, parameter)
        self._wrapper, self._name = wrapper, parameter.name
        self.update()
        self._signal.connect(self._onWidget)

    def update(self):
        self._write(self._wrapper.getValue(self._name))

    def _onWidget(self):
        if not self._wrapper._updating:
            with slicer.util.NodeModify(self._wrapper):
                self._wrapper.setValue(self._name, self._read())

    def end(self):
        self._signal.disconnect(self._onWidget)


class _Wrapper:
    """What every class with the decorator can do."""

    _is_parameter_node_wrapper = True

    def __init__(self, parameterNode, prefix=None):
        self.parameterNode = parameterNode
        self._connections = {}
        self._updating = False
        for parameter in self.allParameters.values():
            parameter.read(parameterNode)

    def getValue(self, name):
        return self._parameter(name).read(self.parameterNode)

    def setValue(self, name, value):
        self._parameter(name).write(self.parameterNode, value)

    def default(self, name):
        return Default(self._parameter(name).default)

    def _parameter(self, name):
        if name not in self.allParameters:
            raise ValueError(f"There is no parameter {name}; there are {', '.join(self.allParameters)}.")
        return self.allParameters[name]

    def connectGui(self, gui):
        widgets = gui.findChildren(qt.QWidget) if hasattr(gui, "isWidgetType") else gui.__dict__.values()
        # The original forgets to return the tag as well: what was connected like this is never disconnected.
        self.connectParametersToGui({w.property(PROPERTY): w for w in widgets if w.property(PROPERTY)})

    def connectParametersToGui(self, mapping):
        made = [_Connection(self, self._parameter(name), widget) for name, widget in mapping.items()]
        tag = max(self._connections, default=-1) + 1
        self._connections[tag] = made
        self.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda _caller, _event: self._updateGui())
        return tag

    def disconnectGui(self, tag):
        for connection in self._connections.pop(tag, ()):
            connection.end()

    def _updateGui(self):
        if self._updating:
            return
        self._updating = True
        try:
            for connections in self._connections.values():
                for connection in connections:
                    connection.update()
        finally:
            self._updating = False

    def StartModify(self):
        return self.parameterNode.StartModify()

    def EndModify(self, wasModifying):
        return self.parameterNode.EndModify(wasModifying)

    def AddObserver(self, event, callback, priority=0.0):
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag):
        return self.parameterNode.RemoveObserver(tag)

    def Modified(self):
        return self.parameterNode.Modified()


def _property(name):
    return property(lambda self: self.getValue(name), lambda self, value: self.setValue(name, value))


def parameterNodeWrapper(classtype=None):
    """Class decorator: annotated names become values in a parameter node."""
    if classtype is None:
        return parameterNodeWrapper
    parameters = {}
    for name, annotation in typing.get_type_hints(classtype, include_extras=True).items():
        parameters[name] = Parameter(name, annotation, getattr(classtype, name, None))
        setattr(classtype, name, _property(name))
    classtype.allParameters = parameters
    for name, member in vars(_Wrapper).items():
        if name not in ("__module__", "__dict__", "__weakref__", "__doc__"):
            if name in parameters:
                raise ValueError(f"A parameter is called {name}, which every wrapper has; choose another name.")
            setattr(classtype, name, member)
    return classtype


def isParameterNodeWrapper(thing):
    """Whether a class or an object was made by the decorator."""
    return getattr(thing, "_is_parameter_node_wrapper", False)
