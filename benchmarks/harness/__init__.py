"""How throughput is measured: passes over cases in which contenders, each in a process of its own, take turns."""
