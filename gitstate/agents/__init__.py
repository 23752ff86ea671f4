"""What gitstate knows of agent programs, one file for each in `known`; nobody else knows their names."""
