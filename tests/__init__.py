"""The tests: each directory holds those of the package of the same name; stories/ crosses the house."""
