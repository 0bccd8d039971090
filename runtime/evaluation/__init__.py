"""Restorations compared with clean pictures, with each other and with other libraries."""
