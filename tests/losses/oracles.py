"""Each loss once more, in float64 NumPy, an anchor at a time as its paper says it."""

import numpy as np


def unit(z):
    lengths = np.linalg.norm(z, axis=-1, keepdims=True)
    return np.where(lengths > 0, z / np.where(lengths > 0, lengths, 1), 0)


def log_sum(logits):
    top = max(logits)
    return top + np.log(sum(np.exp(v - top) for v in logits))


def mean(values):
    return sum(values) / len(values) if len(values) else 0.0


def two_views(z_a, z_b, temperature, decoupled=False, apart=None, references=(), apart_of=()):
    """NT-Xent, and DCL; images of the same number in `apart` are no negatives."""
    b, rows = len(z_a), unit(np.concatenate([z_a, z_b]))
    apart = np.arange(b) if apart is None else apart
    losses = []
    for i in range(2 * b):
        positive = (i + b) % (2 * b)
        logits = [] if decoupled else [rows[i] @ rows[positive] / temperature]
        for j in range(2 * b):
            if j not in (i, positive) and apart[j % b] != apart[i % b]:
                logits.append(rows[i] @ rows[j] / temperature)
        for j, row in enumerate(references):
            if len(apart_of) == 0 or apart_of[j] != apart[i % b]:
                logits.append(rows[i] @ unit(row) / temperature)
        if logits:
            losses.append(log_sum(logits) - rows[i] @ rows[positive] / temperature)
    return mean(losses)


def sup_con(z, alike, temperature, columns=None, dropped=None):
    """With q_ij = alike[i, j] over columns, the rows first; dropped[i, j]: j is no column of i."""
    columns = unit(z if columns is None else columns)
    losses = []
    for i, row in enumerate(unit(z)):
        others = [j for j in range(len(columns)) if j != i]
        if dropped is not None:
            others = [j for j in others if alike[i, j] or not dropped[i, j]]
        total = sum(alike[i, j] for j in others)
        if total > 0:
            s = {j: row @ columns[j] / temperature for j in others}
            log = log_sum(list(s.values()))
            losses.append(sum(alike[i, j] * (log - s[j]) for j in others) / total)
    return mean(losses)


def info_nce(a, b, temperature, same=None, symmetric=True):
    n = len(a)
    same = np.eye(n) if same is None else same
    logits = unit(a) @ unit(b).T / temperature
    halves = []
    for matrix in (logits, logits.T):
        losses = [
            mean([log_sum(matrix[i]) - matrix[i, j] for j in range(n) if same[i, j]])
            for i in range(n)
        ]
        halves.append(mean(losses))
    return mean(halves) if symmetric else halves[0]


def siglip(a, b, temperature, bias, same=None):
    n = len(a)
    same = np.eye(n) if same is None else same
    logits = unit(a) @ unit(b).T / temperature + bias
    signs = np.where(same, 1, -1)
    rows = [sum(np.log1p(np.exp(-signs[i, j] * logits[i, j])) for j in range(n)) for i in range(n)]
    return mean(rows)


def distances(z, columns):
    return np.sum((z[:, None] - columns[None]) ** 2, axis=2)


def triplet(z, labels, margin, columns=None, column_labels=None):
    """Easy positives and semi-hard negatives; columns are the rows, or rows and references."""
    columns = z if columns is None else columns
    column_labels = labels if column_labels is None else column_labels
    d, losses = distances(z, columns), []
    for i in range(len(z)):
        positives = [j for j in range(len(columns)) if column_labels[j] == labels[i] and j != i]
        negatives = [j for j in range(len(columns)) if column_labels[j] != labels[i]]
        if positives and negatives:
            d_ap = min(d[i][positives])
            fit = [j for j in negatives if d_ap < d[i][j] < d_ap + margin]
            losses.append(max(d_ap - min(d[i][fit or negatives]) + margin, 0))
    return mean(losses)


def batch_all(z, labels, margin, columns=None, column_labels=None):
    columns = z if columns is None else columns
    column_labels = labels if column_labels is None else column_labels
    d, losses = distances(z, columns), []
    for i in range(len(z)):
        same = (column_labels == labels[i]) & (np.arange(len(columns)) != i)
        gaps = d[i][same][:, None] - d[i][column_labels != labels[i]][None, :] + margin
        losses.extend(gaps[gaps > 0])
    return mean(losses)


def margin_loss(kind, z, centres, labels, margin, scale, smoothing=0.0, there=None):
    """Centres [k, d] or [k, c, d]; margin and scale a number, or of rows [n, 1], or classes [k]."""
    z, centres = unit(z), unit(centres)
    cosine = z @ centres.T if centres.ndim == 2 else np.einsum("nd,kcd->nkc", z, centres).max(2)
    margin, scale = (np.broadcast_to(v, cosine.shape) for v in (margin, scale))
    there = np.ones(len(centres), bool) if there is None else there
    losses = []
    for i, label in enumerate(labels):
        c, m, logits = cosine[i, label], margin[i, label], cosine[i].copy()
        if kind == "cosface":
            logits[label] = c - m
        elif c > -np.cos(m):
            logits[label] = np.cos(np.arccos(np.clip(c, -1, 1)) + m)
        else:
            logits[label] = c - m * np.sin(m)
        logits *= scale[i]
        log_p = logits[there] - log_sum(logits[there])
        own = logits[label] - log_sum(logits[there])
        losses.append(-(1 - smoothing) * own - smoothing * log_p.mean())
    return mean(losses)


def vicreg(z_a, z_b, invariance=25, variance=25, covariance=1):
    if len(z_a) == 0:
        return 0.0
    loss = invariance * np.mean((z_a - z_b) ** 2)
    for z in (z_a, z_b):
        c = np.cov(z.T, ddof=1) if len(z) > 1 else np.zeros((z.shape[1],) * 2)
        loss += variance * np.mean(np.maximum(0, 1 - np.sqrt(np.diag(c) + 1e-4)))
        loss += covariance * (np.sum(c**2) - np.sum(np.diag(c) ** 2)) / len(c)
    return loss


def barlow_twins(z_a, z_b, off_diagonal=5e-3):
    if len(z_a) == 0:
        return 0.0
    d = z_a.shape[1]
    c = np.corrcoef(z_a.T, z_b.T)[:d, d:]
    return np.sum((1 - np.diag(c)) ** 2) + off_diagonal * np.sum(c[~np.eye(d, dtype=bool)] ** 2)


def byol(p, t):
    return mean([np.sum((a - b) ** 2) for a, b in zip(unit(p), unit(t), strict=True)])


def dino(student, teacher, centre, student_temperature=0.1, teacher_temperature=0.04):
    losses = []
    for i in range(student.shape[1]):
        for t in range(len(teacher)):
            for s in range(len(student)):
                if s != t:
                    target = (teacher[t, i] - centre) / teacher_temperature
                    logits = student[s, i] / student_temperature
                    p = np.exp(target - log_sum(target))
                    losses.append(-sum(p * (logits - log_sum(logits))))
    return mean(losses)
