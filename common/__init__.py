"""What every stage needs: the base error, safe files, a process's memory.

Imports nothing of ours.
"""
