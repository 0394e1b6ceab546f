"""The trace: the flight recorder's memory, its format, and what its records mean."""
