"""Pictures: files as measurements with their operators, and restored arrays as files."""
