"""What is done with a trained network: predicting, serving, exporting, and measuring on labelled data."""
