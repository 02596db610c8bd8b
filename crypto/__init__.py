"""The bytes of pss1: pure functions and small types over PyNaCl and hashlib.

Nothing here does I/O, reads a clock or draws randomness: both are arguments. Whatever is
refused is refused with a `crypto.errors.CryptoError`; no input of any length raises
anything else. Import the noun that you need (`crypto.op`, `crypto.chain`, ...).
"""
