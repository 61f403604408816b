"""Declared types of the data that cross a process boundary or a disk; writers and readers use the same types."""
