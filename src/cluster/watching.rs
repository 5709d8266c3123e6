//! Watches Nodes for people. It feeds no decision.

use std::borrow::Cow;

use futures_util::{Stream, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::{
    Api, Resource,
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, Event, watcher},
    },
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::{Listed, Live, Wanted, live::one_line};

/// What a watch tells.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A list begins: what was known before counts no more once it ends.
    Begin,
    /// A Node is there, as it is now.
    Node(Box<Listed>),
    /// The Node of this name was deleted.
    Gone(String),
    /// The list is complete.
    Complete,
}

/// A Node as the watch reads it: with the metadata that the watch itself needs.
#[derive(Clone, Debug)]
struct Watched {
    metadata: ObjectMeta,
    listed: Box<Listed>,
}

impl<'de> Deserialize<'de> for Watched {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let object = Value::deserialize(deserializer)?;
        let listed = Box::new(Listed::deserialize(&object).map_err(D::Error::custom)?);
        let metadata = object.get("metadata").ok_or_else(|| D::Error::missing_field("metadata"))?;
        let metadata = ObjectMeta::deserialize(metadata).map_err(D::Error::custom)?;
        // The rest of it is in `listed`, or is not needed.
        let ObjectMeta { name, resource_version, .. } = metadata;
        Ok(Self { metadata: ObjectMeta { name, resource_version, ..ObjectMeta::default() }, listed })
    }
}

impl Resource for Watched {
    type DynamicType = ();
    type Scope = kube::core::ClusterResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        "Node".into()
    }

    fn group((): &()) -> Cow<'_, str> {
        "".into()
    }

    fn version((): &()) -> Cow<'_, str> {
        "v1".into()
    }

    fn plural((): &()) -> Cow<'_, str> {
        "nodes".into()
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl Live {
    /// Watches Nodes, from a list of those that are there. It never ends: after an error, which is
    /// one line for people, it tries again, less often each time.
    pub fn watch(&self, wanted: &Wanted) -> impl Stream<Item = Result<Change, String>> + use<> {
        let config = match wanted {
            Wanted::Labels(labels) => Config::default().labels(labels),
            Wanted::Names(names) => match names.as_slice() {
                [name] => Config::default().fields(&format!("metadata.name={name}")),
                _ => Config::default(),
            },
            Wanted::All => Config::default(),
        };
        let names = match wanted {
            Wanted::Names(names) => Some(names.clone()),
            Wanted::All | Wanted::Labels(_) => None,
        };
        let is_wanted = move |name: &str| names.as_ref().is_none_or(|names| names.iter().any(|one| one == name));
        let nodes: Api<Watched> = Api::all(self.api.client());
        watcher(nodes, config).default_backoff().filter_map(move |event| {
            let change = match event {
                Ok(Event::Init) => Some(Change::Begin),
                Ok(Event::InitDone) => Some(Change::Complete),
                Ok(Event::InitApply(node) | Event::Apply(node)) => {
                    is_wanted(&node.listed.node.metadata.name).then_some(Change::Node(node.listed))
                }
                Ok(Event::Delete(node)) => {
                    let name = node.listed.node.metadata.name;
                    is_wanted(&name).then_some(Change::Gone(name))
                }
                Err(error) => return std::future::ready(Some(Err(one_line(&error.to_string())))),
            };
            std::future::ready(change.map(Ok))
        })
    }
}
