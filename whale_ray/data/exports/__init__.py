"""Export of a data set in formats of other programs, one writer for each."""
