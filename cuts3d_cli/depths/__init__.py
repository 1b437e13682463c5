"""Depth sources: what each gives (`catalogue`), how it runs (`base`), and what is stored of it (`maps`)."""
