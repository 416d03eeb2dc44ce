"""One run of a mirror: fetch or pull, publish, check, judge the outcome; and what its cache forgets. The top
of the wing of a mirror: it may import fetch, served, index and common, and nothing but the command line imports it."""
