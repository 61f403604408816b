"""Declared shapes of what crosses a process or a disk; writers and readers use the same types."""
