"""Faults: what happens to a machine while gdist works, done to every command, and counted.

    phases.py      the commands, what they need, and what must come out of them
    faults.py      what is done to a command while it runs
    damage.py      what is done to files that are there, and who has to notice
    nursery.py     real processes of gdist that start at once
    campaign.py    `make faults`: a thousand of both, in a random order that SEED repeats

A fault ends *right* (the command finished, with the right result) or *refused* (a message, no traceback). Then the
fault is over and the same command runs again: it has to finish with the right result, and to leave nothing behind
that an undisturbed run does not leave. Other people's files stay as they are. Everything else is a failure.
"""
