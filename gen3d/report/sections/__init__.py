"""The sections of a report, one module each. A module's `section(context)` returns a Section, or None without its input."""
