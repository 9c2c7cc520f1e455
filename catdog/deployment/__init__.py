"""A trained model in use: evaluated on test images, predicting on new ones."""
