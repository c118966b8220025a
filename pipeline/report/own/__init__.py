"""The page about somebody's own data: which model is best, where it fails, and what the data are."""
