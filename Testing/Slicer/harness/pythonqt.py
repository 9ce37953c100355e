"""The module `qt` as PythonQt offers it in Slicer, made of PySide6."""

import enum
import inspect
import os
import sys
import threading
import types

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

from . import NEWER_THAN_SLICER

qt = types.ModuleType("qt", "PySide6 by the conventions of PythonQt.")
SOURCES = (QtCore, QtGui, QtWidgets)
APPLICATIONS = ("QCoreApplication", "QGuiApplication", "QApplication")

# PySide6 has these, PythonQt has not: code that uses them runs here and fails in Slicer.
ABSENT = ("Signal", "Slot", "Property", "SIGNAL", "SLOT", "ClassInfo", "QEnum", "QFlag", "QTextCodec", "QRegExp")

# C++ calls these back, so they must stay methods.
VIRTUAL = {"sizeHint", "minimumSizeHint"}


def qualified(classes) -> list:
    """The QObject classes in the modules of Qt."""
    found = [getattr(module, name) for module in classes for name in dir(module)]
    return [
        item
        for item in found
        if isinstance(item, type) and issubclass(item, QtCore.QObject) and hasattr(item, "staticMetaObject")
    ]


def make_properties(cls: type) -> None:
    """`widget.text` reads, `widget.text = …` writes, `setText()` stays.

    This changes the class of PySide6 itself, so that objects that C++ creates (layouts, headers) behave alike.
    """
    meta = cls.staticMetaObject
    for number in range(meta.propertyOffset(), meta.propertyCount()):
        name = meta.property(number).name()
        getter = cls.__dict__.get(name)
        if name not in VIRTUAL and not isinstance(getter, staticmethod | property):
            setter = getattr(cls, f"set{name[0].upper()}{name[1:]}", None)
            setattr(cls, name, property(_reader(name, getter), _writer(name, setter)))


def _reader(name, getter):
    if type(getter).__name__ == "method_descriptor":
        return getter
    return lambda self: self.property(name)


def _writer(name, setter):
    if setter is not None:
        return setter
    return lambda self, value: self.setProperty(name, value)


def _arguments(signature: str) -> list[str]:
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    return [part for part in inside.split(",") if part.strip()]


def _accepted(function) -> int:
    """How many positional arguments a function takes: PythonQt sends no more than that."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return sys.maxsize
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return sys.maxsize
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(parameter.kind in positional for parameter in parameters)


def _taking(number, function):
    """A function of that many arguments: PySide6 looks at the number to choose among overloads of a signal."""
    calls = (
        lambda: function(),
        lambda first: function(first),
        lambda first, second: function(first, second),
        lambda first, second, third: function(first, second, third),
        lambda first, second, third, fourth: function(first, second, third, fourth),
    )
    return calls[number]


def _is_signal(source: QtCore.QObject, signature: str) -> bool:
    plain = QtCore.QMetaObject.normalizedSignature(signature)
    plain = plain.data().decode() if hasattr(plain, "data") else str(plain)
    name = plain[: plain.index("(")]
    # Signals of our stand-ins carry Python objects where those of Slicer carry VTK objects.
    objects = ",".join("PyObject" if part.endswith("*") else part for part in _arguments(plain))
    meta = source.metaObject()
    return any(meta.indexOfSignal(text) >= 0 for text in (plain, f"{name}({objects})"))


class PythonQtObject:
    """What PythonQt gives every object: string connects, `name`, `className()`, `delete()`."""

    def __init__(self, *arguments, **keywords):
        if keywords:
            raise TypeError(
                f"{type(self).__name__} was given {', '.join(keywords)} by name; PythonQt's constructors take no "
                "keyword arguments, set properties after construction."
            )
        in_main_thread("create", type(self))
        super().__init__(*arguments)

    def connect(self, signature, receiver, slot=None):
        """Call a Python function, or a slot named by its signature, when the signal is emitted."""
        if "(" not in signature or not _is_signal(self, signature):
            raise ValueError(f"{type(self).__name__} has no signal {signature}; name one with the types it carries.")
        if signature.split("(")[0] in NEWER_THAN_SLICER:
            raise ValueError(f"{signature} came with Qt 6; Slicer is built with Qt 5.15, connect to an older signal.")
        function = receiver if slot is None else getattr(receiver, slot.split("(")[0])
        if not callable(function):
            raise TypeError(f"{signature} was connected to {function!r}; connect it to something that can be called.")
        call = _taking(min(len(_arguments(signature)), _accepted(function)), function)
        getattr(self, signature.split("(")[0]).connect(call)
        self.__dict__.setdefault("_connections", []).append((signature, function, call))
        return True

    def disconnect(self, signature, receiver, slot=None):
        """Undo one `connect` with the same arguments; False where there is none."""
        function = receiver if slot is None else getattr(receiver, slot.split("(")[0])
        connections = self.__dict__.get("_connections", [])
        for connection in connections:
            if connection[:2] == (signature, function):
                getattr(self, signature.split("(")[0]).disconnect(connection[2])
                connections.remove(connection)
                return True
        return False

    def findChildren(self, kind=QtCore.QObject, name=""):
        """Children of a class, at any depth."""
        return self._seek(super().findChildren, kind, name)

    def findChild(self, kind=QtCore.QObject, name=""):
        """The first child of a class, at any depth."""
        return self._seek(super().findChild, kind, name)

    @staticmethod
    def _seek(find, kind, name):
        kind = vars(kind).get("original", kind)
        return find(kind, name) if name else find(kind)

    def className(self):
        """The name of the class as C++ calls it."""
        return type(self).__name__

    def delete(self):
        """Delete the C++ object at once."""
        shiboken6.delete(self)


def in_main_thread(verb: str, cls: type) -> None:
    """Slicer aborts where a thread touches Qt; PySide6 does not, so that it has to be asked."""
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError(f"A thread tried to {verb} a {cls.__name__}; Slicer aborts there, do it in the main thread.")


class Mirror(type(QtCore.QObject)):
    """Metaclass of the classes in `qt`: one beside each class of PySide6, and alike in `isinstance`."""

    def __new__(mcs, name, bases, namespace, **keywords):
        # PySide6 looks for an overridden `connect` in the dictionary of the object's own class only.
        namespace.setdefault("connect", PythonQtObject.connect)
        namespace.setdefault("disconnect", PythonQtObject.disconnect)
        return super().__new__(mcs, name, bases, namespace, **keywords)

    def __instancecheck__(cls, instance):
        original = vars(cls).get("original")
        return isinstance(instance, original) if original else type.__instancecheck__(cls, instance)

    def __subclasscheck__(cls, subclass):
        original = vars(cls).get("original")
        return issubclass(subclass, original) if original else type.__subclasscheck__(cls, subclass)


def compare_with_numbers(enumeration: type) -> None:
    """PythonQt's enumerations are numbers: `state == 2` must not be False for `Qt.Checked`."""

    def equal(self, other):
        return self.value == getattr(other, "value", other)

    enumeration.__eq__ = equal
    enumeration.__hash__ = lambda self: hash(self.value)
    enumeration.__int__ = lambda self: int(self.value)


