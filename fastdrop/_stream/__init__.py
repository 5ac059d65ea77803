"""The stream of random bits: keys, the generator Philox, and a slow reference of the whole contract."""
