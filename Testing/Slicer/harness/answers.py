"""What the user would answer to windows that wait, given by the test beforehand, and what was shown."""

from collections import defaultdict, deque

from PySide6 import QtWidgets

STATIC_QUESTIONS = {
    "QFileDialog": ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory"),
    "QInputDialog": ("getText", "getItem", "getInt", "getDouble", "getMultiLineText"),
    "QMessageBox": ("question", "information", "warning", "critical", "about"),
    "QColorDialog": ("getColor",),
}
CONFIRMATIONS = ("confirmOkCancelDisplay", "confirmYesNoDisplay", "confirmRetryCloseDisplay")
MESSAGES = ("infoDisplay", "warningDisplay", "errorDisplay", "messageBox", "delayDisplay")


class Answers:
    """Answers wait per question; a question that nobody answered beforehand is an error, not a hanging window."""

    def __init__(self):
        self._waiting = defaultdict(deque)
        self.asked = []
        self.shown = []

    def give(self, question: str, *answers: object) -> None:
        """Answer the next times a question comes, for example `give("QFileDialog.getOpenFileName", path)`.

        A function as the answer is called with what was asked (for `exec_`, with the dialog or menu itself).
        """
        self._waiting[question].extend(answers)

    def take(self, question: str, *arguments: object) -> object:
        """The answer to a question that is asked now."""
        self.asked.append((question, arguments))
        if not self._waiting[question]:
            raise LookupError(f"Nobody answered {question}; call app.answers.give({question!r}, …) before.")
        answer = self._waiting[question].popleft()
        return answer(*arguments) if callable(answer) else answer

    def show(self, kind: str, text: str) -> None:
        """Remember a message that a user would have seen."""
        self.shown.append((kind, text))

    def texts(self, kind: str) -> list[str]:
        """The messages of one kind, for example `errorDisplay`."""
        return [text for shown, text in self.shown if shown == kind]

    def clear(self) -> None:
        """Forget everything, for the next test."""
        self._waiting.clear()
        self.asked.clear()
        self.shown.clear()


answers = Answers()


def replace_dialogs(qt) -> None:
    """Have the modal windows of `qt` take their answers from here."""
    for name, questions in STATIC_QUESTIONS.items():
        for question in questions:
            setattr(getattr(qt, name), question, staticmethod(_asking(f"{name}.{question}")))
    for cls in vars(qt).values():
        original = vars(cls).get("original") if isinstance(cls, type) else None
        if original and issubclass(original, QtWidgets.QDialog | QtWidgets.QMenu):
            cls.exec_ = cls.exec = _execute


def _asking(question):
    def ask(*arguments):
        return answers.take(question, *arguments)

    return ask


def _execute(self, *_):
    return answers.take(f"{type(self).__name__}.exec_", self)


def replace_displays(util) -> None:
    """Have `slicer.util` remember messages, and take confirmations from here."""
    for name in MESSAGES:
        setattr(util, name, _displaying(name))
    for name in CONFIRMATIONS:
        setattr(util, name, _confirming(name))


def _displaying(kind):
    def display(text, *_arguments, **_keywords):
        answers.show(kind, str(text))

    return display


def _confirming(kind):
    def confirm(text, *_arguments, **_keywords):
        answers.show(kind, str(text))
        return bool(answers.take(kind, str(text)))

    return confirm
