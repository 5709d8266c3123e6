//! VolumeAttachments, PersistentVolumes, and the claims that they are bound to.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};

use crate::policy::{
    json::{first_texts, null_is_default, object_or_null, readable_time},
    text::Foreign,
};

/// A VolumeAttachment: while the object exists, the volume counts as attached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeAttachment {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: AttachmentMetadata,
    #[serde(deserialize_with = "object_or_null")]
    pub spec: VolumeAttachmentSpec,
    /// Told, never judged.
    #[serde(deserialize_with = "object_or_null")]
    pub status: VolumeAttachmentStatus,
}

/// `metadata` of a VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct AttachmentMetadata {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
    /// Since when the volume is to be detached. Told, never judged.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable_time")]
    pub deletion_timestamp: Option<Timestamp>,
    /// The first ones. Only whether there are any is judged.
    #[serde(deserialize_with = "first_finalizers", skip_serializing_if = "Vec::is_empty")]
    pub finalizers: Vec<String>,
}

/// `status` of a VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeAttachmentStatus {
    #[serde(deserialize_with = "null_is_default")]
    pub attached: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_error: Option<VolumeError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detach_error: Option<VolumeError>,
}

/// What the driver said when it last failed to attach or detach a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeError {
    /// Only its start: a driver's whole error can be very long.
    #[serde(deserialize_with = "start_of_text")]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "readable_time")]
    pub time: Option<Timestamp>,
}

/// `spec` of a VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeAttachmentSpec {
    /// The name of the CSI driver.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub attacher: String,
    #[serde(deserialize_with = "null_is_default")]
    pub node_name: String,
    #[serde(deserialize_with = "object_or_null")]
    pub source: VolumeAttachmentSource,
}

/// `spec.source` of a VolumeAttachment: without a PersistentVolume it is an inline volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VolumeAttachmentSource {
    pub persistent_volume_name: Option<String>,
    /// Told, never judged.
    #[serde(deserialize_with = "object_or_null", skip_serializing_if = "InlineVolume::is_unknown")]
    pub inline_volume_spec: InlineVolume,
}

/// `spec.source.inlineVolumeSpec` of a VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InlineVolume {
    #[serde(deserialize_with = "object_or_null")]
    pub csi: CsiHandle,
}

/// The `csi` part of a volume's source: how the driver calls the volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CsiHandle {
    #[serde(deserialize_with = "start_of_text")]
    pub volume_handle: String,
}

impl InlineVolume {
    fn is_unknown(&self) -> bool {
        self.csi.volume_handle.is_empty()
    }
}

impl VolumeAttachment {
    /// The name of the attached PersistentVolume. `None` for an inline volume.
    pub fn persistent_volume(&self) -> Option<&str> {
        self.spec.source.persistent_volume_name.as_deref().filter(|name| !name.is_empty())
    }

    /// Why the volume is not detached, or not even attached, as the driver last said.
    pub fn error(&self) -> Option<&VolumeError> {
        let VolumeAttachmentStatus { attached, attach_error, detach_error } = &self.status;
        detach_error.as_ref().or(attach_error.as_ref().filter(|_| !attached))
    }

    /// The order in which messages name attachments: those that do not go away by themselves come
    /// first, then by name.
    pub fn place_in_message(&self) -> (bool, &str) {
        (self.error().is_none(), &self.metadata.name)
    }
}

/// A PersistentVolume, with the claim that it is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistentVolume {
    #[serde(deserialize_with = "object_or_null")]
    pub metadata: ObjectName,
    #[serde(deserialize_with = "object_or_null")]
    pub spec: PersistentVolumeSpec,
}

/// `spec` of a PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistentVolumeSpec {
    pub claim_ref: Option<ClaimRef>,
    /// `None`: the volume is not a CSI driver's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csi: Option<CsiVolume>,
}

/// `spec.csi` of a PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiVolume {
    #[serde(deserialize_with = "null_is_default")]
    pub driver: String,
}

/// `spec.claimRef` of a PersistentVolume, and how a pod names a claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimRef {
    #[serde(deserialize_with = "null_is_default")]
    pub namespace: String,
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}

impl fmt::Display for ClaimRef {
    /// `namespace/name`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// A PersistentVolumeClaim, with the volume that it is bound to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistentVolumeClaim {
    #[serde(deserialize_with = "object_or_null")]
    pub spec: PersistentVolumeClaimSpec,
}

/// `spec` of a PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PersistentVolumeClaimSpec {
    /// The name of the PersistentVolume. Empty if the claim is not bound.
    #[serde(deserialize_with = "null_is_default")]
    pub volume_name: String,
}

/// `metadata` of an object, with the name only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ObjectName {
    #[serde(deserialize_with = "null_is_default")]
    pub name: String,
}

/// Parses as much of a text as a message can show, and one character more.
fn start_of_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let text: String = null_is_default(deserializer)?;
    Ok(Foreign::from(text).raw().to_owned())
}

fn first_finalizers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    /// More than a message names.
    const FIRST: usize = 100;
    first_texts(deserializer, FIRST)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json, to_value};

    use super::*;

    #[test]
    fn an_audit_line_has_an_inline_volume_only_where_there_is_one() {
        let written = |source: serde_json::Value| {
            let attachment: VolumeAttachment = from_value(json!({"spec": {"source": source}})).unwrap();
            to_value(attachment).unwrap()["spec"]["source"].clone()
        };
        let persistent = json!({"persistentVolumeName": "pv-1"});
        assert_eq!(written(persistent.clone()), persistent);
        let inline = json!({"inlineVolumeSpec": {"csi": {"volumeHandle": "vol-7"}}});
        assert_eq!(written(inline.clone())["inlineVolumeSpec"], inline["inlineVolumeSpec"]);
    }
}
