"""What the notebooks 03 to 08 look into: gradients, who learned, controls, the published numbers again."""
