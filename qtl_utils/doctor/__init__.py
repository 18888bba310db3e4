"""What is wrong with a hybrid quantum-classical model that does not train."""
