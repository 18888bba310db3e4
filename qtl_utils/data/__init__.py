"""Images, data sets by name, and the splits of their samples. No torch, no PennyLane."""
