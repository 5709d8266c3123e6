//! Writes Events about Nodes. They are for people: no decision waits for one.

use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::core::params::{Patch, PatchParams, PostParams};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Live, Written,
    api::{ReadError, Selection, check_name, namespaced},
    live::one_line,
};
use crate::policy::json::null_is_default;

/// Events about objects without a namespace are in this one
/// (`k8s.io/kubernetes/pkg/apis/core/validation`: `ValidateEventCreate`).
const NAMESPACE: &str = "default";
/// Who reports.
const CONTROLLER: &str = "fencegate.dev/gate";
/// The most bytes of a note (`ValidateEventCreate`: `NoteLengthLimit`).
const NOTE_LENGTH: usize = 1024;
/// The most characters of a node's name in the name of its Event, which has a suffix and may have
/// 253 characters in all.
const NAME_LENGTH: usize = 200;

/// An Event of a replica, as somebody reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ToldEvent {
    #[serde(deserialize_with = "null_is_default")]
    pub action: String,
    #[serde(deserialize_with = "null_is_default")]
    pub reason: String,
    #[serde(deserialize_with = "null_is_default")]
    pub note: String,
    event_time: Option<Timestamp>,
    series: Option<ToldSeries>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToldSeries {
    count: i64,
    last_observed_time: Timestamp,
}

impl ToldEvent {
    /// When it happened last.
    pub fn last(&self) -> Option<Timestamp> {
        self.series.as_ref().map(|series| series.last_observed_time).or(self.event_time)
    }

    /// How often it happened.
    pub fn count(&self) -> i64 {
        self.series.as_ref().map_or(1, |series| series.count)
    }
}

/// An Event about a Node, as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEvent<'a> {
    pub node: &'a str,
    /// `metadata.uid` of the Node: `kubectl describe` looks for it.
    pub uid: &'a str,
    pub action: &'a str,
    pub reason: &'a str,
    pub is_warning: bool,
    pub note: &'a str,
    pub at: Timestamp,
    /// The pod that reports.
    pub instance: &'a str,
}

impl NodeEvent<'_> {
    /// The name of the Event.
    pub fn name(&self) -> String {
        let node: String = self.node.chars().take(NAME_LENGTH).collect();
        format!("{}.{:x}", node.trim_end_matches(['.', '-']), self.at.as_nanosecond())
    }

    fn stored(&self) -> Event {
        let text = |text: &str| Some(text.to_owned());
        Event {
            metadata: ObjectMeta { name: Some(self.name()), namespace: text(NAMESPACE), ..ObjectMeta::default() },
            action: text(self.action),
            reason: text(self.reason),
            type_: text(if self.is_warning { "Warning" } else { "Normal" }),
            note: text(self.note.get(..self.note.floor_char_boundary(NOTE_LENGTH)).unwrap_or_default()),
            event_time: Some(MicroTime(self.at)),
            regarding: Some(ObjectReference {
                api_version: text("v1"),
                kind: text("Node"),
                name: text(self.node),
                uid: text(self.uid),
                ..ObjectReference::default()
            }),
            reporting_controller: text(CONTROLLER),
            reporting_instance: text(self.instance),
            ..Event::default()
        }
    }
}

impl Live {
    /// Stores an Event.
    ///
    /// # Errors
    /// Why it could not be stored, as one line for people.
    pub async fn create_event(&self, event: &NodeEvent<'_>) -> Result<(), String> {
        let create = async {
            let body = serde_json::to_vec(&event.stored())?;
            let request = namespaced::<Event>(NAMESPACE).create(&PostParams::default(), body);
            self.api.send::<Value>(request.map_err(kube::Error::BuildRequest)?).await
        };
        create.await.map(drop).map_err(|error| one_line(&error.to_string()))
    }

    /// The Events of the replicas about the Node with this UID.
    ///
    /// # Errors
    /// Why they could not be read, as one line for people.
    pub async fn events_about(&self, uid: &str) -> Result<Vec<ToldEvent>, String> {
        let read = async {
            check_name(uid)?;
            let of_node = format!("regarding.kind=Node,regarding.uid={uid},reportingController={CONTROLLER}");
            self.api.list(&namespaced::<Event>(NAMESPACE), Selection::Fields(&of_node), Some).await
        };
        read.await.map_err(|error: ReadError| one_line(&error.to_string()))
    }

    /// Notes that the Event of this name happened again: `count` times by now. A conflict means
    /// that it is not there any more.
    ///
    /// # Errors
    /// Why it could not be noted, as one line for people.
    pub async fn count_event(&self, name: &str, count: i32, last: Timestamp) -> Result<Written, String> {
        let patch = async {
            check_name(name)?;
            let patch = json!({"series": EventSeries { count, last_observed_time: MicroTime(last) }});
            let builder = namespaced::<Event>(NAMESPACE);
            let request = builder.patch(name, &PatchParams::default(), &Patch::Merge(&patch));
            self.api.send::<Value>(request.map_err(kube::Error::BuildRequest)?).await
        };
        match patch.await {
            Ok(_) => Ok(Written::Done),
            Err(ReadError::Request(kube::Error::Api(status))) if status.code == StatusCode::NOT_FOUND => {
                Ok(Written::Conflict)
            }
            Err(error) => Err(one_line(&error.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_has_what_kubectl_describe_looks_for_and_what_the_api_server_demands() {
        let note = "é".repeat(NOTE_LENGTH);
        let long = format!("{}.-b", "a".repeat(NAME_LENGTH - 2));
        let event = NodeEvent {
            node: &long,
            uid: "uid-1",
            action: "DenyOutOfService",
            reason: "NodeStillReady",
            is_warning: true,
            note: &note,
            at: "2026-11-22T10:15:00Z".parse().unwrap(),
            instance: "fencegate-1",
        };
        let stored = serde_json::to_value(event.stored()).unwrap();
        assert_eq!(stored["metadata"]["namespace"], "default");
        assert_eq!(stored["regarding"], json!({"apiVersion": "v1", "kind": "Node", "name": long, "uid": "uid-1"}));
        assert_eq!(stored["type"], "Warning");
        assert_eq!(stored["eventTime"], "2026-11-22T10:15:00.000000Z");
        assert_eq!(stored["note"].as_str().unwrap().len(), NOTE_LENGTH);
        let name = stored["metadata"]["name"].as_str().unwrap();
        assert!(name.starts_with(&format!("{}.1", "a".repeat(NAME_LENGTH - 2))), "{name}");
        assert!(name.len() <= 253 && check_name(name).is_ok());
    }
}
