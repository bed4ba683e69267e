"""Laws that forecast the validation loss; one file each, found by name."""
