"""`python -m frugal_rt`: the command frugal-rt."""

from .cli import main

main()
