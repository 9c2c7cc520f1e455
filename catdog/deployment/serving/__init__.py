"""A server of a trained model: photos in, classes and probabilities out."""
