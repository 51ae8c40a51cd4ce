"""The shares of classes in a mixture, by maximum likelihood."""
import numpy as np


def mixture_weights(likelihoods, iterations=300):
    """Weights (K,) on the simplex under which the rows (n, K) of likelihoods are likeliest, by EM
    (Saerens et al., 2002)."""
    weights = np.full(likelihoods.shape[1], 1 / likelihoods.shape[1])
    for _ in range(iterations):
        posterior = likelihoods * weights
        weights = (posterior / posterior.sum(1, keepdims=True)).mean(0)
    return weights
