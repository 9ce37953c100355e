"""Stand-in for slicer.i18n: texts stay as they are."""


def translate(context, text):
    """The text itself: the harness has no translations."""
    return text


def tr(text):
    """The text itself; refuses what lupdate cannot collect, such as an f-string's result that is no text."""
    if not isinstance(text, str):
        raise TypeError(f"tr() was given {type(text).__name__}; give it a text written out in the source.")
    return text
