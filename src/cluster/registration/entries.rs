//! What a webhook configuration says about the gate: one entry that guards the taint, and one for
//! each of the other doors that is registered.

use jiff::Timestamp;
use k8s_openapi::{
    api::admissionregistration::v1::WebhookClientConfig,
    apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta},
};
use serde_json::Value;

use super::{DOORS_MANAGER, PATH_MANAGER, WEBHOOK, is_door};

/// The name of an entry, and how it is called.
pub(super) type Client = (String, WebhookClientConfig);

/// A webhook configuration as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    /// Of the entry that guards the taint. PEM; empty if it is not set.
    pub ca_bundle: Vec<u8>,
    /// Of the same entry.
    pub target: Target,
    /// The other doors that are registered.
    pub doors: Vec<Door>,
    /// Where `managedFields` says that the replicas own fields of doors, if it does.
    pub owned: Option<usize>,
    /// `metadata.resourceVersion`.
    pub version: String,
}

/// The entry of one of the other doors, as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Door {
    pub name: String,
    /// PEM; empty if it is not set.
    pub ca_bundle: Vec<u8>,
    pub target: Target,
}

/// What is to be written to the entry of a door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    pub name: String,
    /// PEM.
    pub ca_bundle: String,
    /// `None` leaves it to whoever owns it.
    pub path: Option<String>,
}

/// What API servers call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Url,
    Service {
        /// As API servers call it: `/` if it is not set.
        path: String,
        /// Whether it is the replicas' own, so that nobody else's manifests take it away.
        is_ours: bool,
        /// When a replica changed it, by the API server's clock. Whoever only takes a value over
        /// has no time in the managed fields.
        since: Option<Timestamp>,
    },
}

impl Configuration {
    /// `caBundle` of every entry, the one that guards the taint first.
    pub fn bundles(&self) -> impl Iterator<Item = &[u8]> {
        let doors = self.doors.iter().map(|door| door.ca_bundle.as_slice());
        std::iter::once(self.ca_bundle.as_slice()).chain(doors)
    }

    /// The target of every entry, in the same order.
    pub fn targets(&self) -> impl Iterator<Item = &Target> {
        std::iter::once(&self.target).chain(self.doors.iter().map(|door| &door.target))
    }
}

/// The gate's entries. `None` if none guards the taint.
pub(super) fn parse(metadata: &ObjectMeta, clients: Vec<Client>) -> Option<Configuration> {
    let (mut guard, mut doors) = (None, Vec::new());
    for (name, client) in clients {
        let is_guard = name == WEBHOOK;
        if !is_guard && !is_door(&name) {
            continue;
        }
        let manager = if is_guard { PATH_MANAGER } else { DOORS_MANAGER };
        let target = client.service.map_or(Target::Url, |service| {
            let (is_ours, since) = written_by(metadata, manager, &name);
            Target::Service { path: as_called(&service.path.unwrap_or_default()), is_ours, since }
        });
        let ca_bundle = client.ca_bundle.map(|bytes| bytes.0).unwrap_or_default();
        if is_guard {
            guard = Some((ca_bundle, target));
        } else {
            doors.push(Door { name, ca_bundle, target });
        }
    }
    let (ca_bundle, target) = guard?;
    let owned = metadata.managed_fields.iter().flatten().position(|entry| is_of(entry, DOORS_MANAGER));
    Some(Configuration {
        ca_bundle,
        target,
        doors,
        owned,
        version: metadata.resource_version.clone().unwrap_or_default(),
    })
}

/// The path that API servers call if this one is set.
fn as_called(path: &str) -> String {
    format!("/{}", path.trim_matches('/'))
}

fn is_of(entry: &ManagedFieldsEntry, manager: &str) -> bool {
    entry.manager.as_deref() == Some(manager)
}

