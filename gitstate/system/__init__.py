"""What any program needs; knows neither git nor gitstate."""