class UiLoader(QtUiTools.QUiLoader):
    """Loads `.ui` files with the classes of `qt`, `ctk` and `slicer`, found by name."""

    def createWidget(self, className, parent=None, name=""):
        """Called by Qt for every widget of the file."""
        import ctk
        import slicer

        places = [qt, ctk, slicer]
        cls = next((found for place in places if (found := getattr(place, className, None)) is not None), None)
        if cls is None:
            raise LookupError(f"The harness has no widget class {className}; write a stand-in for it.")
        widget = cls(parent) if parent is not None else cls()
        widget.setObjectName(name)
        self.__dict__.setdefault("_made", []).append(widget)
        return widget

    def load(self, file, parent=None):
        """The widget of a file; its connections are made in Python, as they may carry VTK objects."""
        from xml.etree import ElementTree

        root = ElementTree.fromstring(bytes(file.readAll()))
        connections = root.find("connections")
        wanted = []
        if connections is not None:
            fields = ("sender", "signal", "receiver", "slot")
            wanted = [[connection.findtext(field) for field in fields] for connection in connections]
            root.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(QtCore.QByteArray(ElementTree.tostring(root)))
        buffer.open(QtCore.QIODevice.ReadOnly)
        widget = super().load(buffer, parent)
        for sender, signal, receiver, slot in wanted:
            self._named(widget, sender).connect(signal, self._named(widget, receiver), slot)
        widget.__dict__["_loader"] = self  # keeps the widgets it made
        return widget

    @staticmethod
    def _named(widget, name):
        found = widget if widget.objectName == name else widget.findChild(QtCore.QObject, name)
        if found is None:
            raise LookupError(f"A connection of the .ui file names {name}, but it has no widget of that name.")
        return found


def _absent(name):
    if name in ABSENT:
        raise AttributeError(f"PythonQt has no qt.{name}: what works with PySide6 here would fail in Slicer.")
    raise AttributeError(f"module 'qt' has no attribute {name!r}")


def _patch_originals() -> None:
    for cls in qualified(SOURCES):
        make_properties(cls)
    for cls in (QtCore.Qt, QtCore.QProcess, QtCore.QEvent, QtWidgets.QMessageBox, QtWidgets.QDialog):
        for item in vars(cls).values():
            if isinstance(item, enum.EnumType) and not issubclass(item, int):
                compare_with_numbers(item)
    QtCore.QObject.name = property(lambda self: self.objectName, lambda self, value: self.setObjectName(value))
    QtCore.QObject.className = lambda self: self.metaObject().className()


def _fill() -> None:
    for module in SOURCES:
        for name in dir(module):
            if name.startswith("_") or name in ABSENT:
                continue
            item = getattr(module, name)
            if isinstance(item, type) and issubclass(item, QtCore.QObject) and name not in APPLICATIONS:
                item = _mirror(name, item)
            setattr(qt, name, item)
    qt.QUiLoader = UiLoader
    qt.QT_VERSION_STR = QtCore.qVersion()
    qt.__getattr__ = _absent


def _mirror(name, original):
    try:
        return Mirror(name, (PythonQtObject, original), {"original": original, "__module__": "qt"})
    except TypeError:  # final in C++
        return original


_patch_originals()
_fill()
sys.modules["qt"] = qt
