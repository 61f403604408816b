"""The interface of all engines, and the code that they share."""
