"""Stories across all packages: a workspace is saved, lost and recovered."""
