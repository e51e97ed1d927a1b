"""One file a revision, named as its SQL file."""
