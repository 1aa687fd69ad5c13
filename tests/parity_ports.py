"""How the official recommenders of the golden numbers map to ours: names, options, recorded draws."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmrec.recsys.config import FusionConfig
from mmrec.recsys.fusion import FrozenView, FusedRows, fuse
from mmrec.recsys.graph import BipartiteGraph, edge_weights
from mmrec.recsys.models.base import GradientModel

Tensors = dict[str, Tensor]
Part = slice | tuple[slice, ...]  # columns, or an index of all dimensions
Names = dict[str, dict[str, Part]]  # official key -> our parameters, each with the part of it that it holds


@dataclass(frozen=True)
class Port:
    """How an official model maps to ours."""

    model: str
    options: Callable[[dict[str, Any]], dict[str, Any]]  # official config -> raw options
    views: Callable[[dict[str, Any], Tensors], list[str]]  # in the order of our views
    parameters: Callable[[Tensors, dict[str, Tensor]], Names]
    components: dict[str, str]  # official loss component -> ours
    prepare: Callable[[GradientModel, Tensors], None] = lambda model, official: None
    middle: Callable[[GradientModel, Tensors], dict[str, Tensor]] = lambda model, official: {}
    embeddings: Callable[[Any], tuple[Tensor, Tensor]] = lambda model: model()  # out/user_emb, out/item_emb
    dim: str = "embedding_size"  # official key of the embeddings' size
    score: Callable[[Tensor], Tensor] = lambda products: products  # official score of an inner product


WHOLE = slice(None)
FEATURES = {"text": "t_feat", "visual": "v_feat", "joint": "mm_feat"}
LOSSES = {"out/loss_bpr": "bpr", "out/loss_reg_unweighted": "reg"}


def views_of(config: dict[str, Any], official: Tensors) -> list[str]:
    """Text first, as MMRec concatenates."""
    return [view for view in ("text", "visual") if view[0] in config.get("_mods", "vt")]


def table_names(user: str, item: str) -> Callable[[Tensors, Any], Names]:
    return lambda official, views: {
        f"param/{user}": {"user.weight": WHOLE},
        f"param/{item}": {"item.weight": WHOLE},
    }


def vbpr_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    names, start, columns = table_names("u_embedding", "i_embedding")(official, features), 0, {}
    for number, values in enumerate(features.values()):
        columns[f"projections.{number}.linear.weight"] = slice(start, start + values.shape[1])
        start += values.shape[1]
    return names | {"param/item_linear.weight": columns, "param/item_linear.bias": {"bias": WHOLE}}


def projection_names(official: Tensors, features: dict[str, Tensor], owner: str = "") -> Names:
    """Of models with id tables and a projection of trainable features per view (held by `owner`)."""
    names = table_names("user_embedding.weight", "item_id_embedding.weight")(official, features)
    for number, view in enumerate(features):
        prefix, ours = {"text": "text", "visual": "image"}[view], f"{owner}projections.{number}"
        names[f"param/{prefix}_embedding.weight"] = {f"{ours}.features": WHOLE}
        names[f"param/{prefix}_trs.weight"] = {f"{ours}.linear.weight": WHOLE}
        names[f"param/{prefix}_trs.bias"] = {f"{ours}.linear.bias": WHOLE}
    return names


def freedom_options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "n_layers": config["n_ui_layers"],
        "n_item_layers": config["n_mm_layers"],
        "k": config["knn_k"],
        "image_weight": config["mm_image_weight"],
        "edge_dropout": config["dropout"],
        "reg_weight": config["reg_weight"],
        "train_features": True,
        "as_released": True,
    }


def freedom_edges(model: Any, official: Tensors) -> None:
    """Train on the recorded draw of edges, found among our sorted pairs."""
    if "mid/kept_user" in official:
        keys = model.user_idx * model.n_items + model.item_idx
        kept = official["mid/kept_user"] * model.n_items + official["mid/kept_item"]
        model.keep_edges(torch.searchsorted(keys, kept))


def adjacency(graph: BipartiteGraph) -> Tensor:
    """The dense (U + I, U + I) matrix."""
    to_users, to_items = graph.to_users.to_dense(), graph.to_items.to_dense()
    users, items = (torch.zeros(len(block), len(block)) for block in (to_users, to_items))
    return torch.cat([torch.cat([users, to_users], dim=1), torch.cat([to_items, items], dim=1)])


def freedom_middle(model: Any, official: Tensors) -> dict[str, Tensor]:
    edges = official.get("mid/edge_list", torch.stack([model.user_idx, model.item_idx]))
    return {
        "mid/mm_adj": model.item_graph.matrix.to_dense(),
        "mid/norm_adj": adjacency(model.graph),
        "mid/train_adj": adjacency(model.training_graph),
        "mid/edge_sampling_weight": edge_weights(edges[0], edges[1], model.n_users, model.n_items),
    }


def bm3_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    predictor = {f"param/predictor.{name}": {f"predictor.{name}": WHOLE} for name in ("weight", "bias")}
    return projection_names(official, features) | predictor


def bm3_targets(model: Any, official: Tensors) -> None:
    """Drop out by the recorded masks, which cover all users or items."""
    if "rand/dropout_keep_user_target" in official:
        scale = 1 / (1 - model.options.dropout)
        model.target = lambda name, embeddings, rows: (
            embeddings.detach() * official[f"rand/dropout_keep_{name}_target"][rows] * scale
        )


def lattice_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    """One weight per view; the release has one for images, then one for texts, also where it has one view."""
    names = projection_names(official, features, owner="learned.")
    weights = {("visual", "text"): WHOLE, ("visual",): slice(1), ("text",): slice(1, None)}[tuple(features)]
    names["param/modal_weight"] = {"learned.view_weight": weights}
    layers = sum(name.startswith("param/GC_Linear_list.") for name in official) // 2
    for layer in range(layers):
        for theirs, ours in (("GC", "sums"), ("Bi", "products")):
            names |= linear_names({f"{theirs}_Linear_list.{layer}": f"collaborative.{ours}.{layer}"})
    return names


def lattice_options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "cf_model": config["cf_model"],
        "n_layers": len(config["weight_size"]),
        "n_item_layers": config["n_layers"],
        "k": config["knn_k"],
        "feature_dim": config["feat_embed_dim"],
        "original_share": config["lambda_coeff"],
        "dropout": max(config["mess_dropout"], default=0.0),
        "reg_weight": config["reg_weight"],
        "reg_batch_size": config["train_batch_size"],
        "train_features": True,
        "as_released": True,
    }


def lattice_middle(model: Any, official: Tensors) -> dict[str, Tensor]:
    learned = model.learned
    pattern, values = learned()
    tensors, shape = {"mid/item_adj": pattern.matrix(values).to_dense()}, (model.n_items, model.n_items)
    for number, name in enumerate(("image", "text")):
        chosen = learned.original_views == number
        graph = torch.zeros(shape)
        places = learned.original_rows[chosen], learned.original_columns[chosen]
        graph[places] = learned.original_values[chosen]
        tensors[f"mid/{name}_original_adj"] = graph
    return tensors


def mgcn_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    names = table_names("user_embedding.weight", "item_id_embedding.weight")(official, features)
    names |= linear_names({"query_common.0": "fusion.attention.0"})
    names["param/query_common.2.weight"] = {"fusion.attention.2.weight": WHOLE}
    for number, view in enumerate(features):
        prefix, ours = {"text": "text", "visual": "image"}[view], f"views.{number}"
        names[f"param/{prefix}_embedding.weight"] = {f"{ours}.projection.features": WHOLE}
        names |= linear_names(
            {
                f"{prefix}_trs": f"{ours}.projection.linear",
                f"gate_{view[0]}.0": f"{ours}.gate",
                f"gate_{prefix}_prefer.0": f"fusion.preferences.{number}",
            }
        )
    return names


def mgcn_options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "n_layers": config["n_ui_layers"],
        "n_item_layers": config["n_layers"],
        "k": config["knn_k"],
        "contrast_weight": config["cl_loss"],
        "reg_weight": config["reg_weight"],
        "reg_batch_size": config["train_batch_size"],
        "train_features": True,
        "as_released": True,
    }


def mgcn_middle(model: Any, official: Tensors) -> dict[str, Tensor]:
    embeddings = model.graph.propagate(model.user.weight, model.item.weight, model.options.n_layers)
    image, text = (view.graph.matrix.to_dense() for view in model.views)
    return {
        "mid/norm_adj": adjacency(model.graph),
        "mid/R": model.graph.to_users.to_dense(),
        "mid/image_original_adj": image,
        "mid/text_original_adj": text,
        "mid/content_embeds": torch.cat(embeddings),
        "mid/side_embeds": torch.cat(model.sides(*embeddings)),
    }


def alignrec_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    names = table_names("user_embedding.weight", "item_id_embedding.weight")(official, features)
    names["param/mm_embedding.weight"] = {"content.projection.features": WHOLE}
    linears = {"mm_trs": "content.projection.linear", "gate_v.0": "content.gate"}
    if "param/v_ln.weight" in official:
        linears["v_ln"] = "content.projection.norm"
    return names | linear_names(linears)


def alignrec_options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "n_layers": config["n_ui_layers"],
        "n_item_layers": config["n_layers"],
        "k": config["knn_k"],
        "content_weight": 1 / (config["side_emb_div"] or 1),
        "layer_norm": config["use_ln"],
        "cca_weight": config["cl_loss"],
        "uia_weight": config["ui_cosine_loss_weight"] if config["ui_cosine_loss"] else 0.0,
        "similarity_weight": config["sim_weight"],
        "reg_weight": config["reg_weight"],
        "reg_batch_size": config["train_batch_size"],
        "train_features": True,
        "as_released": True,
    }


def alignrec_middle(model: Any, official: Tensors) -> dict[str, Tensor]:
    embeddings = model.graph.propagate(model.user.weight, model.item.weight, model.options.n_layers)
    return {
        "mid/norm_adj": adjacency(model.graph),
        "mid/R": model.graph.to_users.to_dense(),
        "mid/mm_original_adj": model.content.graph.matrix.to_dense(),
        "mid/content_embeds": torch.cat(embeddings),
        "mid/side_embeds": torch.cat(model.sides()),
    }


def images_first(config: dict[str, Any], official: Tensors) -> list[str]:
    return views_of(config, official)[::-1]


def by_side(name: str, official: Tensors, users: str, items: str) -> Names:
    """An official table of users and then items -> one of ours for each."""
    n_users = len(official["out/scores"])
    return {name: {users: (slice(n_users), WHOLE), items: (slice(n_users, None), WHOLE)}}


def grcn_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    names = by_side("param/id_gcn.id_embedding", official, "user.weight", "item.weight")
    names |= by_side("param/model_specific_conf", official, "user_confidence", "item_confidence")
    for number, view in enumerate(features):
        prefix, ours = f"{view[0]}_gcn", f"views.{number}"
        names[f"param/{prefix}.preference"] = {f"{ours}.preference.weight": WHOLE}
        names |= linear_names({f"{prefix}.MLP": f"{ours}.project.linear"})
    return names


def mmgcn_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    dim = official["nonparam/id_embedding"].shape[1]
    names = by_side("nonparam/id_embedding", official, "user.weight", "item.weight")
    for number, view in enumerate(features):
        theirs, ours = f"{view[0]}_gcn", f"branches.{number}"
        names[f"nonparam/{theirs}.preference"] = {f"{ours}.preference.weight": WHOLE}
        if view == "visual":
            names |= linear_names({f"{theirs}.MLP": f"{ours}.map"})
        for layer in range(1, 4):
            inner = f"{ours}.layers.{layer - 1}"
            names |= linear_names({f"{theirs}.linear_layer{layer}": f"{inner}.own"})
            names |= {
                f"param/{theirs}.conv_embed_{layer}.weight": {f"{inner}.aggregate": WHOLE},
                f"param/{theirs}.g_layer{layer}.bias": {f"{inner}.of_own.bias": WHOLE},
                f"param/{theirs}.g_layer{layer}.weight": {
                    f"{inner}.of_neighbours.weight": slice(-dim),
                    f"{inner}.of_own.weight": slice(-dim, None),
                },
            }
    return names


def fusion_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    """Of models on `ViewFusion`."""
    names = {
        "param/embedding_user.weight": {"fusion.user.weight": WHOLE},
        "param/embedding_item.weight": {"fusion.item.weight": WHOLE},
    }
    linears = {f"{view[0]}_dense": f"projections.{number}.linear" for number, view in enumerate(features)}
    for side in ("user", "item"):
        after = f"embedding_{side}_after_GCN"
        linears[after if f"param/{after}.weight" in official else f"read_{side}"] = f"read_{side}"
    return names | linear_names({theirs: f"fusion.{ours}" for theirs, ours in linears.items()})


def linear_names(linears: dict[str, str]) -> Names:
    """Weight and bias of official linear layers -> ours."""
    return {
        f"param/{theirs}.{name}": {f"{ours}.{name}": WHOLE}
        for theirs, ours in linears.items()
        for name in ("weight", "bias")
    }


def slmrec_names(official: Tensors, features: dict[str, Tensor]) -> Names:
    heads = {
        "g_i_iv": "spaces.0",
        "g_v_iv": "entries.0",
        "g_iv_iva": "spaces.1.0",
        "g_iva_ivat": "spaces.1.1",
        "g_t_ivat": "entries.1",
    }
    return fusion_names(official, features) | linear_names(heads)


def slmrec_options(config: dict[str, Any]) -> dict[str, Any]:
    expect(config, ssl_task="FAC", adj_type="pre")
    return {
        "n_layers": config["layer_num"],
        "temperature": config["temp"],
        "ssl_weight": config["ssl_alpha"],
        "ssl_temperature": config["ssl_temp"],
        "fusion": config["mm_fusion_mode"],
        "as_released": True,
    }


def expect(config: dict[str, Any], **known: Any) -> None:
    for key, value in known.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"{key} = {config[key]!r} is not among what is known of the official code ({value!r})"
            )


def mmgcl_options(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "n_layers": config["layer_num"],
        "tasks": config["ssl_task"],
        "ssl_weight": config["ssl_alpha"],
        "ssl_temperature": config["ssl_temp"],
        "dropout": config["dropout_rate"],
        "as_released": True,
    }


def mmgcl_edges(model: Any, official: Tensors) -> None:
    """Copies of the graph with the recorded edges, in turn."""
    pairs, masks = model.subgraphs, []
    for view in ("view1", "view2"):
        if f"mid/{view}_kept_user" in official:
            kept = official[f"mid/{view}_kept_user"] * model.n_items + official[f"mid/{view}_kept_item"]
            masks.append(torch.isin(pairs.user_idx * model.n_items + pairs.item_idx, kept))
    turns = itertools.cycle(masks)
    model.draw_edges = lambda: next(turns)


def bipartite_middle(model: Any, official: Tensors) -> dict[str, Tensor]:
    return {"mid/norm_adj": adjacency(model.graph)}


PORTS = {
    "BPR": Port(
        model="bpr",
        options=lambda config: {"reg_weight": config["reg_weight"], "as_released": True},
        views=lambda config, official: [],
        parameters=table_names("user_embedding.weight", "item_embedding.weight"),
        components=LOSSES,
    ),
    "VBPR": Port(
        model="vbpr",
        options=lambda config: {"reg_weight": config["reg_weight"], "as_released": True},
        views=views_of,
        parameters=vbpr_names,
        components=LOSSES,
    ),
    "LightGCN": Port(
        model="lightgcn",
        options=lambda config: {
            "n_layers": config["n_layers"],
            "reg_weight": config["reg_weight"],
            "as_released": True,
        },
        views=lambda config, official: [],
        parameters=table_names("embedding_dict.user_emb", "embedding_dict.item_emb"),
        components=LOSSES,
        middle=lambda model, official: {"mid/norm_adj": adjacency(model.graph)},  # type: ignore[arg-type]
    ),
    "FREEDOM": Port(
        model="freedom",
        options=freedom_options,
        views=views_of,
        parameters=projection_names,
        components={
            "out/loss_bpr": "bpr",
            "out/loss_bpr_text": "bpr.text",
            "out/loss_bpr_visual": "bpr.visual",
        },
        prepare=freedom_edges,
        middle=freedom_middle,
    ),
    "BM3": Port(
        model="bm3",
        options=lambda config: {
            "n_layers": config["n_layers"],
            "dropout": config["dropout"],
            "view_weight": config["cl_weight"],
            "reg_weight": config["reg_weight"],
            "train_features": True,
            "as_released": True,
        },
        views=views_of,
        parameters=bm3_names,
        components={
            "out/loss_reg_unweighted": "reg",
            "out/loss_user_vs_item": "user",
            "out/loss_item_vs_user": "item",
            "out/loss_text_vs_item": "item.text",
            "out/loss_text_vs_text": "text",
            "out/loss_visual_vs_item": "item.visual",
            "out/loss_visual_vs_visual": "visual",
        },
        prepare=bm3_targets,
        middle=lambda model, official: {"mid/norm_adj": adjacency(model.graph)},  # type: ignore[arg-type]
        embeddings=lambda model: model.embeddings(),
    ),
    "MMGCN": Port(
        model="mmgcn",
        options=lambda config: {"reg_weight": config["reg_weight"], "as_released": True},
        views=images_first,
        parameters=mmgcn_names,
        components={"out/loss_bpr": "bpr"},
    ),
    "GRCN": Port(
        model="grcn",
        options=lambda config: {
            "n_routing": config["n_layers"],
            "content_dim": config["latent_embedding"],
            "reg_weight": config["reg_weight"],
            "as_released": True,
        },
        views=images_first,
        parameters=grcn_names,
        components={"out/loss_bpr": "bpr"},
    ),
    "LATTICE": Port(
        model="lattice",
        options=lattice_options,
        views=images_first,
        parameters=lattice_names,
        components={"out/loss_bpr": "bpr"},
        prepare=lambda model, official: model.start_epoch(torch.Generator()),
        middle=lattice_middle,
    ),
    "MGCN": Port(
        model="mgcn",
        options=mgcn_options,
        views=images_first,
        parameters=mgcn_names,
        components={
            "out/loss_bpr": "bpr",
            "out/loss_cl_item": "contrast.item",
            "out/loss_cl_user": "contrast.user",
        },
        middle=mgcn_middle,
    ),
    "ALIGNREC": Port(
        model="alignrec",
        options=alignrec_options,
        views=lambda config, official: ["joint"],
        parameters=alignrec_names,
        components={
            "out/loss_bpr": "bpr",
            "out/loss_cl_item": "cca.item",
            "out/loss_cl_user": "cca.user",
            "out/loss_sim_unweighted": "similarity",
        },
        middle=alignrec_middle,
    ),
    "SLMRec": Port(
        model="slmrec",
        options=slmrec_options,
        views=images_first,
        parameters=slmrec_names,
        components={"out/loss_main": "softmax", "out/loss_ssl_unweighted": "ssl"},
        middle=bipartite_middle,
        dim="recdim",
        score=torch.sigmoid,
    ),
    "MMGCL": Port(
        model="mmgcl",
        options=mmgcl_options,
        views=images_first,
        parameters=fusion_names,
        components={"out/loss_bpr": "bpr", "out/loss_ssl_unweighted": "ssl"},
        prepare=mmgcl_edges,
        middle=bipartite_middle,
        dim="latent_dim",
        score=torch.sigmoid,
    ),
}


def compare_fusions(compare: Callable[..., None], config: dict[str, Any], official: Tensors) -> None:
    """CLIPER's five ways to join text views, as released."""
    n_items = config["N"]
    everywhere = np.ones(n_items, dtype=bool)
    views = {str(n): FrozenView(view.numpy(), everywhere) for n, view in enumerate(official["in/text_views"])}
    image = FrozenView(official["in/image"].numpy(), everywhere)
    for kind in ("concat", "mean", "sum"):
        fused = fuse(views, None, FusionConfig.model_validate({"kind": kind, "as_released": True}))
        compare(kind, f"out/{kind.title()}", fused.values, official[f"out/{kind.title()}"])
    for temperature in config["temperatures"]:
        settings = {"kind": "similarity", "temperature": temperature, "as_released": True}
        fused = fuse(views, image, FusionConfig.model_validate(settings))
        name = f"out/Attention_temperature_{temperature}"
        compare("similarity", name, fused.values, official[name])
    fused = fuse(views, None, FusionConfig(kind="mlp", as_released=True))
    assert fused.learned is not None
    rows = fused.learned.module()
    assert isinstance(rows, FusedRows)
    rows.load_state_dict({f"fusion.map.{part}": official[f"param/mlp.{part}"] for part in ("weight", "bias")})
    compare("mlp", "out/MLP", rows(), official["out/MLP"])
