//! Nodes, as far as an install asks about them.

use serde::Deserialize;

use super::Metadata;

/// A node.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    /// Which one.
    pub metadata: Metadata,
    /// How it is.
    #[serde(default)]
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    node_info: Info,
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Info {
    operating_system: String,
    architecture: String,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(default)]
    pub message: String,
}

impl Node {
    /// What it runs, such as `linux/amd64`; no variant: kubelets don't say it.
    #[must_use]
    pub fn platform(&self) -> String {
        format!("{}/{}", self.status.node_info.operating_system, self.status.node_info.architecture)
    }

    /// Whether its kubelet says that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status.conditions.iter().any(|c| c.kind == "Ready" && c.status == "True")
    }
}
