"""Bulk embedding jobs: the same pictures by every way in and out, and the cost of a job beside its engine."""
