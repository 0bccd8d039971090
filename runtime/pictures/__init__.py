"""Pictures: from a file to a measurement and its operator, and from a restored array to a file."""