/// Whether the path of this entry is the manager's own, and when a replica changed it. Whoever
/// writes another one takes the field over.
fn written_by(metadata: &ObjectMeta, manager: &str, name: &str) -> (bool, Option<Timestamp>) {
    let pointer = format!("/f:webhooks/k:{{\"name\":\"{name}\"}}/f:clientConfig/f:service/f:path");
    let owns_path = |entry: &&ManagedFieldsEntry| {
        let fields: Option<&Value> = entry.fields_v1.as_ref().map(|fields| &fields.0);
        is_of(entry, manager) && fields.is_some_and(|fields| fields.pointer(&pointer).is_some())
    };
    let entries = metadata.managed_fields.iter().flatten().filter(owns_path);
    let times: Vec<Option<Timestamp>> = entries.map(|entry| entry.time.as_ref().map(|time| time.0)).collect();
    (!times.is_empty(), times.into_iter().flatten().max())
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    /// An element of `managedFields` that owns a field of the Service of one entry.
    fn owner(manager: &str, entry: &str, field: &str) -> Value {
        let mut webhooks = json!({});
        webhooks[format!("k:{{\"name\":\"{entry}\"}}")] = json!({"f:clientConfig": {"f:service": {field: {}}}});
        json!({"manager": manager, "operation": "Apply", "time": "2026-11-30T10:15:00Z",
            "fieldsV1": {"f:webhooks": webhooks}})
    }

    #[test]
    fn the_path_was_written_when_its_owner_wrote_it() {
        let written_at = |entries: Value| {
            let metadata = from_value(json!({"managedFields": entries})).unwrap();
            let (is_ours, at) = written_by(&metadata, PATH_MANAGER, WEBHOOK);
            (is_ours, at.map(|at| at.to_string()))
        };
        let ours = owner(PATH_MANAGER, WEBHOOK, "f:path");
        let at = Some("2026-11-30T10:15:00Z".to_owned());
        assert_eq!(written_at(json!([owner("kubectl", WEBHOOK, "f:path"), ours.clone()])), (true, at));
        for other in [owner(PATH_MANAGER, WEBHOOK, "f:name"), owner(PATH_MANAGER, "nodes.fencegate.dev", "f:path")] {
            assert_eq!(written_at(json!([owner("kubectl", WEBHOOK, "f:path"), other])), (false, None));
        }
        let mut taken_over = ours;
        taken_over.as_object_mut().unwrap().remove("time");
        assert_eq!(written_at(json!([taken_over])), (true, None));
        for (path, called) in [("", "/"), ("/", "/"), ("/validate", "/validate"), ("/validate/", "/validate")] {
            assert_eq!(as_called(path), called);
        }
    }

    #[test]
    fn every_entry_of_the_gate_is_read_and_no_other() {
        let client = |name: &str, bundle: &str, path: &str| {
            let service = json!({"name": "fencegate", "namespace": "fencegate-system", "path": path});
            let bundle = k8s_openapi::ByteString(bundle.as_bytes().to_vec());
            (name.to_owned(), from_value(json!({"caBundle": bundle, "service": service})).unwrap())
        };
        let metadata = |fields: Value| from_value(json!({"resourceVersion": "7", "managedFields": fields})).unwrap();
        let entries = || {
            vec![
                client("nodes.fencegate.dev", "a", "/validate/1"),
                client("another.fencegate.dev", "b", "/validate/2"),
                client(WEBHOOK, "c", "/validate/3"),
                client("pods.fencegate.dev", "", ""),
            ]
        };
        let fields =
            json!([owner("kubectl", WEBHOOK, "f:name"), owner(DOORS_MANAGER, "nodes.fencegate.dev", "f:path")]);
        let read = parse(&metadata(fields), entries()).unwrap();
        assert_eq!((read.version.as_str(), read.owned), ("7", Some(1)));
        assert_eq!(read.bundles().collect::<Vec<_>>(), [b"c".as_slice(), b"a", b""]);
        let paths = read.targets().map(|target| match target {
            Target::Url => ("", false),
            Target::Service { path, is_ours, .. } => (path.as_str(), *is_ours),
        });
        assert_eq!(paths.collect::<Vec<_>>(), [("/validate/3", false), ("/validate/1", true), ("/", false)]);
        assert_eq!(parse(&metadata(json!([])), entries()).unwrap().owned, None);
        let without = entries().into_iter().filter(|(name, _)| name != WEBHOOK).collect();
        assert_eq!(parse(&metadata(json!([])), without), None);
    }
}
