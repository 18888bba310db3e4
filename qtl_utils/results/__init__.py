"""From the tables of runs to statistics, sentences, figures and the report. No torch, no PennyLane."""
