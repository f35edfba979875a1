"""Measurement of throughput: passes over cases in which contenders, each in a process of its own, take turns."""
