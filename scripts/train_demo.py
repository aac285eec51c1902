"""Train the two networks of ``layerscope demo`` reproducibly on scikit-learn's 8×8 digits.

    python scripts/train_demo.py src/layerscope/data

The first is a multilayer perceptron 64–256–128–64–10, trained on 1,200 images. Training uses NumPy in float64 with one
seed; the final weights are rounded to float32. The second is a copy with three faults: units of fc1 lost their weights,
fc2 has random weights as at its initialization, and one weight of fc3 has a wrong value.
"""

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits

SIZES = (64, 256, 128, 64, 10)
TRAIN = 1200
EPOCHS, DECAY = 40, 1e-3
DEAD_UNITS = 40  # of fc1
WRONG_WEIGHT, WRONG_VALUE = (17, 42), 5.0  # of fc3
BATCH, RATE, MOMENTUM, SEED = 16, 0.03, 0.9, 0


def main(folder: Path) -> None:
    """Train both networks and write them."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(SEED).permutation(len(images))
    images, labels = images[order] / 16.0 - 0.3, labels[order]
    weights, biases = train(images[:TRAIN], labels[:TRAIN], EPOCHS, DECAY)
    for name, matrices in (("digits_well_trained", weights), ("digits_damaged", damaged(weights))):
        accuracy = {
            "train_accuracy": score(matrices, biases, images[:TRAIN], labels[:TRAIN]),
            "test_accuracy": score(matrices, biases, images[TRAIN:], labels[TRAIN:]),
        }
        tensors = {}
        for i, (weight, bias) in enumerate(zip(matrices, biases, strict=True), start=1):
            tensors[f"fc{i}.weight"] = weight.astype(np.float32)
            tensors[f"fc{i}.bias"] = bias.astype(np.float32)
        metadata = {key: f"{value:.4f}" for key, value in accuracy.items()}
        save_file(tensors, folder / f"{name}.safetensors", metadata)
        print(name, metadata)


def damaged(weights: list) -> list:
    """Return a copy of the weights with one fault in each of the first three layers."""
    rng = np.random.default_rng(SEED)
    fc1, fc2, fc3, fc4 = (weight.astype(np.float32) for weight in weights)
    fc1[rng.choice(len(fc1), DEAD_UNITS, replace=False)] = 0
    fc2 = (rng.standard_normal(fc2.shape) * np.sqrt(2 / fc2.shape[1])).astype(np.float32)
    fc3[WRONG_WEIGHT] = WRONG_VALUE
    return [fc1, fc2, fc3, fc4]


def train(images: np.ndarray, labels: np.ndarray, epochs: int, decay: float) -> tuple[list, list]:
    """Train by stochastic gradient descent with momentum, a cosine schedule and L2 weight decay."""
    rng = np.random.default_rng(SEED)
    weights = [rng.standard_normal((o, i)) * np.sqrt(2 / i) for i, o in pairwise(SIZES)]
    biases = [np.zeros(o) for o in SIZES[1:]]
    speed = [np.zeros_like(w) for w in weights]
    bias_speed = [np.zeros_like(b) for b in biases]
    targets = np.eye(SIZES[-1])[labels]
    for epoch in range(epochs):
        rate = RATE * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        order = rng.permutation(len(images))
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            layers = forward(weights, biases, images[batch])
            gradient = (softmax(layers[-1]) - targets[batch]) / len(batch)
            for i in reversed(range(len(weights))):
                weight_gradient = gradient.T @ layers[i] + decay * weights[i]
                bias_gradient = gradient.sum(axis=0)
                gradient = (gradient @ weights[i]) * (layers[i] > 0)
                speed[i] = MOMENTUM * speed[i] - rate * weight_gradient
                bias_speed[i] = MOMENTUM * bias_speed[i] - rate * bias_gradient
                weights[i] += speed[i]
                biases[i] += bias_speed[i]
    return weights, biases


def forward(weights: list, biases: list, images: np.ndarray) -> list[np.ndarray]:
    """Return the network's input and the output of every layer, with ReLU between layers."""
    layers = [images]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        out = layers[-1] @ weight.T + bias
        layers.append(np.maximum(out, 0) if i < len(weights) - 1 else out)
    return layers


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax probabilities of each row."""
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exps / exps.sum(axis=1, keepdims=True)


def score(weights: list, biases: list, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of correctly classified images."""
    return float((forward(weights, biases, images)[-1].argmax(axis=1) == labels).mean())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
