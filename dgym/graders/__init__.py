"""Graders: whether an answer is right, as the authors of a benchmark decide it.

Each is a plain function of texts, safe to call from any thread, limited in time without signals, and never raises on
what a student wrote. They know neither problems nor students.
"""
