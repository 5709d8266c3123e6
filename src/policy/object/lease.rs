//! A node's Lease, which the kubelet renews while it runs.
//!
//! `spec.renewTime` is written by the machine's own clock, which may be wrong by a day. When a
//! renewal happened is judged by the API server's clock: the time at which it stored the renewal.

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::policy::json::{kept_objects_if_any, object_or_null};

/// A node's Lease in the namespace `kube-node-lease`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: LeaseMetadata,
    #[serde(deserialize_with = "object_or_null")]
    pub spec: LeaseSpec,
}

/// `metadata` of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LeaseMetadata {
    /// Only entries that own `spec.renewTime`. `None` if the object has no managed fields at all,
    /// as kubectl prints it.
    #[serde(deserialize_with = "only_renewals", skip_serializing_if = "Option::is_none")]
    pub managed_fields: Option<Vec<ManagedFields>>,
}

/// One entry of `metadata.managedFields`: when a client wrote these fields, by the API server's
/// clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ManagedFields {
    pub time: Option<Timestamp>,
    #[serde(deserialize_with = "object_or_null")]
    pub fields_v1: LeaseFields,
}

/// The fields of a Lease that an entry owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseFields {
    #[serde(rename = "f:spec", deserialize_with = "object_or_null")]
    pub spec: LeaseSpecFields,
}

/// The fields of `spec` that an entry owns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaseSpecFields {
    #[serde(rename = "f:renewTime")]
    pub renew_time: Option<Owned>,
}

/// The mark of a field that an entry owns: `{}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owned {}

/// `spec` of a Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LeaseSpec {
    /// When the kubelet renewed the Lease, by the machine's own clock. `None`: the Lease was never
    /// renewed.
    pub renew_time: Option<Timestamp>,
    /// Seconds.
    pub lease_duration_seconds: Option<i32>,
}

impl Lease {
    /// When the API server stored the last renewal, by its own clock: the newest time of an entry
    /// that owns `spec.renewTime`. `None` if the Lease does not tell. The API server moves the time
    /// with every renewal, in whole seconds (measured on 1.30 and 1.37).
    pub fn renewed_at(&self) -> Option<Timestamp> {
        self.spec.renew_time?;
        self.metadata.managed_fields.iter().flatten().filter_map(|entry| entry.time).max()
    }

    /// The Lease as an API server would return it. kubectl leaves out the managed fields: then
    /// `spec.renewTime` takes the place of the time at which the renewal was stored.
    #[must_use]
    pub fn with_managed_fields(mut self) -> Self {
        let renewal = || ManagedFields {
            time: self.spec.renew_time,
            fields_v1: LeaseFields { spec: LeaseSpecFields { renew_time: Some(Owned {}) } },
        };
        self.metadata.managed_fields.get_or_insert_with(|| vec![renewal()]);
        self
    }
}

fn only_renewals<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<ManagedFields>>, D::Error> {
    let is_renewal = |entry: &ManagedFields| entry.fields_v1.spec.renew_time.is_some();
    kept_objects_if_any(deserializer, usize::MAX, |entry| Some(entry).filter(is_renewal))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn lease(managed_fields: &Value) -> Lease {
        let spec = json!({"renewTime": "2026-11-23T10:00:00Z"});
        serde_json::from_value(json!({"metadata": {"managedFields": managed_fields}, "spec": spec})).unwrap()
    }

    #[test]
    fn the_newest_entry_that_owns_the_renewal_tells_when_it_was_stored() {
        let owning = |time| json!({"time": time, "fieldsV1": {"f:spec": {"f:renewTime": {}, "f:holderIdentity": {}}}});
        let other = json!({"time": "2026-11-22T12:00:00Z", "fieldsV1": {"f:metadata": {"f:labels": {}}}});
        for (entries, stored) in [
            (json!([owning("2026-11-22T10:00:00Z"), other]), Some("2026-11-22T10:00:00Z")),
            (json!([owning("2026-11-22T10:00:00Z"), owning("2026-11-22T11:00:00Z")]), Some("2026-11-22T11:00:00Z")),
            (json!([{"fieldsV1": {"f:spec": {"f:renewTime": {}}}}]), None),
            (json!([other]), None),
            (json!([]), None),
            (Value::Null, None),
        ] {
            assert_eq!(lease(&entries).renewed_at(), stored.map(|time| time.parse().unwrap()), "{entries}");
        }
    }

    #[test]
    fn a_lease_that_was_never_renewed_tells_nothing() {
        let mut never = lease(&json!([{"time": "2026-11-22T10:00:00Z", "fieldsV1": {"f:spec": {"f:renewTime": {}}}}]));
        never.spec.renew_time = None;
        assert_eq!(never.renewed_at(), None);
    }

    #[test]
    fn without_managed_fields_the_renew_time_takes_their_place() {
        let printed = lease(&Value::Null).with_managed_fields();
        assert_eq!(printed.renewed_at(), Some("2026-11-23T10:00:00Z".parse().unwrap()));
        assert_eq!(lease(&json!([])).with_managed_fields().renewed_at(), None, "an empty list is an answer");
    }

    #[test]
    fn a_parsed_lease_keeps_its_shape() {
        let thin = json!({"metadata": {"managedFields": [{"time": "2026-11-22T10:00:00Z",
            "fieldsV1": {"f:spec": {"f:renewTime": {}}}}]},
            "spec": {"renewTime": "2026-11-23T10:00:00Z", "leaseDurationSeconds": 40}});
        let lease: Lease = serde_json::from_value(thin.clone()).unwrap();
        assert_eq!(serde_json::to_value(lease).unwrap(), thin);
    }
}
