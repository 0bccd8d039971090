"""The equations of a step, and the loops that take rows through them. Knows no picture and no backend."""
