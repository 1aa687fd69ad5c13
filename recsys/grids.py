"""What the papers tuned: the search space of every model where `[tune.space]` names none."""

from __future__ import annotations

# Model -> setting -> values, as the papers or the releases that the tables of results come from list them.
GRIDS: dict[str, dict[str, tuple[float, ...]]] = {
    "popularity": {},
    "itemknn": {
        "train.itemknn.k": (20, 50, 100, 200, 400),
        "train.itemknn.shrink": (0.0, 10.0, 100.0, 1000.0),
        "train.itemknn.alpha": (0.3, 0.5, 0.7),
    },
    "ease": {"train.ease.reg_weight": (10.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)},
    "bpr": {"train.bpr.reg_weight": (2.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)},
    "lightgcn": {
        "train.lightgcn.n_layers": (1, 2, 3, 4),
        "train.lightgcn.reg_weight": (1e-2, 1e-3, 1e-4, 1e-5, 1e-6),
    },
    "vbpr": {"train.vbpr.reg_weight": (2.0, 1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5)},
    "freedom": {
        "train.freedom.edge_dropout": (0.8, 0.9),
        "train.freedom.reg_weight": (0.0, 1e-5, 1e-4, 1e-3),
    },
    "grcn": {
        "train.learning_rate": (1.0, 1e-1, 1e-2, 1e-3, 1e-4),
        "train.grcn.reg_weight": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5),
    },
    "mmgcn": {
        "train.learning_rate": (1e-2, 5e-3, 1e-3, 5e-4, 1e-4),
        "train.mmgcn.reg_weight": (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),
    },
    "slmrec": {
        "train.learning_rate": (1e-1, 1e-2, 1e-3, 1e-4),
        "train.slmrec.ssl_temperature": (0.1, 0.2, 0.5, 1.0),
        "train.slmrec.ssl_weight": (0.01, 0.05, 0.1, 0.5, 1.0),
    },
    "mmgcl": {
        "train.learning_rate": (1e-3, 1e-4),
        "train.mmgcl.ssl_temperature": (0.1, 0.2, 0.5, 1.0),
        "train.mmgcl.ssl_weight": (0.1, 0.3, 0.5, 0.7, 1.0),
    },
    "bm3": {
        "train.bm3.n_layers": (1, 2),
        "train.bm3.dropout": (0.3, 0.5),
        "train.bm3.reg_weight": (0.1, 0.01),
    },
    "lattice": {
        "train.learning_rate": (1e-4, 5e-4, 1e-3, 5e-3),
        "train.lattice.reg_weight": (0.0, 1e-5, 1e-4, 1e-3),
    },
    "mgcn": {"train.mgcn.contrast_weight": (1e-3, 1e-2, 1e-1)},
    "alignrec": {
        "train.learning_rate": (5e-3, 3e-3, 1e-3, 7e-4, 5e-4, 3e-4, 1e-4),
        "train.alignrec.cca_weight": (1e-4, 1e-3, 5e-3, 1e-2, 1e-1),
        "train.alignrec.similarity_weight": (0.1, 0.2, 0.3, 0.4, 0.5),
    },
}
