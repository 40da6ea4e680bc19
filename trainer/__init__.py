"""From labelled captures to a bundle: data, splits, training, evaluation, export. Only this package imports torch."""
