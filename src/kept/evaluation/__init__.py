"""What a model knows, measured: on texts, at length, in tasks and in answers; two models on the same items."""
