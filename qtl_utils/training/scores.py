"""How well trained models do, as tidy rows."""

import numpy as np
import pandas as pd

from qtl_utils.training.fits import Fit, selection_subset
from qtl_utils.training.inputs import Inputs

ECE_BINS = 10  # of equal width, for the expected calibration error


def score(fit: Fit, index: np.ndarray, inputs: Inputs) -> dict[str, pd.DataFrame]:
    """Metrics, history and predictions of the replicas `index`."""
    history = []
    chosen_on = selection_subset(inputs.splits)
    for i in index:
        replica = fit.replicas[i]
        keys = {"seed": replica.seed, "split": replica.split}
        for s, subset in enumerate(("train", chosen_on)):
            loss, accuracy = fit.history[i, :, s].T
            epoch = np.arange(1, len(loss) + 1)
            history.append(pd.DataFrame({"epoch": epoch, "subset": subset, "loss": loss, "accuracy": accuracy} | keys))
    return {
        "metrics": score_metrics(fit, index, inputs),
        "history": pd.concat(history, ignore_index=True),
        "predictions": count_predictions(fit, index, inputs),
    }


def count_predictions(fit: Fit, index: np.ndarray, inputs: Inputs) -> pd.DataFrame:
    """How often each test image was taken for each class after the last epoch: a row per image and class that occurs.

    `n`: of the trainings that tested the image; `probability`: that class's, the mean over these trainings.
    """
    classes = np.array(inputs.data.classes)
    counts = np.zeros((len(inputs.data.labels), len(classes)), int)
    sums = np.zeros(counts.shape)
    for i in index:
        samples = inputs.splits.indices(fit.replicas[i].split, "test")
        probability = softmax(fit.logits["last"][i, samples])
        found = probability.argmax(1)
        counts[samples, found] += 1
        sums[samples, found] += probability[np.arange(len(samples)), found]
    image, prediction = np.nonzero(counts)
    return pd.DataFrame(
        {
            "subset": "test",
            "epoch_kind": "last",
            "id": np.array(inputs.data.ids)[image],
            "label": classes[inputs.data.labels[image]],
            "prediction": classes[prediction],
            "n": counts[image, prediction],
            "probability": np.round(sums[image, prediction] / counts[image, prediction], 6),
        }
    )


def score_metrics(fit: Fit, index: np.ndarray, inputs: Inputs) -> pd.DataFrame:
    """Metrics of the replicas `index`: a row per replica, subset and kind of epoch that `fit.logits` holds."""
    rows = []
    labels = inputs.data.labels
    for i in index:
        replica = fit.replicas[i]
        epochs = {"best": int(fit.best_epoch[i]), "last": fit.history.shape[1]}
        for kind in fit.logits:
            for subset in ("train", "validation", "test"):
                samples = inputs.splits.indices(replica.split, subset)
                if len(samples):
                    values = classification_scores(fit.logits[kind][i, samples], labels[samples])
                    keys = {"seed": replica.seed, "split": replica.split, "subset": subset, "epoch_kind": kind}
                    keys["source"] = inputs.source_number(replica.split)
                    keys["images"] = image_scores(fit.logits[kind][i], labels, samples) if subset == "test" else None
                    rows.append(keys | {"epoch": epochs[kind], **values})
    return pd.DataFrame(rows)


def image_scores(logits: np.ndarray, labels: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """(2, N) float32: whether each of N images was right, and its cross-entropy; NaN outside `samples`."""
    found = np.full((2, len(labels)), np.nan, np.float32)
    wanted = labels[samples]
    probability = softmax(logits[samples])
    found[0, samples] = probability.argmax(1) == wanted
    found[1, samples] = -np.log(np.clip(probability[np.arange(len(samples)), wanted], 1e-300, None))
    return found


def softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def classification_scores(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """n, cross-entropy, accuracy, balanced accuracy and expected calibration error of logits (n, K)."""
    probability = softmax(logits)
    prediction = probability.argmax(1)
    right = probability.argmax(1) == labels
    log_likelihood = np.log(np.clip(probability[np.arange(len(labels)), labels], 1e-300, None))
    recall = [right[labels == k].mean() for k in np.unique(labels)]
    confidence = probability[np.arange(len(labels)), prediction]
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    # arXiv:1706.04599, equation 3: the gap between confidence and accuracy, averaged over the samples of each bin
    gaps = [abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in np.unique(bins)]
    return {
        "n": len(labels),
        "loss": -log_likelihood.mean(),
        "accuracy": right.mean(),
        "balanced_accuracy": float(np.mean(recall)),
        "ece": sum(gaps) / len(labels),
    }
