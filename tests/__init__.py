"""The tests: each directory tests the package of the same name; stories/ crosses all packages."""
