"""`frugal-rt serve`: a pool behind HTTP. Needs the extra [serve]."""
