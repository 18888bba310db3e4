"""What a study file says, where files lie, and how notebooks run. Imports nothing else of this package."""
