"""One model over several devices: how it is split, which splits are possible, what each rank holds."""
