"""What can be asked of images, as values, and how it is answered; runs without a cluster."""
