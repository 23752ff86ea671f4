"""Stories that cross the house: a workspace is saved, lost and recovered."""
