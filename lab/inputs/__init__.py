"""Validators of numbers and words that users give: each raises `InputError` with the field's name."""
