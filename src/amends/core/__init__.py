"""The vocabulary every other layer speaks: types, protocols, specs, the catalog. No torch, no I/O."""
