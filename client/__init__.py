"""The reference device library: a sans-I/O core and the shell around it.

The core (`client.device` and what it is composed of) does no I/O, reads no clock and draws
no randomness: all three are arguments or rows that the shell stores.
"""
