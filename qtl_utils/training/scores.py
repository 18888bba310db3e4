"""How well trained models do, as tidy rows."""

import numpy as np
import pandas as pd

from qtl_utils.training.fits import Fit, selection_subset
from qtl_utils.training.inputs import Inputs

ECE_BINS = 10  # of equal width, for the expected calibration error


def score(fit: Fit, index: np.ndarray, inputs: Inputs) -> dict[str, pd.DataFrame]:
    """Metrics, history and predictions of the replicas `index`."""
    history = []
    predictions = []
    labels = inputs.data.labels
    classes = np.array(inputs.data.classes)
    ids = np.array(inputs.data.ids)
    chosen_on = selection_subset(inputs.splits)
    for i in index:
        replica = fit.replicas[i]
        keys = {"seed": replica.seed, "split": replica.split}
        for s, subset in enumerate(("train", chosen_on)):
            loss, accuracy = fit.history[i, :, s].T
            epoch = np.arange(1, len(loss) + 1)
            history.append(pd.DataFrame({"epoch": epoch, "subset": subset, "loss": loss, "accuracy": accuracy} | keys))
        samples = inputs.splits.indices(replica.split, "test")
        probability = softmax(fit.logits["last"][i, samples])
        found = probability.argmax(1)
        predictions.append(
            pd.DataFrame(
                {
                    "subset": "test",
                    "epoch_kind": "last",
                    "id": ids[samples],
                    "label": classes[labels[samples]],
                    "prediction": classes[found],
                    "probability": np.round(probability.max(1), 6),
                }
                | keys
            )
        )
    return {
        "metrics": score_metrics(fit, index, inputs),
        "history": pd.concat(history, ignore_index=True),
        "predictions": pd.concat(predictions, ignore_index=True),
    }


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
                    rows.append(keys | {"epoch": epochs[kind], **values})
    return pd.DataFrame(rows)


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
