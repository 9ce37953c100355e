"""Nodes of MRML read and written; nothing here shows a widget."""
