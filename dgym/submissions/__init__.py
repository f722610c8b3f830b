"""Submissions to the leaderboard: packing a teacher with its results, and verifying it by running it again.

What this package does not know: the command line.
"""
