"""What is done with a finished cache: merge, convert, recode, publish, clean, look."""
