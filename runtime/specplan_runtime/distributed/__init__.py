"""One model over several processes: collectives, commands, the loop of those that follow, and their start."""
