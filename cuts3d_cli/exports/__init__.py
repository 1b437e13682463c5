"""Masks and detections in the formats of other programs: what is stored is read, and nothing is computed anew.

`formats.FORMATS` lists them. A format is a module with one function, which gets the photos one by one, each with what
was found in it, and an `Output` to write to; it keeps nothing of a photo once it is written.
"""
