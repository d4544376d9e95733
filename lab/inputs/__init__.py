"""Validate numbers and choices of users. Each validator raises `InputError` with the name of the field."""
