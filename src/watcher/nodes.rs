//! The nodes that the watcher keeps of all that it is told about: those with the taint, and those
//! with evidence that are not in service.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio::time::Instant;

use super::plan::Memory;
use crate::{
    cluster::{self, Listed},
    policy::standing::{State, is_in_service},
};

/// The nodes that are kept.
#[derive(Default)]
pub(super) struct Nodes {
    pub current: BTreeMap<String, Kept>,
    /// The names in a list that is not complete yet.
    listing: Option<Vec<String>>,
}

/// A node with the taint or with evidence.
pub(super) struct Kept {
    pub listed: Listed,
    /// When to look at it.
    pub due: Instant,
    pub memory: Memory,
    /// Where it stood at the last look, and since when it is out of service.
    pub told: Option<(State, Option<Timestamp>)>,
}

impl Nodes {
    pub fn apply(&mut self, change: cluster::Change, now: Instant) {
        match change {
            cluster::Change::Begin => self.listing = Some(Vec::new()),
            cluster::Change::Complete => {
                if let Some(listed) = self.listing.take() {
                    self.current.retain(|name, _| listed.contains(name));
                }
            }
            cluster::Change::Gone(name) => drop(self.current.remove(&name)),
            cluster::Change::Node(node) => self.keep(*node, now),
        }
    }

    fn keep(&mut self, listed: Listed, now: Instant) {
        let name = listed.node.metadata.name.clone();
        if !is_kept(&listed) {
            self.current.remove(&name);
            return;
        }
        if let Some(names) = &mut self.listing {
            names.push(name.clone());
        }
        match self.current.get_mut(&name) {
            Some(kept) if kept.listed.node.metadata.uid == listed.node.metadata.uid => {
                // A heartbeat changes nothing that is told.
                if kept.listed.node.metadata.resource_version != listed.node.metadata.resource_version {
                    kept.due = now;
                }
                kept.listed = listed;
            }
            _ => {
                self.current.insert(name, Kept { listed, due: now, memory: Memory::default(), told: None });
            }
        }
    }

    /// How many nodes are in each state, and since when the oldest of them is out of service.
    pub fn by_state(&self) -> BTreeMap<State, (usize, Option<Timestamp>)> {
        let mut states: BTreeMap<State, (usize, Option<Timestamp>)> = BTreeMap::new();
        for (state, since) in self.current.values().filter_map(|kept| kept.told) {
            let (count, oldest) = states.entry(state).or_default();
            *count += 1;
            *oldest = [*oldest, since].into_iter().flatten().min();
        }
        states
    }
}

/// Whether a node has the taint, or evidence while it is not in service.
fn is_kept(listed: &Listed) -> bool {
    let node = &listed.node;
    node.is_out_of_service() || (node.has_record() && !is_in_service(node))
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    fn node(name: &str, uid: &str, is_out: bool) -> cluster::Change {
        let taints = if is_out { json!([{"key": "node.kubernetes.io/out-of-service"}]) } else { json!([]) };
        let metadata = json!({"name": name, "uid": uid});
        cluster::Change::Node(Box::new(from_value(json!({"metadata": metadata, "spec": {"taints": taints}})).unwrap()))
    }

    #[test]
    fn nodes_out_of_service_are_kept_and_a_list_replaces_what_was_known_once_it_is_complete() {
        let mut nodes = Nodes::default();
        let mut after = |change| {
            nodes.apply(change, Instant::now());
            nodes.current.keys().cloned().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(after(cluster::Change::Begin), "");
        assert_eq!(after(node("a", "1", true)), "a");
        assert_eq!(after(node("b", "2", false)), "a");
        assert_eq!(after(cluster::Change::Complete), "a");
        assert_eq!(after(node("b", "2", true)), "a b");
        assert_eq!(after(node("a", "1", false)), "b", "it is back in service");
        assert_eq!(after(node("a", "1", true)), "a b");
        assert_eq!(after(cluster::Change::Begin), "a b");
        assert_eq!(after(node("b", "2", true)), "a b");
        assert_eq!(after(cluster::Change::Complete), "b", "a was deleted while the watch was away");
        assert_eq!(after(cluster::Change::Gone("b".into())), "");
    }

    #[test]
    fn a_node_made_anew_under_the_name_has_no_memory() {
        let mut nodes = Nodes::default();
        nodes.apply(node("a", "1", true), Instant::now());
        nodes.current.get_mut("a").unwrap().told = Some((State::Stuck, "2026-11-22T10:15:00Z".parse().ok()));
        assert_eq!(nodes.by_state()[&State::Stuck].0, 1);
        nodes.apply(node("a", "2", true), Instant::now());
        assert!(nodes.by_state().is_empty());
    }
}
