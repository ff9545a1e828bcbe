"""What is done with a network that is trained: naming what is in pictures, measuring it on labelled data."""
