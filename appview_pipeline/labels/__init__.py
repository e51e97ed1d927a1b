"""Labels: the streams of labelers, the label service of this index, definitions, and who is told of changes."""
