"""Exceptions that Qt and VTK swallow: in slots, event handlers and observers."""

import re
import sys
import traceback

# Warnings of Qt that tell of a mistake in the code that runs, not of a machine without a screen or fonts.
MISTAKES = re.compile(r"^Q(Object|Timer|Thread|Process|Layout|\w*Layout|Widget|SocketNotifier|BasicTimer|Painter)\b")


class Errors:
    """Everything that reached `sys.excepthook`, where a window goes on and a test must not."""

    def __init__(self):
        self.seen = []

    def note(self, kind, value, trace):
        """Used as `sys.excepthook`."""
        self.seen.append((value, "".join(traceback.format_exception(kind, value, trace))))

    def warn(self, _kind, _context, message):
        """Used as Qt's message handler."""
        if MISTAKES.match(message):
            self.seen.append((RuntimeWarning(message), message))
        elif "propagateSizeHints" not in message:  # the offscreen platform says this of every window
            print(message, file=sys.stderr)

    def take(self) -> list[BaseException]:
        """What was seen since last asked; a test that expects errors takes them."""
        taken = [value for value, _text in self.seen]
        self.seen.clear()
        return taken

    def report(self) -> str:
        """The traces, empty where all went well."""
        return "\n".join(text for _value, text in self.seen)
