"""Writes the reference pages of the documentation from the code: `python -m docs.generate FOLDER`.

Each module writes one subject and gets everything that it describes from `docs.generate.names`.
"""
