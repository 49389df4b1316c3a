"""The sections of a run's report, a file each; `report.SECTIONS` lists them in their order.

A new one is a file here, with a function `make(context)`, and a line in that list.
"""
