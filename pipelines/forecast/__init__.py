"""Forecasts of validation loss from early training, and the law of loss over positions behind one of them."""
