"""The load generator: a process of its own on a core of its own, told what to do by JSON lines.

Its receivers decode nothing. Each socket counts how often the mark at the end of every message's data came
by, so that reading costs it one system call and one search, whatever protocol the server speaks.
"""
