"""The rows of the reliability table: functions of ``full`` (0 quick, 1, 2 thorough) that return
``(whether it holds, what was found)``."""
