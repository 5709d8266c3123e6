//! Reads what a review of something on a Node is about: the Node, and the pod that an eviction
//! names.

use k8s_openapi::api::core::v1 as core;
use tokio::time::Instant;

use super::{
    Cluster,
    api::{check_name, clustered, namespaced},
    live::Reads,
};
use crate::{
    clock::Clock,
    policy::{
        facts::Timing,
        object::{node::Node, pod::Pod},
    },
};

/// An object, `None` if it does not exist; or why it could not be read, as one line for people. How
/// long it took, if an API server was asked.
type Found<T> = (Result<Option<T>, String>, Option<Timing>);

impl Cluster {
    /// The Node with this name. Returns by `deadline`.
    pub async fn node(&self, name: &str, clock: &Clock, deadline: Instant) -> Found<Node> {
        match self {
            Self::Live(live) => {
                let builder = clustered::<core::Node>();
                let read = live.api.get(&builder, name);
                let read = Reads { clock, deadline }.read("node", read).await;
                (read.result, Some(read.timing))
            }
            Self::File(snapshot) => (snapshot.load().node(name), None),
        }
    }

    /// The pod with this name. Returns by `deadline`.
    pub async fn pod(&self, namespace: &str, name: &str, clock: &Clock, deadline: Instant) -> Found<Pod> {
        match self {
            Self::Live(live) => {
                let read = async {
                    check_name(namespace)?;
                    live.api.get(&namespaced::<core::Pod>(namespace), name).await
                };
                let read = Reads { clock, deadline }.read("pod", read).await;
                (read.result, Some(read.timing))
            }
            Self::File(snapshot) => (snapshot.load().pod(namespace, name), None),
        }
    }
}
