"""Comparison of restorations with clean pictures, with each other and with other libraries."""
