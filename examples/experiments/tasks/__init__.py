"""The images on which the experiments train and measure networks."""
