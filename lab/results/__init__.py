"""The result of a trial as data: its schema, and all that is derived from it.

`schema` declares the record, `fields` derives names, types and descriptions from it, `columns` the table of CSV and
Parquet, `read` the reader, `documents` the JSON Schema and the documentation. `axes` declares the axes of a campaign.
"""
