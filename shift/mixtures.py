"""The shares of classes in a mixture, by maximum likelihood."""
import numpy as np


def mixture_weights(likelihoods, iterations=300):
    """(K,) weights of the mixture under which (n, K) likelihoods are likeliest; they sum to 1.

    By EM (Saerens et al., 2002).
    """
    n_classes = likelihoods.shape[1]
    weights = np.full(n_classes, 1 / n_classes)
    for _ in range(iterations):
        posterior = likelihoods * weights
        weights = (posterior / posterior.sum(1, keepdims=True)).mean(0)
    return weights
