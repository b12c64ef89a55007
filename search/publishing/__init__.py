"""The winner as a model that others can load, with its proof, licence and card."""
