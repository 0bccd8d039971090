"""The equations of a step, and the loops that apply them to rows, independent of pictures' formats and of backends."""
