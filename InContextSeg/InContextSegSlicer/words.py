"""The translation of Slicer where there is one."""

try:
    from slicer.i18n import tr as _
except ImportError:  # slicer-core and plain Python have no translations

    def _(text: str) -> str:
        return text


__all__ = ["_"]
