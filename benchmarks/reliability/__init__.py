"""The rows of the reliability table: functions of ``full`` that return ``(whether it holds, what was found)``."""
