"""Domains over data sets that others publish, one module each."""
